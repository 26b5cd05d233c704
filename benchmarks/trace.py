"""Causal trace against one full forward pass of plain transformers per cell: time, agreement, memory.

    python benchmarks/trace.py FOLDER [--prompts 8] [--ways exact,bfloat16,gradient] [--cells 60] [--file PROMPTS.jsonl]

Three sites (residual stream, MLP and attention in windows of 10), 10 noise draws, every token. The plain way is
ROME's: a batch of 11 for every cell, on the same weights. It runs `--cells` cells of the first prompt, drawn at random,
half of them before and half after ours; its time for all cells is extrapolated from them (0: all cells of it).
`operations` is the share of the machine's matrix-product peak, measured in the same run, that the operations reach
which an exact trace needs. With a screening, `found` says in how many panels its largest measured cell is the largest
of the exact trace, and Spearman compares all cells.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from common import HOSTS, TEXTS, child, in_precision, parser_of, show


def main() -> None:
    """Measure every host and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--ways", default="exact")
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--verify-top", type=int, default=10)
    parser.add_argument("--max-memory", type=float, default=2.0)
    parser.add_argument("--file", default="")
    parser.add_argument("--hosts", default=",".join(HOSTS))
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    rows = []
    names = ("prompts", "ways", "cells", "verify_top", "max_memory", "file")
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    with in_precision(args.folder, args.dtype) as folder:
        for host in args.hosts.split(","):
            found = child(str(folder), f"--dtype={args.dtype}", *options, "--way", host)
            if "failed" in found:
                rows.append([host, found["failed"], *[""] * 8])
                continue
            for way, one in found["ways"].items():
                rows.append([host, way, *one, f"{found['peak']:.1f}"])
            title = found["title"]
    columns = ["host", "way", "s", "plain s", "ratio", "largest difference", "operations"]
    show(title, [*columns, "Spearman", "found", "peak GB"], rows)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time one host."""
    import torch

    from tl_toxmem import LensModel, Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.tokens import align
    from tl_toxmem.trace import plan_trace

    model = LensModel.from_pretrained(args.folder, host=args.way, dtype=getattr(torch, args.dtype))
    if args.file:
        prompts = PromptSet.read(args.file).first(args.prompts)
    else:
        prompts = PromptSet.of(Prompt(prompt=t, target=" fool") for t in TEXTS[: args.prompts])
    settings: dict[str, Any] = {
        "single_layers": False,
        "severed": (),
        "parts": False,
        "metric": "prob",
        "metrics": ("prob",),
        "noise_stream": "rome",
        "verify_top": args.verify_top,
        "max_memory": args.max_memory,
    }
    cfg = TraceConfig(**settings)
    item = align(model, prompts)[0]
    every = [
        (s, layer, pos)
        for s in range(3)
        for layer in range(model.n_layers)
        for pos in range(len(item.tokens))
    ]
    chosen = every
    if args.cells:
        draw = torch.Generator().manual_seed(0)
        chosen = [
            every[i] for i in torch.randperm(len(every), generator=draw)[: args.cells].tolist()
        ]
    level = causal_trace(
        model, prompts, cfg=cfg.model_copy(update={"positions": "last_subject"})
    ).noise
    plain = _Plain(model, item, level, cfg)
    half = len(chosen) // 2
    expected: list[float] = []
    seconds = plain.run(chosen[:half], expected)
    ways, exact = {}, None
    for way in args.ways.split(","):
        screen = "none" if way == "exact" else way
        start = time.perf_counter()
        trace = causal_trace(model, prompts, cfg=cfg.model_copy(update={"screen": screen}))
        ways[way] = (time.perf_counter() - start, trace)
        exact = trace if way == "exact" else exact
    seconds += plain.run(chosen[half:], expected)
    n_cells = sum(3 * model.n_layers * len(words) for words in next(iter(ways.values()))[1].words)
    whole = seconds / len(chosen) * n_cells
    peak = _peak(model)
    needed = sum(_operations(model, one, cfg) for one in plan_trace(model, prompts, cfg=cfg))
    rows = {}
    for way, (spent, trace) in ways.items():
        known = [
            abs(float(trace.restored[0, 0, s, layer, pos]) - value)
            for (s, layer, pos), value in zip(chosen, expected, strict=True)
            if bool(trace.exact[0, s, layer, pos])
        ]
        difference = f"{max(known):.1e} ({len(known)} cells)" if known else ""
        row = [f"{spent:.1f}", f"{whole:.0f}", f"{whole / spent:.2f}", difference]
        row.append(f"{needed / spent / peak:.0%}" if way == "exact" else "")
        rows[way] = [
            *row,
            *(_agreement(exact, trace) if exact is not None and way != "exact" else ("", "")),
        ]
    sampled = (
        f"{len(chosen)} of {len(every)} cells of the first prompt" if args.cells else "all cells"
    )
    title = (
        f"{len(prompts)} prompts of {min(len(w) for w in trace.words)} to {max(len(w) for w in trace.words)} tokens, "
        f"{model.n_layers} layers, {args.dtype}; plain: {sampled}, {seconds / len(chosen):.2f} s each; matrix products "
        f"{peak / 1e9:.0f} GFLOP/s"
    )
    return {"ways": rows, "title": title}


class _Plain:
    """One full forward pass per cell, by forward hooks on plain transformers (GPT-2 and Llama names)."""

    def __init__(self, model: Any, item: Any, level: float, cfg: Any) -> None:
        import torch

        from tl_toxmem.corrupt import draw_noise

        self.hf: Any = model.clean_hf()
        inner = getattr(self.hf, "transformer", None) or self.hf.model
        self.embed = getattr(inner, "wte", None) or inner.embed_tokens
        self.blocks = getattr(inner, "h", None) or inner.layers
        self.noise = draw_noise(item, level=level, d_model=model.d_model, cfg=cfg)
        self.tokens = torch.tensor([item.tokens]).expand(1 + cfg.n_noise, -1)
        self.target, self.window = item.target[0], min(10, max(1, model.n_layers // 2))

    def _modules(self, site: int, layer: int) -> Iterator[Any]:
        if site == 0:
            yield self.blocks[layer]
            return
        start = layer - self.window // 2
        for at in range(max(0, start), min(len(self.blocks), start + self.window)):
            block = self.blocks[at]
            yield block.mlp if site == 1 else getattr(block, "attn", None) or block.self_attn

    def run(self, cells: Sequence[tuple[int, int, int]], into: list[float]) -> float:
        """Seconds for these cells; their probabilities are appended to `into`."""
        import torch

        def corrupt(*arguments: Any) -> Any:
            output = arguments[2]
            return torch.cat([output[:1], output[1:] + self.noise.to(output)])

        def restore(pos: int) -> Callable[..., Any]:
            def hook(*arguments: Any) -> Any:
                output = arguments[2]
                state = output[0] if isinstance(output, tuple) else output
                state[1:, pos] = state[0, pos]
                return output

            return hook

        start = time.perf_counter()
        for site, layer, pos in cells:
            handles = [self.embed.register_forward_hook(corrupt)]
            handles += [m.register_forward_hook(restore(pos)) for m in self._modules(site, layer)]
            with torch.no_grad():
                logits = self.hf(self.tokens).logits[1:, -1]
            into.append(float(logits.float().softmax(-1)[:, self.target].mean()))
            for handle in handles:
                handle.remove()
        return time.perf_counter() - start


def _operations(model: Any, one: Any, cfg: Any) -> float:
    """Multiplications and additions that an exact trace of a prompt needs: its cells' blocks and unembeddings."""
    gated = "gate" in model.arch.w_pre
    weights = 4 * model.d_model**2 + (2 + gated) * model.d_model * model.d_mlp
    total = 2.0 * one.cost(model, cfg) * weights
    for cell in one.cells.values():
        length = one.length - cell.pos
        total += (
            4.0 * cfg.n_noise * (model.n_layers - cell.joins) * length * one.length * model.d_model
        )
    return total + 2.0 * cfg.n_noise * len(one.cells) * model.d_model * model.d_vocab


