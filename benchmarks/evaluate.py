"""Speed of what an evaluation is made of, each part against the plain way, in one run.

    python benchmarks/evaluate.py scoring --judge FILE.ckpt[@FOLDER] --texts FILE [--field human] [--n 512] [--batch 32]
        [--repeats 3] [--cpu-time]
    python benchmarks/evaluate.py generation FOLDER [the options of generate.py]

scoring: a checkpoint in Detoxify's format, against Detoxify's own `predict` on the same batches of texts as they come.
Texts are lines, or a field of JSONL. Detoxify finds a configuration that the checkpoint names by a relative folder only
from the checkpoint's folder, and is loaded there.

generation: continuations under a deletion's hooks, against `generate` of transformers on the same weights; it is what
generate.py measures.
"""

import argparse
import contextlib
import json
import statistics
from pathlib import Path

from common import interleaved, ratios, show
from generate import add_generation, generation

DETOXIFY = "Detoxify's predict"


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sections = parser.add_subparsers(dest="section", required=True)
    add_scoring(sections)
    section = sections.add_parser("generation")
    section.set_defaults(run=generation)
    add_generation(section)
    args = parser.parse_args()
    args.run(args)


def add_scoring(sections: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The options of `scoring`."""
    parser = sections.add_parser("scoring")
    parser.set_defaults(run=scoring)
    parser.add_argument("--judge", required=True, metavar="FILE.ckpt[@FOLDER]")
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--field", default="text", help="of a JSONL file")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its own seconds")


def scoring(args: argparse.Namespace) -> None:
    """Time a judge, batch by batch as Detoxify gets the texts, and on all of them at once."""
    import torch
    from detoxify import Detoxify

    from tl_toxmem import load_scorer

    texts = read_texts(args.texts, args.field)[: args.n]
    batches = [texts[i : i + args.batch] for i in range(0, len(texts), args.batch)]
    scorer = load_scorer(f"detoxify:{args.judge}")
    file, _, folder = args.judge.partition("@")
    checkpoint = Path(file).absolute()
    config = Path(folder).absolute() if folder else checkpoint.parent / "config"
    with contextlib.chdir(checkpoint.parent):
        plain = Detoxify(checkpoint=str(checkpoint), huggingface_config_path=str(config))

    def detoxify() -> list[float]:
        found: list[float] = []
        for batch in batches:
            scores = plain.predict(batch)["toxicity"]
            found += scores if isinstance(scores, list) else [scores]
        return found

    ways = {
        DETOXIFY: detoxify,
        "ours, the same batches": lambda: [s for b in batches for s in scorer.score(b).tolist()],
        "ours, all texts at once": lambda: scorer.score(texts).tolist(),
    }
    expected = torch.tensor(ways[DETOXIFY]())
    gaps = {name: float((torch.tensor(run()) - expected).abs().max()) for name, run in ways.items()}
    seconds = interleaved(ways, args.repeats, cpu_time=args.cpu_time)
    times = ratios(seconds, DETOXIFY)
    rows = [
        [name, f"{len(texts) / statistics.median(values):.0f}", times[name], f"{gaps[name]:.0e}"]
        for name, values in seconds.items()
    ]
    columns = ["way", "texts/s", "x Detoxify's time, median (range)", "largest difference"]
    show(f"scoring {len(texts)} texts by {checkpoint.name}, batches of {args.batch}", columns, rows)


def read_texts(file: Path, field: str) -> list[str]:
    """The lines of a file, or a field of its records."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if file.suffix != ".jsonl":
        return lines
    return [record[field] for record in map(json.loads, lines) if record.get(field)]


if __name__ == "__main__":
    main()
