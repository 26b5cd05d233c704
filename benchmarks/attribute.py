"""Neuron attribution against a loop on plain transformers and against captum: time, agreement, memory.

    python benchmarks/attribute.py FOLDER [--steps 20] [--neurons 50] [--layers 4] [--forwards 40] [--repeats 1]

Each host and task runs in a process of its own, where ours and the others share one copy of the weights. In a round
half of the others' pieces run, then ours, then the other half; times and ratios are medians over the rounds. The tasks:

- `gradient`: gradient x activation of every neuron of one prompt, with the process's largest resident size.
- `integrated_gradients`: all layers, all positions, the target's log-probability. The plain loop has one full forward
  and backward pass of plain transformers per layer and step; captum puts a layer's steps into one batch.
- `knowledge_neurons`: only the positions that predict the target, its probability. The plain loop too puts a layer's
  steps into one batch, as EleutherAI's knowledge-neurons does.
- `ablations`: neurons anywhere in the model to zero, on one prompt and on eight. The plain loop has one full forward
  pass per neuron and prompt.

Differences are shares of the largest score, for ablations nats (of the largest effect). With `--layers` the others run
so many layers, spread evenly, with `--forwards` about so many ablations, and their time for all is extrapolated: a
layer's is linear in its depth, an ablation's always the same. On a machine that others use too `--cpu-time` tells
more: waiting for another core slows small products the most, of which the plain loops are made.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from common import HOSTS, TEXTS, each_way, parser_of, random_neurons, ratios, show

TASKS = ("gradient", "integrated_gradients", "knowledge_neurons", "ablations")
OURS, PLAIN, CAPTUM = "ours", "plain loop", "captum"


def main() -> None:
    """Measure every host and task and print the table."""
    parser = parser_of(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--hosts", default=",".join(HOSTS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=50)
    parser.add_argument("--layers", type=int, default=0, help="of the others; 0: all")
    parser.add_argument("--forwards", type=int, default=0, help="of the plain ablations; 0: all")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    ways = [f"{host} {task}" for host in args.hosts.split(",") for task in args.tasks.split(",")]
    rows, title = [], args.folder
    for way, found in each_way(args, ways, ("steps", "neurons", "layers", "forwards")):
        host, task = way.split()
        if "failed" in found:
            rows.append([host, task, found["failed"], *[""] * 6])
            continue
        title = found["title"]
        peak = f"{found['peak']:.2f}" if task == "gradient" else ""
        rows += [[host, *row, peak] for row in found["rows"]]
    columns = ["host", "what", "s", "plain s", "ratio", "captum s", "ratio", "largest difference"]
    show(title, [*columns, "peak GB"], rows)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run one task on one host."""
    import torch

    from tl_toxmem import LensModel, Prompt, PromptSet
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.tokens import align

    host, task = args.way.split()
    if args.cpu_time:
        torch.set_num_threads(1)
    model = LensModel.from_pretrained(args.folder, host=host, dtype=getattr(torch, args.dtype))
    every = PromptSet.of(Prompt(prompt=text, target=" fool") for text in TEXTS)
    one, items = PromptSet.of(every.prompts[:1]), align(model, every)

    def score(method: str) -> Any:
        return METHODS[method](model, one, cfg=AttributeConfig(steps=args.steps)).scores

    if task == "gradient":
        spent = [_run([lambda: score(task)], args)[0] for _ in range(args.repeats)]
        rows = [_row("gradient", {OURS: spent}, "")]
    elif task == "ablations":
        rows = [_ablations(model, prompts, args) for prompts in (one, every)]
    else:
        score("gradient")  # the first run of anything takes longer
        rows = [_paths(model, items[0], task, lambda: score(task), args)]
    lengths = [len(item.full) for item in items]
    title = (
        f"prompts of {min(lengths)} to {max(lengths)} tokens, {model.n_layers} layers, {args.dtype}, {args.steps} "
        f"steps, {args.neurons} neurons"
    )
    if args.layers or args.forwards:
        some = f"{args.layers or 'all'} layers, {args.forwards or 'all'} ablations"
        title += f"; plain loops and captum extrapolated from {some}"
    return {"rows": rows, "title": title}


