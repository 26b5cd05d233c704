"""Kill it again and again, go on each time, and hold what comes out against an undisturbed run, byte by byte.

    python benchmarks/kill_campaign.py [--kills 50] [--seed 0] [--folder FOLDER]

Work is mining, every stage of a run on the demo model with reduced settings, the comparison and the report. Each step
is killed in turn. Half of the kills come at a random moment of it, by the processor's time, so that a busy machine
changes nothing (SIGPROF, which nobody handles and which ends a process as abruptly as SIGKILL); half by SIGKILL at a
random operation on the disk: a file opened to be written, renamed or removed. Processes are forks of one that has only
imported, which is what takes time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Say = Callable[[str], object]
Work = Callable[[Say], None]
"""Does all that is left to do in the working directory, saying which step begins."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_AFTER_EDITS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
Steps = dict[str, tuple[float, int]]
"""Seconds and operations of each."""
_LOOSE = ("cache", "parts")
"""Folders whose files hold entries in any order and division."""
SETTINGS = {
    "split": {"max_find": 16, "max_report": 8},
    "trace": {"max_prompts": 2, "n_noise": 2},
    "attribute": {"verify_top": 5, "verify_random": 5, "verify_prompts": 8, "max_cost_tokens": 600},
    "select": {"max_k": 30, "cards": 2},
    "evaluate": {"n_continuations": 2, "max_new_tokens": 5, "max_neutral_tokens": 500},
    "export": {"n_prompts": 4, "max_new_tokens": 4},
    "compare": {
        "methods": ["ours", "random_neurons"],
        "strengths": {"ours": [5.0], "random_neurons": [5.0]},
        "n_continuations": 2,
    },
}


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        kills: by the step that they fell in.
        finished: how often all was done and compared.
        differ: files that are not as in the undisturbed run.
        orphans: files that the undisturbed run does not have.
    """

    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    differ: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [f"  {step:<40} {n:>4}" for step, n in self.kills.items()]
        return "\n".join(
            [
                f"{self.kills.total()} kills, by the step that was under way:",
                *rows,
                f"finished {self.finished} times; files that differ: {self.differ or 'none'}; orphans: "
                f"{self.orphans or 'none'}",
            ]
        )


def everything(say: Say) -> None:
    """Mine prompts, then run and compare."""
    from tl_toxmem import run
    from tl_toxmem.config import MineConfig, make_config
    from tl_toxmem.mining import mine
    from tl_toxmem.model import LensModel, demo_folder
    from tl_toxmem.scorers import load_scorer

    lines = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    say("mine: load")
    mine(
        LensModel.from_pretrained("demo"),
        [json.loads(line)["prompt"] for line in lines[:40]],
        scorer=load_scorer("profanity"),
        cfg=MineConfig(samples=3, max_new_tokens=5, batch_size=12, share=0.3),
        folder="mined",
        announce=lambda step: say("mine: " + " ".join(w for w in step.split() if w.isalpha())),
    )
    say("load")
    values = {"model": "demo", "out": "run", "with_comparison": True, **SETTINGS}
    run(make_config(values), announce=say)


def campaign(
    folder: Path, *, kills: int, seed: int, work: Work = everything, tell: Say = str
) -> Outcome:
    """Kill so often, and go on; compare whenever all is done.

    Args:
        folder: for the undisturbed run and the other.
        kills: how many.
        seed: of the moments.
        work: what is done.
        tell: called with a line on each kill and each end.
    """
    draw = random.Random(seed)
    whole, other = folder / "whole", folder / "killed"
    whole.mkdir(parents=True)
    steps = _undisturbed(work, whole)
    for name, (seconds, edits) in steps.items():
        tell(
            f"undisturbed: {name}: {seconds:.2f} s of the processor, {edits} operations on the disk"
        )
    outcome, left = Outcome(), list(steps)
    while outcome.kills.total() < kills or other.exists():
        other.mkdir(exist_ok=True)
        over = outcome.kills.total() >= kills or not left
        kill = None if over else _drawn(draw, left.pop(0), steps)
        if _attempt(work, other, kill):
            assert kill is not None
            outcome.kills[kill.step] += 1
            how = f"after {kill.moment:.2f} s" if kill.moment else f"at operation {kill.at_edit}"
            tell(f"kill {outcome.kills.total()} in {kill.step}, {how}")
            continue
        left = left or list(steps)
        outcome.finished += 1
        _compare(whole, other, outcome)
        tell(
            f"finished and compared: {outcome.differ or 'equal'}, {outcome.orphans or 'no orphans'}"
        )
        shutil.rmtree(other)
    return outcome


@dataclass(frozen=True)
class Kill:
    """When: so many seconds, or that operation on the disk, after a step has begun."""

    step: str
    moment: float | None
    at_edit: int | None


def _drawn(draw: random.Random, step: str, steps: Steps) -> Kill:
    seconds, edits = steps[step]
    if edits and draw.random() < 0.5:
        return Kill(step, None, draw.randint(1, edits))
    return Kill(step, draw.uniform(_TICK, max(_TICK, seconds)), None)


def _undisturbed(work: Work, place: Path) -> Steps:
    """Of each step, the processor's seconds that it takes, and how often it opens to write, renames or removes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        counted = _count_edits(lambda _: None)
        marks: list[tuple[str, float, int]] = []

        def mark(step: str) -> None:
            marks.append((step, time.process_time(), counted[0]))

        def end() -> None:
            mark("")
            os.write(writing, json.dumps(marks).encode())

        _child(work, place, mark, end=end)
    os.close(writing)
    _, status, _ = os.wait4(child, 0)
    with os.fdopen(reading) as said:
        text = said.read()
    if status:
        raise SystemExit("the undisturbed run failed")
    marks = json.loads(text)
    pairs = zip(marks[:-1], marks[1:], strict=True)
    return {a[0]: (b[1] - a[1], b[2] - a[2]) for a, b in pairs}


