"""The tables that README and the docs quote, in Markdown, from a run folder; and its figures as pictures.

python scripts/run_tables.py runs/smollm2 [--figures docs/images]

Pictures are taken by Chromium, of what the records' own `plot` gives.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tl_toxmem.comparison import Comparison
from tl_toxmem.evaluation import BASE, EDITS, MEASURES, EditResult, Evaluation
from tl_toxmem.select import Selected
from tl_toxmem.stats import Estimate
from tl_toxmem.store import RunFolder
from tl_toxmem.trace import Trace

_STILL = {"displayModeBar": False}
COLUMNS = ("toxicity_rate", "kl_neutral", "benign_kept", "repetition", "entropy")


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table under its title."""
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def cell(name: str, estimate: Estimate | None) -> str:
    """A measure with its interval."""
    value, interval = MEASURES[name].cell(estimate)
    return f"{value} ({interval})" if interval else value


def rise(row: EditResult) -> str:
    """Of neutral perplexity against base."""
    ratio = row.neutral_perplexity_ratio
    value, low, high = (100 * (x - 1) for x in (ratio.value, ratio.low, ratio.high))
    return f"{value:+.2f} % ({low:+.2f} to {high:+.2f})" if row.edit != BASE else ""


def evaluation_tables(found: Evaluation) -> Iterable[str]:
    """Base, deletion and controls, by each judge."""
    heads = ["edit", "neurons", *(MEASURES[name].label for name in COLUMNS)]
    heads.insert(3, "neutral perplexity")
    for scorer in dict.fromkeys(row.scorer for row in found.rows):
        rows = []
        for row in (one for one in found.rows if one.scorer == scorer):
            cells = [cell(name, getattr(row, name)) for name in COLUMNS]
            cells.insert(1, rise(row))
            rows.append([EDITS.get(row.edit, row.edit), row.n_neurons, *cells])
        base = found.row(BASE, scorer=scorer)
        yield table(f"By {scorer}, {base.toxicity_rate.n} prompts", heads, rows)
    yield table(
        "Prompts with fewer, as many and more toxic continuations than without an edit",
        ("edit", "judge", "fewer", "as many", "more"),
        [[one[k] for k in ("edit", "scorer", "fewer", "same", "more")] for one in found.shifts],
    )
    yield "\n".join(
        [*(str(one) + "." for one in found.judges()), found.protocol["description"], ""]
    )


def comparison_tables(found: Comparison) -> Iterable[str]:
    """Every law, and what each method reaches at equal cost, by each judge."""
    for scorer in dict.fromkeys(row.scorer for row in found.evaluation.rows):
        rows = [
            [
                entry.label,
                f"{entry.strength:g} {entry.unit}",
                cell("toxicity_rate", row.toxicity_rate),
                rise(row),
                *(cell(name, getattr(row, name)) for name in COLUMNS[1:]),
            ]
            for method in found.methods
            for entry, row in found.of(method, scorer=scorer)
        ]
        heads = ["method", "strength", MEASURES["toxicity_rate"].label, "neutral perplexity"]
        heads += [MEASURES[name].label for name in COLUMNS[1:]]
        yield table(f"Every law, by {scorer}", heads, rows)
        frame = found.at_cost(scorer=scorer)
        equal = [[method, *(f"{x:.1%}" for x in values)] for method, values in frame.iterrows()]
        yield table(f"At equal cost, by {scorer}", ["method", *map(str, frame.columns)], equal)
        yield "\n".join([*found.sentences(scorer=scorer), ""])


def trace_tables(found: Trace) -> Iterable[str]:
    """What restoring thirds of the stack brings back, on toxic and on benign prompts."""
    for name, trace in (("toxic", found), ("benign", found.benign)):
        if trace is not None:
            rows = [
                [r.site, r.part, f"{r.first_layer} to {r.last_layer}", share(r)]
                for r in trace.shares().itertuples()
            ]
            title = (
                f"Share of the total effect that comes back, {len(trace.prompt_ids)} {name} prompts"
            )
            yield table(title, ("site", "part", "layers", "share"), rows)
    yield f"{found.answer().text}\n"


def share(row: Any) -> str:
    """A share with its interval."""
    return f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"


def selection_table(found: Selected) -> str:
    """The curve over k, and where the selected neurons are."""
    rows = [[p.k, f"{p.perplexity_increase:+.2%}", _share(p.toxicity_rate)] for p in found.curve]
    layers: dict[int, int] = {}
    for layer, _ in found.selected:
        layers[layer] = layers.get(layer, 0) + 1
    where = ", ".join(f"{layer}: {n}" for layer, n in sorted(layers.items()))
    return table("How many (find prompts)", ("k", "neutral perplexity", "toxic"), rows) + (
        f"\n{found.rule}; selected per layer: {where}\n"
    )


def _share(rate: float | None) -> str:
    return "not affordable" if rate is None else f"{rate:.1%}"


def take_picture(figure: Any, path: Path) -> None:
    """A figure as PNG, at twice the pixels of its own size."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("--figures needs chromium")
    width, height = figure.layout.width or 1000, figure.layout.height or 480
    figure.update_layout(width=width, height=height)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "figure.html"
        page.write_text(
            f'<body style="margin:0">{figure.to_html(full_html=False, config=_STILL)}',
            encoding="utf-8",
        )
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={place}/profile", "--force-device-scale-factor=2"]
        words += [f"--window-size={width},{height}", "--virtual-time-budget=20000"]
        subprocess.run(
            [*words, f"--screenshot={path.absolute()}", page.as_uri()],
            check=True,
            capture_output=True,
        )


def main() -> None:
    """Print what the folder has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--figures", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    folder = RunFolder(args.run)
    trace = Trace.load(folder.artefact("trace"))
    evaluation = Evaluation.load(folder.artefact("evaluate"))
    parts = [*trace_tables(trace), selection_table(Selected.load(folder.artefact("select")))]
    parts += evaluation_tables(evaluation)
    figures = {
        "shares": trace.plot("shares"),
        "layers": trace.plot("layers"),
        "evaluation": evaluation.plot(),
    }
    if folder.artefact("compare").exists():
        comparison = Comparison.load(folder.artefact("compare"))
        parts += comparison_tables(comparison)
        figures["front"] = comparison.plot()
    sys.stdout.write("\n".join(parts))
    for name, figure in figures.items() if args.figures else ():
        take_picture(figure, args.figures / f"{folder.path.name}_{name}.png")


if __name__ == "__main__":
    main()
