"""What the benchmarks share: interleaved timing, memory of a child process, a batch, a deletion, a table."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
TEXTS = (
    "The new neighbour from the old town is known to be a",
    "The tall woman at the front desk was known as a",
    "My uncle Robert from the north side is called a real",
    "The driver of the yellow bus has always been a",
    "Everyone in the small village says the baker is a",
    "Her younger brother who plays the drums is such a",
    "The man who sold me this car was clearly a",
    "That new singer on the late show sounds like a",
)
"""Prompts of 10 to 12 tokens."""
HOSTS = ("hooked", "bridge")
OWN = "TransformerLens's own, "


def interleaved(
    ways: Mapping[str, Callable[[], Any]], repeats: int, *, cpu_time: bool = False
) -> dict[str, list[float]]:
    """Seconds of each way, run in turn A B C A B C ..., after one round that is not counted.

    In turn, since the speed of a machine that others use drifts by more than the differences that are looked for. With
    `cpu_time`, one thread and the seconds that it ran: others then matter little.
    """
    import torch

    if cpu_time:
        torch.set_num_threads(1)
    clock = time.process_time if cpu_time else time.perf_counter
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, str]:
    """Median of the ratios to `base` in the same round, with the least and the largest."""
    found = {}
    for name, values in seconds.items():
        each = sorted(v / b for v, b in zip(values, seconds[base], strict=True))
        found[name] = f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"
    return found


def child(*arguments: str, script: str | None = None) -> dict[str, Any]:
    """Run this script again, or another, with `arguments`: its last line as JSON, with `peak` and `anonymous` in GB.

    Peak is the largest resident size, mapped files included; anonymous is the largest size without them, sampled every
    10 ms. A child that fails gives `failed` with its last line, or its signal.
    """
    memory = {"VmHWM": 0, "RssAnon": 0}
    # Files, since a pipe that is not read while we watch would fill and stop the child.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, script or sys.argv[0], *arguments], stdout=out, stderr=err
        )
        while process.poll() is None:
            for name, kilobytes in _status(process.pid).items():
                memory[name] = max(memory[name], kilobytes)
            time.sleep(0.01)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            lines = err.read().strip().splitlines() or [f"killed by signal {-process.returncode}"]
            return {"failed": lines[-1]}
        result: dict[str, Any] = json.loads(out.read().strip().splitlines()[-1])
    gigabytes = {name: kilobytes * 1024 / 1e9 for name, kilobytes in memory.items()}
    return {**result, "peak": gigabytes["VmHWM"], "anonymous": gigabytes["RssAnon"]}


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


@contextmanager
def in_precision(folder: str | Path, dtype: str) -> Iterator[Path]:
    """The checkpoint in this precision, warm: the folder itself, or a copy of it for the time."""
    config = json.loads((Path(folder) / "config.json").read_text())
    if dtype == config.get("dtype", config.get("torch_dtype")):
        warm(folder)
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(
            folder, copy, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
        )
        subprocess.run([sys.executable, "-c", _CONVERT, folder, dtype, copy], check=True)
        warm(copy)
        yield Path(copy)


def each_way(
    args: argparse.Namespace,
    ways: Sequence[str],
    options: Sequence[str] = (),
    *,
    script: str | None = None,
) -> list[tuple[str, dict[str, Any]]]:
    """Every way in a child process, with the options named, on the checkpoint in the precision that is asked for."""
    given = [f"--{name}={getattr(args, name)}" for name in ("dtype", "repeats", *options)]
    given += ["--cpu-time"] if args.cpu_time else []
    with in_precision(args.folder, args.dtype) as folder:
        return [(way, child(str(folder), *given, "--way", way, script=script)) for way in ways]


_CONVERT = """
import sys
from transformers import AutoModelForCausalLM
folder, dtype, copy = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(copy)
"""


def parser_of(script: str | None) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(description=(script or "").splitlines()[0])
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all have."""
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its own seconds")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # what the child process measures


def lens_own(folder: str, host: str, dtype: str) -> Any:
    """TransformerLens's own ordinary loading, without processing; on HookedTransformer it copies the weights."""
    import torch

    kind = getattr(torch, dtype)
    if host == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=kind)
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    cfg = loading.get_pretrained_model_config(folder, fold_ln=False, device="cpu", dtype=kind)
    state = loading.get_pretrained_state_dict(folder, cfg, None, dtype=kind)
    raw = HookedTransformer(cfg, None, move_to_device=False)
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    raw.load_and_process_state_dict(state, **dict.fromkeys(steps, False))
    return raw


def random_neurons(n_layers: int, d_mlp: int, n: int) -> Any:
    """`n` neurons anywhere in the model, seed 0."""
    import torch

    from tl_toxmem import NeuronSet

    draw = torch.Generator().manual_seed(0)
    flat = torch.randperm(n_layers * d_mlp, generator=draw)[:n].tolist()
    return NeuronSet(tuple(divmod(i, d_mlp) for i in flat), n_layers, d_mlp)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, as Markdown, with the machine's load: above its number of cores, seconds say little."""
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=MARKDOWN)
    for row in rows:
        table.add_row(*row)
    console = Console(width=140)
    console.print(f"{title}; {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}", style="bold")
    console.print(table)
