"""The report: a run folder as one self-contained HTML page that opens offline.

Sections are made of blocks (`blocks.py`) of plain values; the template alone writes HTML, and escapes all of them. Text
from prompts and models is masked, and kept apart from the page's search and source (`masked.py`). No model code is run.
"""

from tl_toxmem.report.page import write_report

__all__ = ["write_report"]