def _paths(
    model: Any, item: Any, task: str, ours: Callable[[], Any], args: argparse.Namespace
) -> list[str]:
    """A row: a path integral against the plain loop and captum."""
    n = min(args.layers or model.n_layers, model.n_layers)
    layers = [int((i + 0.5) * model.n_layers / n) for i in range(n)]
    plain = _Plain(model.clean_hf(), item)
    whole = task == "integrated_gradients"
    others: dict[str, Sequence[Callable[[], Any]]] = {
        PLAIN: [lambda at=at: plain.integrate(at, args.steps, whole=whole) for at in layers],
        CAPTUM: [lambda at=at: plain.captum(at, args.steps, whole=whole) for at in layers],
    }
    found, seconds, expected = _compare(ours, others, args, share=n / model.n_layers)
    largest = max(
        float((found[at] - value).abs().max())
        for values in expected.values()
        for at, value in zip(layers, values, strict=True)
    )
    return _row(task, seconds, f"{largest / float(found.abs().max()):.0e}")


def _ablations(model: Any, prompts: Any, args: argparse.Namespace) -> list[str]:
    """A row: measured ablations against one full forward pass each."""
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.tokens import align

    neurons = random_neurons(model.n_layers, model.d_mlp, args.neurons).neurons
    hf = model.clean_hf()
    plains = [_Plain(hf, item) for item in align(model, prompts)]
    pairs = [(i, p) for i in range(len(neurons)) for p in range(len(plains))]
    chosen = random.Random(0).sample(pairs, min(args.forwards or len(pairs), len(pairs)))
    others = {PLAIN: [lambda i=i, p=p: plains[p].ablate(*neurons[i]) for i, p in chosen]}
    measure_ablations(model, prompts, neurons[:1])
    share = len(chosen) / len(pairs)
    found, seconds, expected = _compare(
        lambda: measure_ablations(model, prompts, neurons), others, args, share=share
    )
    values = zip(chosen, expected[PLAIN], strict=True)
    largest = max(abs(float(found[at]) - value) for at, value in values)
    what = f"{len(neurons)} ablations x {len(plains)}"
    return _row(what, seconds, f"{largest:.0e} (of {float(found.abs().max()):.0e})")


def _compare(
    ours: Callable[[], Any],
    others: Mapping[str, Sequence[Callable[[], Any]]],
    args: argparse.Namespace,
    *,
    share: float,
) -> tuple[Any, dict[str, list[float]], dict[str, list[Any]]]:
    """What ours gives, seconds by way and round, and what each piece of the others gives.

    Every other piece runs before ours and the rest after it, since the speed of a machine that others use drifts.
    """
    seconds: dict[str, list[float]] = {way: [] for way in (OURS, *others)}
    for _ in range(args.repeats):
        before = {way: _run(pieces[::2], args) for way, pieces in others.items()}
        spent, (found,) = _run([ours], args)
        seconds[OURS].append(spent)
        expected = {}
        for way, pieces in others.items():
            spent, rest = _run(pieces[1::2], args)
            seconds[way].append((before[way][0] + spent) / share)
            values = [None] * len(pieces)
            values[::2], values[1::2] = before[way][1], rest
            expected[way] = values
    return found, seconds, expected


