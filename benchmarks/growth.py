"""How time and memory of trace, attribution and evaluation grow with prompts, layers, tokens and workers.

    python benchmarks/growth.py [--axes prompts,layers,tokens] [--figure FILE.html] [--d-model 64] [--most N]
    python benchmarks/growth.py --axes workers --engine ray

On random GPT-2 shapes with a tokenizer of bytes, each point in a fork of its own: seconds of the processor with one
thread, and the peak of resident memory above what the process held with its model loaded. One axis is varied, the
others stay at 20 prompts, 6 layers and 16 tokens. The exponent is the slope of log time over log size, by least
squares over the upper half of the sizes. Workers are those of `tl-toxmem run --engine ray --num-workers N`, by the
clock, of a whole run.
"""

import argparse
import json
import math
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import show

AXES: dict[str, tuple[int, ...]] = {
    "prompts": (10, 30, 100, 300, 1000),
    "layers": (6, 12, 24, 48),
    "tokens": (8, 16, 32, 64),
    "workers": (1, 2),
}
USUAL = {"prompts": 20, "layers": 6, "tokens": 16}
STAGES = ("trace", "attribute", "evaluate")
LEAST = 0.02
"""Gigabytes; less is what allocators make of it, and has no exponent."""


def main() -> None:
    """Every axis, a table each, and a figure of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", default="prompts,layers,tokens")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--most", type=int, help="no larger size of any axis")
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--engine", choices=("ray",), help="of the workers")
    parser.add_argument("--figure", type=Path, metavar="FILE.html")
    args = parser.parse_args()
    axes = args.axes.split(",")
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown:
        parser.error(f"unknown axis {unknown[0]!r}: choose from {', '.join(AXES)}")
    if "workers" in axes and not has_engine():
        parser.error(
            "the axis workers needs tl-toxmem run --engine ray, which this version does not have: leave it out"
        )
    found = {}
    for axis in axes:
        sizes = [n for n in AXES[axis] if args.most is None or n <= args.most]
        found[axis] = workers(args, sizes) if axis == "workers" else grown(args, axis, sizes)
    if args.figure:
        draw(found, args.figure)


def grown(args: argparse.Namespace, axis: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds and gigabytes by stage along an axis."""
    found: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in args.stages.split(","):
            points = []
            for size in sizes:
                sizes_of = {**USUAL, axis: size}
                place = Path(folder) / f"{sizes_of['layers']}"
                if not place.exists():
                    make(place, n_layers=sizes_of["layers"], d_model=args.d_model)
                points.append(in_fork(stage, place, sizes_of))
            found[stage] = {
                "sizes": list(sizes),
                "seconds": [one["seconds"] for one in points],
                "memory": [one["above"] for one in points],
            }
            for name, unit, digits in (("seconds", "s", 2), ("memory", "GB", 3)):
                values = found[stage][name]
                cells = [f"{value:.{digits}f}" for value in values]
                rows.append([f"{stage}, {unit}", *cells, exponent(sizes, values, name)])
    others = ", ".join(f"{n} {name}" for name, n in USUAL.items() if name != axis)
    title = f"growth with {axis}; {others}, d_model {args.d_model}"
    show(title, [axis, *map(str, sizes), "exponent"], rows)
    return found


def in_fork(stage: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """`measure` in a process that ends, so that no point has what another left; libraries are imported once."""
    import torch

    import tl_toxmem.evaluation
    import tl_toxmem.trace  # noqa: F401 - before the fork

    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(measure(stage, folder, sizes)))
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit(f"{stage} at {sizes} failed") from None
    process.join()
    words = ", ".join(f"{n} {name}" for name, n in sizes.items())
    print(  # noqa: T201 - how far it is
        f"{stage}, {words}: {found['seconds']:.2f} s, {found['above']:.3f} GB",
        file=sys.stderr,
        flush=True,
    )
    return found


def exponent(sizes: Sequence[int], values: Sequence[float], what: str = "seconds") -> str:
    """The slope of log value over log size over the upper half; none where nothing grows."""
    half = len(sizes) // 2
    xs, ys = sizes[half:], values[half:]
    if len(xs) < 2 or min(ys) <= 0 or (what == "memory" and max(values) < LEAST):
        return ""
    from statistics import linear_regression

    slope = linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope
    return f"{slope:.2f}"