def _peak(model: Any) -> float:
    """Operations a second of this machine's best matrix product of the MLP's size."""
    import torch

    a = torch.randn(2048, model.d_model, dtype=model.dtype)
    b = torch.randn(model.d_model, model.d_mlp, dtype=model.dtype)
    best = 0.0
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        best = max(best, 2.0 * 2048 * model.d_model * model.d_mlp / (time.perf_counter() - start))
    return best


def _agreement(exact: Any, trace: Any) -> tuple[str, str]:
    """Spearman over all cells that are not zero for certain, and panels whose maximum was found."""
    from scipy.stats import spearmanr

    a, b = exact.effect, trace.effect
    correlations, found = [], 0
    for p, words in enumerate(exact.words):
        start = exact.subjects[p][0]
        for s in range(3):
            own, other = (x[p, s, :, start : len(words)].flatten() for x in (a, b))
            live = own != 0
            correlations.append(float(spearmanr(own[live], other[live]).statistic))
            measured = other.where(trace.exact[p, s, :, start : len(words)].flatten(), -1e9)
            found += int(measured.argmax() == own.argmax())
    correlations.sort()
    middle = correlations[len(correlations) // 2]
    return f"{middle:.3f}, least {correlations[0]:.3f}", f"{found} of {len(correlations)}"


if __name__ == "__main__":
    main()