def _run(pieces: Sequence[Callable[[], Any]], args: argparse.Namespace) -> tuple[float, list[Any]]:
    """Seconds of all pieces together, and what they give."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    start = clock()
    values = [piece() for piece in pieces]
    return clock() - start, values


def _row(what: str, seconds: Mapping[str, Sequence[float]], difference: str) -> list[str]:
    ratio = ratios(seconds, OURS)
    row = [what, f"{statistics.median(seconds[OURS]):.2f}"]
    for way in (PLAIN, CAPTUM):
        known = way in seconds
        row += [f"{statistics.median(seconds[way]):.1f}", ratio[way]] if known else ["", ""]
    return [*row, difference]


class _Plain:
    """One prompt on plain transformers, by forward pre-hooks on what reads the neurons (GPT-2 and Llama names)."""

    def __init__(self, hf: Any, item: Any) -> None:
        import torch

        self.hf = hf
        inner = getattr(hf, "transformer", None) or hf.model
        mlps = [block.mlp for block in getattr(inner, "h", None) or inner.layers]
        self.readers = [getattr(mlp, "c_proj", None) or mlp.down_proj for mlp in mlps]
        self.tokens, self.target = torch.tensor([item.full]), torch.tensor(item.target)
        self.first = len(item.tokens) - 1  # the first position that predicts a token of the target
        self.clean: dict[int, Any] = {}
        with torch.no_grad(), ExitStack() as stack:
            for at in range(len(self.readers)):
                keep = partial(self.clean.__setitem__, at)
                stack.enter_context(self.reading(at, keep))
            self.base = float(self.log_prob(1))

    def log_prob(self, rows: int) -> Any:
        """Of the whole target, in each of some rows."""
        logits = self.hf(self.tokens.expand(rows, -1)).logits[:, self.first :].float()
        wanted = self.target.expand(rows, -1)[..., None]
        return logits.log_softmax(-1).gather(-1, wanted)[..., 0].sum(-1)

    @contextmanager
    def reading(self, layer: int, change: Callable[[Any], Any]) -> Iterator[None]:
        """Let a layer read what `change` makes of its activations, or leave them where it gives None."""
        handle = self.readers[layer].register_forward_pre_hook(lambda _, inputs: change(inputs[0]))
        try:
            yield
        finally:
            handle.remove()

    def integrate(self, layer: int, steps: int, *, whole: bool) -> Any:
        """Scores of a layer: each step alone (`whole`), or the steps in a batch, the predicting positions only."""
        import torch

        own = self._scaled(layer, whole=whole)
        alphas = torch.tensor([(i + 0.5) / steps for i in range(steps)])
        total = torch.zeros_like(own[0])
        for some in alphas.split(1 if whole else steps):
            scaled = (some[:, None, None].to(own) * own).requires_grad_()
            value = self._value(layer, scaled, whole=whole).sum()
            total += torch.autograd.grad(value, scaled)[0].sum(0)
        return (own[0] * total / steps).sum(0).float()

    def captum(self, layer: int, steps: int, *, whole: bool) -> Any:
        """The same by captum."""
        from captum.attr import IntegratedGradients

        own = self._scaled(layer, whole=whole)
        method = IntegratedGradients(lambda scaled: self._value(layer, scaled, whole=whole))
        found = method.attribute(own, n_steps=steps, method="riemann_middle")
        return found[0].sum(0).float()

    def _scaled(self, layer: int, *, whole: bool) -> Any:
        return self.clean[layer][:, 0 if whole else self.first :]

    def _value(self, layer: int, scaled: Any, *, whole: bool) -> Any:
        """The target's log-probability (`whole`), or probability, where a layer's last activations are these."""
        import torch

        before = self.clean[layer][:, : -scaled.shape[1]].expand(len(scaled), -1, -1)
        state = torch.cat([before, scaled], 1)
        with self.reading(layer, lambda _: state):
            log_prob = self.log_prob(len(scaled))
        return log_prob if whole else log_prob.exp()

    def ablate(self, layer: int, neuron: int) -> float:
        """What setting a neuron to zero takes from the target, in nats."""
        import torch

        def zero(activation: Any) -> Any:
            changed = activation.clone()
            changed[..., neuron] = 0
            return changed

        with torch.no_grad(), self.reading(layer, zero):
            return self.base - float(self.log_prob(1))


if __name__ == "__main__":
    main()