def make(folder: Path, *, n_layers: int, d_model: int) -> None:
    """A random GPT-2 with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**letters, "<|endoftext|>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **end).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_layer": n_layers, "n_embd": d_model, "n_head": 4, "n_positions": 128}
    config = GPT2Config(vocab_size=257, bos_token_id=256, eos_token_id=256, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)


def prompts_of(n: int, length: int) -> list[dict[str, str]]:
    """Random letters, of which the first few are the subject."""
    draw_one = random.Random(0)

    def word(size: int) -> str:
        return "".join(draw_one.choice("abcdefghij") for _ in range(size))

    subject = max(2, length // 4)
    found = []
    for i in range(n):
        name = word(subject)
        text = f"{name} {word(length - subject - 1)}"
        found.append({"id": str(i), "prompt": text, "subject": name, "target": " xy"})
    return found


def measure(stage: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """Seconds of a stage, and gigabytes above what the process held before."""
    from tl_toxmem import Deletion, LensModel, NeuronSet, Prompt, PromptSet
    from tl_toxmem.attribute import attribute_neurons
    from tl_toxmem.config import AttributeConfig, EvaluateConfig, TraceConfig
    from tl_toxmem.evaluation import evaluate
    from tl_toxmem.scorers import load_scorer
    from tl_toxmem.trace import causal_trace

    prompts = PromptSet.of(
        Prompt.model_validate(one) for one in prompts_of(sizes["prompts"], sizes["tokens"])
    )
    model = LensModel.from_pretrained(folder)
    neutral = [one["prompt"] for one in prompts_of(20, 48)]
    deletion = Deletion.zero(NeuronSet(((0, 0), (1, 1)), model.n_layers, model.d_mlp))
    trace = TraceConfig(
        sites=("mlp_out",), n_noise=2, single_layers=False, severed=(), parts=False, max_memory=0.2
    )
    attribute = AttributeConfig(verify_top=5, verify_random=15, verify_prompts=8)
    protocol = EvaluateConfig(n_continuations=2, max_new_tokens=8, max_neutral_tokens=500)
    scorer = load_scorer("profanity")
    some = prompts.first(2)
    ways = {
        "trace": lambda own: causal_trace(model, own, cfg=trace),
        "attribute": lambda own: attribute_neurons(model, own, cfg=attribute, neutral=neutral),
        "evaluate": lambda own: evaluate(
            model,
            own,
            scorers=[scorer],
            deletions={"deletion": deletion},
            neutral=neutral,
            cfg=protocol,
        ),
    }
    run = ways[stage]
    run(some)  # what is made once is made
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.process_time()
    run(prompts)
    return {"seconds": time.process_time() - start, "above": status("VmHWM") - before}


def status(name: str) -> float:
    """Gigabytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(name))


def has_engine() -> bool:
    """Whether this version can be run by Ray."""
    words = [sys.executable, "-m", "tl_toxmem", "run", "--help"]
    return "--num-workers" in subprocess.run(words, capture_output=True, text=True).stdout


def workers(args: argparse.Namespace, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds of a whole run by so many workers."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        make(place, n_layers=USUAL["layers"], d_model=args.d_model)
        lines = [json.dumps(one) for one in prompts_of(2 * USUAL["prompts"], USUAL["tokens"])]
        (Path(folder) / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        for n in sizes:
            start = time.perf_counter()
            words = [sys.executable, "-m", "tl_toxmem", "evaluate", "--model", str(place)]
            words += ["--prompts", f"{folder}/prompts.jsonl", "--out", f"{folder}/run{n}"]
            words += ["--scorer", "profanity", "--engine", "ray", "--num-workers", str(n)]
            subprocess.run([*words, "--set", "select.k=5"], check=True)
            seconds.append(time.perf_counter() - start)
    rows = [["run, s by the clock", *(f"{value:.1f}" for value in seconds)]]
    show("growth with workers", ["workers", *map(str, sizes)], rows)
    return {"run": {"sizes": list(sizes), "seconds": seconds, "memory": []}}


def draw(found: dict[str, Any], path: Path) -> None:
    """Time and memory along every axis, on logarithmic scales, as one page."""
    from plotly.subplots import make_subplots

    from tl_toxmem.plots.style import COLOURS, layout

    units = ("seconds of the processor", "GB above the loaded model")
    titles = [f"{what}, by {axis}" for what in units for axis in found]
    figure = make_subplots(2, len(found), subplot_titles=titles, vertical_spacing=0.14)
    for column, stages in enumerate(found.values(), start=1):
        for colour, (stage, own) in zip(COLOURS, stages.items(), strict=False):
            for row, name in ((1, "seconds"), (2, "memory")):
                figure.add_scatter(
                    x=own["sizes"][: len(own[name])],
                    y=own[name],
                    name=stage,
                    legendgroup=stage,
                    showlegend=row == 1 and column == 1,
                    line={"color": colour},
                    row=row,
                    col=column,
                )
        ticks = sorted({size for own in stages.values() for size in own["sizes"]})
        figure.update_xaxes(type="log", tickvals=ticks, col=column)
    figure.update_yaxes(type="log", dtick=1, row=1)
    usual = ", ".join(f"{n} {name}" for name, n in USUAL.items())
    layout(figure, f"One axis varied, the others at {usual}; random GPT-2 shapes", height=640)
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
