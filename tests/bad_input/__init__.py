"""Bad files and arguments by the hundred, one file for each family; see `test_bad_input.py`."""

from bad_input import candidates, checkpoints, deletions, folders, prompts, settings
from bad_input.case import Case

FAMILIES = (prompts, candidates, settings, checkpoints, deletions, folders)
CASES: list[Case] = [case for family in FAMILIES for case in family.CASES]
