"""The cost model against what a run really takes, stage by stage.

    python benchmarks/plan.py MODEL [--prompts FILE] [--benign FILE] [--scorer NAME] [--set KEY=VALUE ...]
        [--wall] [--only plan]

First the plan, then the run, each in a process of its own, with one thread and in seconds of the processor, which other
work on the machine changes little (`--wall`: by the clock, with as many threads as there are). Peak memory is reset at
the beginning of a stage, as Linux can. Settings are those of `tl-toxmem run`; the run goes to a folder that is removed.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import child, show

LEAST = 20.0
"""Seconds; what is shorter is not held against the plan."""
BOUND = 0.3


def main() -> None:
    """Both, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    for name in ("prompts", "benign", "scorer"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--wall", action="store_true", help="by the clock, all threads")
    parser.add_argument("--only", choices=("plan", "run"))
    parser.add_argument("--way", help=argparse.SUPPRESS)  # what the child process does
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args)))  # noqa: T201 - read by the parent
        return
    given = [args.model, *(f"--set={setting}" for setting in args.settings)]
    given += [
        f"--{n}={getattr(args, n)}" for n in ("prompts", "benign", "scorer") if getattr(args, n)
    ]
    given += ["--wall"] if args.wall else []
    ways = (args.only,) if args.only else ("plan", "run")
    found = {way: child(*given, "--way", way) for way in ways}
    for way, result in found.items():
        if "failed" in result:
            raise SystemExit(f"{way} failed: {result['failed']}")
    table(args.model, found)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak gigabytes by stage, of the plan or of the run."""
    import torch

    from tl_toxmem.cli.stages import gather

    if not args.wall:
        torch.set_num_threads(1)
    clock = time.perf_counter if args.wall else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        options = {"model": args.model, "out": str(Path(folder) / "run")}
        options |= {
            n: getattr(args, n) for n in ("prompts", "benign", "scorer") if getattr(args, n)
        }
        if "scorer" in options:
            options["scorer"] = [options["scorer"]]  # type: ignore[assignment]
        cfg = gather(None, options, args.settings)
        return planned(cfg, clock) if args.way == "plan" else run(cfg, clock)


def planned(cfg: Any, clock: Any) -> dict[str, Any]:
    """What the plan says."""
    from tl_toxmem.plan import plan_run

    start = clock()
    plan = plan_run(cfg, clock=clock)
    return {
        "seconds": {one.stage: 3600 * one.hours for one in plan.stages},
        "memory": {one.stage: one.memory / 1e9 for one in plan.stages},
        "operations": {one.stage: one.operations for one in plan.stages},
        "took": clock() - start,
    }


def run(cfg: Any, clock: Any) -> dict[str, Any]:
    """What the run takes."""
    from tl_toxmem.pipeline import run as run_all

    marks: list[tuple[str, float, float]] = []

    def mark(stage: str) -> None:
        marks.append((stage, clock(), peak()))
        Path("/proc/self/clear_refs").write_text("5")

    run_all(cfg, announce=mark)
    mark("end")
    pairs = list(zip(marks[:-1], marks[1:], strict=True))
    return {
        "seconds": {a[0]: b[1] - a[1] for a, b in pairs},
        "memory": {a[0]: b[2] for a, b in pairs},
    }


def peak() -> float:
    """Gigabytes, since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))


def table(model: str, found: dict[str, dict[str, Any]]) -> None:
    """The two beside each other."""
    plan, real = found.get("plan"), found.get("run")
    stages = list((plan or real or {})["seconds"])
    rows = []
    for stage in stages:
        cells = [stage]
        for name, unit in (("seconds", "s"), ("memory", "GB")):
            said, was = (None if one is None else one[name].get(stage) for one in (plan, real))
            cells += [f"{x:.2f} {unit}" if x is not None else "" for x in (said, was)]
            ratio = said / was if said and was else None
            cells.append("" if ratio is None else f"{ratio:.2f}")
        rows.append(cells)
    columns = ["stage", "planned", "measured", "ratio", "planned", "measured", "ratio"]
    took = f"; the plan took {plan['took']:.1f} s" if plan else ""
    show(f"plan and run of {model}{took}", columns, rows)
    if plan and real:
        long = {s: plan["seconds"][s] / t for s, t in real["seconds"].items() if t > LEAST}
        far = [s for s, ratio in long.items() if not 1 - BOUND <= ratio <= 1 + BOUND]
        words = f"over {LEAST:.0f} s: {', '.join(long)}; further off than 30 %: {', '.join(far) or 'none'}"
        print(words)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
