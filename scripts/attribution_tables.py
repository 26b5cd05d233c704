"""The tables of docs/attribution.md: methods of attribution held against measured effects.

    python scripts/attribution_tables.py demo
    python scripts/attribution_tables.py FOLDER --prompts PROMPTS.jsonl [--benign B.jsonl] [--labelled L.csv] [--k 50]

Prompts of the find split are attributed. Labelled text is a CSV with the columns `text` and `is_toxic` ("Toxic" or
not), or JSONL as `attribute.labelled` takes it; without it, and without benign prompts, the methods that need them are
left out.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

from tl_toxmem import LensModel, PromptSet, attribute_neurons, verify
from tl_toxmem.attribute import METHODS, Labelled, Texts, compare_scores, read_labelled
from tl_toxmem.config import DEMO, AttributeConfig
from tl_toxmem.model import demo_folder
from tl_toxmem.neutral import default_neutral, read_documents, split_documents

_SLOW_NEURONS = 10_000
"""Ablating every neuron is for models of no more."""


def main() -> None:
    """Print both tables as markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--benign", type=Path)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--neutral", type=Path)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--max-find", type=int, default=32)
    parser.add_argument("--random", type=int, default=500)
    parser.add_argument("--steps", type=int, help="of the path integrals")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    demo = demo_folder() if args.model == DEMO else None
    model = LensModel.from_pretrained(args.model)
    prompts_path = args.prompts or (demo and demo / "prompts.jsonl")
    benign_path = args.benign or (demo and demo / "benign.jsonl")
    if not prompts_path:
        parser.error("--prompts is needed for a model other than the demo")
    find = PromptSet.read(prompts_path).split().find.first(args.max_find)
    benign = PromptSet.read(benign_path).split().find.first(args.max_find) if benign_path else None
    neutral_path = args.neutral or (demo / "neutral.txt" if demo else default_neutral())
    neutral, _ = split_documents(read_documents(neutral_path))
    labelled = _labelled(args.labelled) if args.labelled else None
    texts = Texts(neutral=neutral, labelled=labelled, benign=benign)
    left_out = {"experts", "probe"} if labelled is None else set()
    left_out |= {"contrast"} if benign is None else set()
    left_out |= {"ablation"} if model.n_layers * model.d_mlp > _SLOW_NEURONS else set()
    methods = [name for name in METHODS if name not in left_out]
    cfg = AttributeConfig(
        verify_random=args.random,
        verify_prompts=args.max_find,
        steps=args.steps,
        seed=args.seed,
    )
    seconds, scores = {}, {}
    for name in methods:
        start = time.perf_counter()
        scores[name] = METHODS[name](model, find, cfg=cfg, texts=texts)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr)  # noqa: T201 - for who waits
    found = compare_scores(model, find, scores, k=args.k, cfg=cfg)
    lines = [
        f"{model!r}; {len(find)} find prompts, k = {args.k}, {found.n_random} random neurons, seed {args.seed}",
        "",
        "| method | captured | effect of its top k (nats) | positive | Spearman | Spearman, random | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.frame().to_dict("records"):
        lines.append(
            f"| {row['method']} | {row['captured']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | "
            f"{row['effect']:.2f} | {row['positive']:.0%} | {row['spearman']:.2f} | {row['spearman_random']:.2f} | "
            f"{seconds[row['method']]:.0f} |"
        )
    lines += ["", "| | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    between = {}
    for row in found.between().to_dict("records"):
        between[row["one"], row["other"]] = f"{row['spearman']:.2f} / {row['overlap']:.0%}"
    for one in methods:
        cells = [between.get((one, other)) or between.get((other, one)) or "" for other in methods]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    default = AttributeConfig(verify_top=0, verify_random=0, seed=args.seed)
    own = attribute_neurons(model, find, cfg=default, texts=texts)
    check = verify(model, find, own, k=args.k, cfg=cfg)
    lines += ["", f"Verification of the default ({default.method}): {check.text()}"]
    print("\n".join(lines))  # noqa: T201 - a command's output


def _labelled(path: Path) -> list[Labelled]:
    if path.suffix != ".csv":
        return read_labelled(path)
    with path.open(encoding="utf-8", newline="") as file:
        return [Labelled(row["text"], row["is_toxic"] == "Toxic") for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