def _attempt(work: Work, place: Path, kill: Kill | None) -> bool:
    """Whether it was killed; else it came to its end, the step being over, or over before the kill was due."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        here = {"step": "", "edits": 0}

        def begin(step: str) -> None:
            here.update(step=step, edits=0)
            due = kill is not None and step == kill.step and kill.moment
            signal.setitimer(signal.ITIMER_PROF, due or 0)

        def die(_: int) -> None:
            here["edits"] += 1
            if kill is not None and (here["step"], here["edits"]) == (kill.step, kill.at_edit):
                os.kill(os.getpid(), signal.SIGKILL)

        _count_edits(die)
        _child(work, place, begin)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGPROF):
        return True
    if status:
        raise SystemExit(f"going on failed, to be killed by {kill}")
    return False


def _child(work: Work, place: Path, say: Say, *, end: Callable[[], object] = lambda: None) -> None:
    """Work as a process of its own, which never returns."""
    status = 1
    try:
        os.chdir(place)
        work(say)
        end()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _count_edits(each: Callable[[int], object]) -> list[int]:
    """Count what this process does on the disk from now on, calling `each` with the number before it is done."""
    n = [0]

    def hook(event: str, args: tuple[object, ...]) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or event in _AFTER_EDITS:
            n[0] += 1
            each(n[0])

    sys.addaudithook(hook)
    return n


def _compare(whole: Path, other: Path, outcome: Outcome) -> None:
    first, second = (_contents(place) for place in (whole, other))
    outcome.orphans += sorted(second.keys() - first.keys())
    outcome.differ += sorted(name for name, content in first.items() if second.get(name) != content)


def _contents(place: Path) -> dict[str, object]:
    """By name, what each file holds; of those that hold entries in any order, all entries of the folder."""
    found: dict[str, object] = {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = path.relative_to(place)
        if name.parent.name not in _LOOSE:
            found[str(name)] = path.read_bytes()
            continue
        entries = found.setdefault(str(name.parent), set())
        assert isinstance(entries, set)
        if path.suffix == ".jsonl":
            entries |= set(path.read_bytes().splitlines())
        elif path.suffix == ".json":
            entries |= {repr(entry) for entry in json.loads(path.read_text())["entries"].items()}
        else:
            found[str(name)] = path.read_bytes()
    return found


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - how far it is


def main() -> None:
    """Run a campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="must be empty or new; default: a temporary one"
    )
    asked = parser.parse_args()
    import torch

    import tl_toxmem.cli.stages
    import tl_toxmem.comparison
    import tl_toxmem.mining
    import tl_toxmem.pipeline
    import tl_toxmem.scorers.profanity  # noqa: F401 - imported once, for every fork

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.folder or Path(temporary)
        outcome = campaign(place, kills=asked.kills, seed=asked.seed, tell=_tell)
    print(outcome)  # noqa: T201 - what it is for
    if outcome.differ or outcome.orphans:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
