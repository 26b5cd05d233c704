"""Forward time of the wrapped model, without and with a hook in every layer, against plain transformers.

    python benchmarks/forward.py FOLDER [--dtype bfloat16] [--repeats 7] [--own] [--cpu-time]

Each host runs in a process of its own, where it and plain transformers (with its default attention) share one copy of
the weights and are timed in turn. `deletion` sets 500 neurons anywhere to zero by hooks, `capture` copies
`mlp.hook_post` of every layer. With --own also TransformerLens's own model, loaded its own way and without hooks.
"""

import argparse
import json
import statistics
from typing import Any

from common import (
    HOSTS,
    OWN,
    each_way,
    interleaved,
    lens_own,
    parser_of,
    random_neurons,
    ratios,
    show,
)

PLAIN = "plain transformers"


def main() -> None:
    """Measure every host and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--own", action="store_true")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    rows = []
    ways = [*HOSTS, *([OWN + host for host in HOSTS] if args.own else [])]
    for way, found in each_way(args, ways, ("rows", "tokens")):
        if "failed" in found:
            rows.append([way, found["failed"], "", ""])
            continue
        for name, seconds in found["seconds"].items():
            rows.append([way, name, f"{seconds:.2f}", found["ratios"][name]])
    title = f"{args.rows} x {args.tokens} tokens, {args.dtype}"
    show(title, ["model", "forward", "median s", "x plain, median (range)"], rows)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Time one host, or TransformerLens's own model."""
    import torch

    from tl_toxmem import Deletion, LensModel

    own = args.way.startswith(OWN)
    # Loaded first: it needs the most memory, and for a moment only.
    raw = lens_own(args.folder, args.way.removeprefix(OWN), args.dtype) if own else None
    host = "auto" if own else args.way
    model = LensModel.from_pretrained(args.folder, host=host, dtype=getattr(torch, args.dtype))
    plain: Any = model.clean_hf()
    tokens = torch.arange(args.rows * args.tokens).reshape(args.rows, -1) * 37 % 5000
    mask = torch.ones_like(tokens)
    deletion = Deletion.zero(random_neurons(model.n_layers, model.d_mlp, 500))
    every = [("mlp_post", layer) for layer in range(model.n_layers)]

    def deleted() -> None:
        with deletion.applied(model):
            model.forward(tokens, mask)

    ways = {PLAIN: lambda: plain(tokens, attention_mask=mask)}
    if own:
        ways["no hook"] = lambda: raw(tokens, attention_mask=mask)
    else:
        ways["no hook"] = lambda: model.forward(tokens, mask)
        ways["deletion"] = deleted
        ways["capture"] = lambda: model.capture(tokens, mask, sites=every)
    with torch.no_grad():
        seconds = interleaved(ways, args.repeats, cpu_time=args.cpu_time)
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": ratios(seconds, PLAIN),
    }


if __name__ == "__main__":
    main()
