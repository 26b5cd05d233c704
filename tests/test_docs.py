"""The Python on README and in the tutorial runs as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tl_toxmem").symlink_to(ROOT / "tl_toxmem")  # README speaks of files in the clone
    session: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), session)
