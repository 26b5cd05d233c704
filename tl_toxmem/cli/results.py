"""What `attribute` and `select` print: the neurons found, how they were chosen, and their controls."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_toxmem.store import RunFolder

_SHOWN = 10
_TOKENS = 3


def print_scores(console: Any, folder: "RunFolder") -> None:
    """The highest neurons by score, and what the check says."""
    from tl_toxmem.attribute import NeuronScores, highest

    scores = NeuronScores.load(folder.artefact("attribute"))
    heads = ("layer", "neuron", f"score ({scores.unit})", "deleted alone (nats)", "cost")
    neurons = highest(scores.scores, min(_SHOWN, scores.scores.numel()))
    measured = scores.verification.effects() if scores.verification else {}
    rows = []
    for neuron in neurons:
        effect = f"{measured[neuron].value:.4g}" if neuron in measured else ""
        numbers = (float(scores.scores[neuron]), float(scores.cost[neuron]))
        rows.append((*neuron, f"{numbers[0]:.4g}", effect, f"{numbers[1]:.4g}"))
    console.print(f"the {len(rows)} highest of {scores!r}", soft_wrap=True, markup=False)
    _print_rows(console, heads, rows)
    if scores.verification is not None:
        console.print(scores.verification.text(), soft_wrap=True)


def print_selection(console: Any, folder: "RunFolder") -> None:
    """The selected neurons that score highest, what each says, how many and why, and the controls."""
    from tl_toxmem.cards import NeuronCard
    from tl_toxmem.files import read_json
    from tl_toxmem.masking import mask_slurs
    from tl_toxmem.neurons import NeuronSet
    from tl_toxmem.select import Joint

    values = read_json(folder.artefact("select"))
    chosen = NeuronSet.from_json(values["selected"])
    rows = []
    for card in map(NeuronCard.from_json, values["cards"][:_SHOWN]):
        words = " ".join(repr(mask_slurs(word)) for word, _ in card.raised[:_TOKENS])
        score = "" if card.score is None else f"{card.score:.4g}"
        rows.append((card.layer, card.neuron, score, f"{card.effect.value:.4g}", words))
    console.print(f"k = {values['k']} ({values['rule']}): {chosen!r}", soft_wrap=True, markup=False)
    _print_rows(console, ("layer", "neuron", "score", "deleted alone (nats)", "raises"), rows)
    if values["joint_effect"] is not None:
        console.print(f"{Joint.from_json(values['joint_effect']).text()}.", soft_wrap=True)
    print_controls(console, folder)


def print_controls(console: Any, folder: "RunFolder") -> None:
    """How loud the controls are, and why there is no decoy."""
    from tl_toxmem.files import read_json
    from tl_toxmem.select import controls_text

    values = read_json(folder.artefact("select"))
    console.print(controls_text(values["loudness_ratios"], values["no_decoy"]), soft_wrap=True)


def _print_rows(console: Any, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in heads:
        table.add_column(name, overflow="fold", justify="left" if name == "raises" else "right")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # tokens may look like markup
    console.print(table)
