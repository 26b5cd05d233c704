"""What the benchmarks share: interleaved timing, memory of a child process, a batch, a deletion, a table."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, run in turn A B C A B C ..., after one round that is not counted.

    In turn, since the speed of a machine that others use drifts by more than the differences that are looked for.
    """
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, str]:
    """Median of the ratios to `base` in the same round, with the least and the largest."""
    found = {}
    for name, values in seconds.items():
        each = sorted(v / b for v, b in zip(values, seconds[base], strict=True))
        found[name] = f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"
    return found


def child(*arguments: str) -> dict[str, Any]:
    """Run this script again with `arguments`: its last line as JSON, with `peak` and `anonymous` in GB.

    Peak is the largest resident size, mapped files included; anonymous is the largest size without them, sampled every
    10 ms. A child that fails gives `failed` with its last line, or its signal.
    """
    with subprocess.Popen(
        [sys.executable, sys.argv[0], *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        memory = {"VmHWM": 0, "RssAnon": 0}
        while process.poll() is None:
            for name, kilobytes in _status(process.pid).items():
                memory[name] = max(memory[name], kilobytes)
            time.sleep(0.01)
        out, err = process.communicate()
    if process.returncode:
        lines = err.strip().splitlines() or [f"killed by signal {-process.returncode}"]
        return {"failed": lines[-1]}
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return {
        **result,
        "peak": memory["VmHWM"] * 1024 / 1e9,
        "anonymous": memory["RssAnon"] * 1024 / 1e9,
    }


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "RssAnon")))
    return {name.rstrip(":"): int(value) for name, value, *_ in fields}


def warm(folder: str | Path) -> None:
    """Read the weights once, so that nothing waits for a disk."""
    for file in Path(folder).glob("*.safetensors"):
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass


def random_neurons(n_layers: int, d_mlp: int, n: int) -> Any:
    """`n` neurons anywhere in the model, seed 0."""
    import torch

    from tl_toxmem import NeuronSet

    draw = torch.Generator().manual_seed(0)
    flat = torch.randperm(n_layers * d_mlp, generator=draw)[:n].tolist()
    return NeuronSet(tuple(divmod(i, d_mlp) for i in flat), n_layers, d_mlp)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
