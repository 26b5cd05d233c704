"""A small campaign of kills; `benchmarks/kill_campaign.py` is the large one, over all stages."""

import sys
from pathlib import Path

from small import SMALL

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def found(say):
    """The first stages of a run, and its deletion."""
    from tl_toxmem import run
    from tl_toxmem.config import make_config

    quick = {"select": {"k": 5, "cards": 1}, "trace": {**SMALL["trace"], "robustness": False}}
    attribute = {**SMALL["attribute"], "max_cost_tokens": 200}
    values = {"model": "demo", "out": "run", **SMALL, **quick, "attribute": attribute}
    run(make_config(values), until="delete", announce=say)


def test_killed_at_random_it_ends_in_the_same_bytes_and_leaves_nothing_else(tmp_path):
    from kill_campaign import campaign

    outcome = campaign(tmp_path, kills=6, seed=1, work=found)
    assert outcome.kills.total() == 6
    assert outcome.finished >= 1
    assert not outcome.differ and not outcome.orphans, outcome


def test_a_campaign_sees_what_is_lost(tmp_path):
    """Work that is not safe: what was written half is written on, and something is left behind."""
    from kill_campaign import campaign

    def careless(say):
        say("write")
        begun = Path("half").exists()
        with open("half", "a") as file:
            file.write("a")
        for i in range(3):
            Path(f"other{i}").write_text("b")
        if begun:
            Path("left").write_text("c")

    outcome = campaign(tmp_path, kills=10, seed=0, work=careless)
    assert outcome.kills.total() == 10
    assert "half" in outcome.differ and "left" in outcome.orphans
