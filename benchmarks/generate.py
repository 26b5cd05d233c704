"""Tokens a second under a deletion's hooks, against `generate` of the baked model in transformers.

    python benchmarks/generate.py FOLDER [--dtype bfloat16] [--rows 8] [--new 20] [--samples 5] [--repeats 3]
        [--cpu-time]

The same left-padded batch of prompts of 6 to 12 tokens, each continued by just as many tokens: greedily, sampled once,
and sampled several times as an evaluation does (transformers by `num_return_sequences`). Both models share one
copy of the weights: they are baked once to see that the greedy tokens are the same, and not while the time is taken.
TransformerLens's own `generate` is given the tokens without their mask, as it takes none: its text is another. Use a
trained checkpoint: where all tokens are about as likely, the nucleus is most of the vocabulary.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

from common import HOSTS, add_options, each_way, interleaved, random_neurons, ratios, show

GREEDY, SAMPLED, SEVERAL = "greedy", "top-p 0.9", "top-p 0.9, several"
OURS, THEIRS = "ours under hooks, ", "transformers, "


def main() -> None:
    """Measure every host and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_generation(parser)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    generation(args)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_options(parser)
    parser.set_defaults(repeats=3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--samples", type=int, default=5)


def generation(args: argparse.Namespace) -> None:
    """Measure every host, each in a process of its own, and print the table."""
    rows = []
    for host, found in each_way(args, HOSTS, ("rows", "new", "samples"), script=__file__):
        if "failed" in found:
            rows.append([host, found["failed"], "", ""])
            continue
        for way, speed in found["speed"].items():
            rows.append([host, way, f"{speed:.1f}", found["ratios"][way]])
    title = f"{args.rows} prompts, {args.new} new tokens each, {args.dtype}; several: {args.samples} samples a prompt"
    show(title, ["host", "way", "tokens/s", "x transformers' speed, median (range)"], rows)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Time one host."""
    import torch

    from tl_toxmem import Deletion, LensModel, bake
    from tl_toxmem.model import Sampling

    model = LensModel.from_pretrained(args.folder, host=args.way, dtype=getattr(torch, args.dtype))
    model.eos_ids = ()  # so that every way makes just as many tokens
    hf: Any = model.clean_hf()
    deletion = Deletion.zero(random_neurons(model.n_layers, model.d_mlp, 500))
    lengths = [6 + i * 6 // max(args.rows - 1, 1) for i in range(args.rows)]
    tokens, mask = model.pad(
        [[(37 * i + 11 * j) % 5000 for j in range(n)] for i, n in enumerate(lengths)]
    )
    options = {"max_new_tokens": args.new, "pad_token_id": model.pad_id, "eos_token_id": None}

    def ours(sampling: Sampling | None = None, copies: int = 1) -> Any:
        with deletion.applied(model):
            return model.generate(
                tokens,
                mask,
                max_new_tokens=args.new,
                sampling=sampling,
                seeds=torch.arange(args.rows * copies),
                copies=copies,
            )

    def theirs(**how: Any) -> Any:
        return hf.generate(tokens, attention_mask=mask, **options, **how)

    def lens() -> None:
        model.host.raw.generate(
            tokens, max_new_tokens=args.new, do_sample=False, stop_at_eos=False, verbose=False
        )

    ways: dict[str, Callable[[], Any]] = {
        THEIRS + GREEDY: lambda: theirs(do_sample=False),
        OURS + GREEDY: ours,
        THEIRS + SAMPLED: lambda: theirs(do_sample=True, top_p=0.9, top_k=0),
        OURS + SAMPLED: lambda: ours(Sampling(top_p=0.9)),
        THEIRS + SEVERAL: lambda: theirs(
            do_sample=True, top_p=0.9, top_k=0, num_return_sequences=args.samples
        ),
        OURS + SEVERAL: lambda: ours(Sampling(top_p=0.9), args.samples),
        "TransformerLens's own, greedy, no hooks": lens,
    }
    with torch.no_grad():
        undo = bake(hf, deletion)
        expected = theirs(do_sample=False)
        undo.restore()
        if not torch.equal(ours(), expected):
            raise SystemExit("the greedy tokens differ")
        seconds = interleaved(ways, args.repeats, cpu_time=args.cpu_time)
    # A ratio of speeds is that of the seconds the other way round.
    faster = {name: [1 / s for s in values] for name, values in seconds.items()}
    found = ratios(faster, THEIRS + GREEDY)
    for kind in (SAMPLED, SEVERAL):
        own = {name: values for name, values in faster.items() if name.endswith(kind)}
        found |= ratios(own, THEIRS + kind)
    n_tokens = {
        name: args.rows * args.new * (args.samples if name.endswith(SEVERAL) else 1)
        for name in seconds
    }
    return {
        "speed": {
            name: n_tokens[name] / statistics.median(values) for name, values in seconds.items()
        },
        "ratios": found,
    }


if __name__ == "__main__":
    main()
