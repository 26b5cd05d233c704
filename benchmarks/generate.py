"""Tokens a second under a deletion's hooks, against `generate` of the baked model in transformers.

    python benchmarks/generate.py FOLDER [--rows 8] [--new 20] [--repeats 3] [--dtype bfloat16]

The same left-padded batch of prompts of 6 to 12 tokens, each continued by just as many tokens. Both models share one
copy of the weights (baked and unbaked in turn, which is not counted). The greedy tokens must be the same.
TransformerLens's own `generate` is given the tokens without their mask, as it takes none: its text is another.
"""

import argparse
import json
import statistics
import sys
from typing import Any

from common import child, interleaved, random_neurons, ratios, show, warm


def main() -> None:
    """Measure every host and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
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
            rows.append([host, found["failed"], "", ""])
            continue
        for way, speed in found["speed"].items():
            rows.append([host, way, f"{speed:.1f}", found["ratios"][way]])
    title = f"{args.rows} prompts, {args.new} new tokens each, {args.dtype}"
    show(title, ["host", "way", "tokens/s", "time x transformers, median (range)"], rows)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Time one host."""
    import torch

    from tl_toxmem import Deletion, LensModel, bake
    from tl_toxmem.model import Sampling

    model = LensModel.from_pretrained(args.folder, host=args.host, dtype=getattr(torch, args.dtype))
    model.eos_ids = ()  # so that every way makes just as many tokens
    hf: Any = model.clean_hf()
    deletion = Deletion.zero(random_neurons(model.n_layers, model.d_mlp, 500))
    lengths = [6 + i * 6 // max(args.rows - 1, 1) for i in range(args.rows)]
    tokens, mask = model.pad(
        [[(37 * i + 11 * j) % 5000 for j in range(n)] for i, n in enumerate(lengths)]
    )
    options = {"attention_mask": mask, "max_new_tokens": args.new, "min_new_tokens": args.new}
    sampling = Sampling(temperature=1.0, top_p=0.9)
    found = {}

    def ours(**how: Any) -> None:
        with deletion.applied(model):
            found["ours"] = model.generate(tokens, mask, max_new_tokens=args.new, **how)

    def theirs(**how: Any) -> None:
        undo = bake(hf, deletion)
        found["theirs"] = hf.generate(
            tokens, pad_token_id=model.pad_id, eos_token_id=None, **options, **how
        )
        undo.restore()

    def lens() -> None:
        model.host.raw.generate(
            tokens, max_new_tokens=args.new, do_sample=False, stop_at_eos=False, verbose=False
        )

    ways = {
        "transformers, greedy": lambda: theirs(do_sample=False),
        "ours under hooks, greedy": ours,
        "transformers, top-p 0.9": lambda: theirs(do_sample=True, top_p=0.9, top_k=0),
        "ours under hooks, top-p 0.9": lambda: ours(
            sampling=sampling, generator=torch.Generator().manual_seed(0)
        ),
    }
    if args.host == "hooked":
        ways["TransformerLens's own, greedy, no hooks"] = lens
    with torch.no_grad():
        ways["transformers, greedy"]()
        ours()
        if not torch.equal(found["ours"], found["theirs"]):
            raise SystemExit("the greedy tokens differ")
        seconds = interleaved(ways, args.repeats)
    made = args.rows * args.new
    share = ratios(seconds, "transformers, greedy")
    sampled = {k: v for k, v in seconds.items() if "top-p" in k}
    share |= ratios(sampled, "transformers, top-p 0.9")
    return {
        "speed": {name: made / statistics.median(values) for name, values in seconds.items()},
        "ratios": share,
    }


if __name__ == "__main__":
    main()
