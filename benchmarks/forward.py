"""Forward time of the wrapped model, without and with 48 hooks, against plain transformers on the same weights.

    python benchmarks/forward.py FOLDER [--dtype bfloat16] [--rows 11] [--tokens 12] [--repeats 7]

Each host runs in a process of its own, where it and plain transformers (with its default attention) share one copy of
the weights and are timed in turn. `deletion` sets 500 neurons anywhere to zero by hooks, `capture` copies
`mlp.hook_post` of every layer.
"""

import argparse
import json
import statistics
import sys

from common import child, interleaved, random_neurons, ratios, show, warm


def main() -> None:
    """Measure every host and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.host:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    warm(args.folder)
    rows = []
    for host in ("hooked", "bridge"):
        found = child(*sys.argv[1:], "--host", host)
        if "failed" in found:
            rows.append([host, found["failed"], "", "", ""])
            continue
        for way, seconds in found["seconds"].items():
            rows.append([host, way, f"{seconds:.2f}", found["ratios"][way], f"{found['peak']:.2f}"])
    title = f"{args.rows} x {args.tokens} tokens, {args.dtype}"
    show(title, ["host", "forward", "median s", "x plain, median (range)", "peak GB"], rows)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Time one host."""
    import torch

    from tl_toxmem import Deletion, LensModel

    model = LensModel.from_pretrained(args.folder, host=args.host, dtype=getattr(torch, args.dtype))
    plain = model.clean_hf()
    tokens = torch.arange(args.rows * args.tokens).reshape(args.rows, -1) * 37 % 5000
    mask = torch.ones_like(tokens)
    deletion = Deletion.zero(random_neurons(model.n_layers, model.d_mlp, 500))
    every = [("mlp_post", layer) for layer in range(model.n_layers)]

    def deleted() -> None:
        with deletion.applied(model):
            model.forward(tokens, mask)

    ways = {
        "plain transformers": lambda: plain(tokens, attention_mask=mask),
        "no hook": lambda: model.forward(tokens, mask),
        "deletion": deleted,
        "capture": lambda: model.capture(tokens, mask, sites=every),
    }
    with torch.no_grad():
        seconds = interleaved(ways, args.repeats)
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": ratios(seconds, "plain transformers"),
    }


if __name__ == "__main__":
    main()
