"""What `trace`, `attribute`, `select`, `export` and `verify` print: layers, neurons, controls, the certificate."""

from typing import TYPE_CHECKING, Any

from tl_toxmem.cli.words import print_table, say

if TYPE_CHECKING:
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.store import RunFolder

_SHOWN = 10
_TOKENS = 3
_WORDS = ("raises", "site", "token", "certificate")
"""Columns of words, which begin at the left."""


def print_trace(console: Any, folder: "RunFolder") -> None:
    """Of every site, the layer that mediates most, and the answer to the paper's question."""
    from tl_toxmem.trace import Trace
    from tl_toxmem.trace.metrics import UNITS
    from tl_toxmem.trace.statistics import PLACES

    trace = Trace.load(folder.artefact("trace"))
    rows = []
    for place in PLACES:
        frame = trace.by_layer(place)
        frame = frame[frame.value.notna()].sort_values("value", ascending=False)
        for site in trace.sites:
            for best in frame[frame.site == site].head(1).to_dict("records"):
                low, high = best["low"], best["high"]
                interval = "" if best["n"] == 1 else f"{low:.3g} to {high:.3g}"
                effect = f"{best['value']:.4g}"
                rows.append((site, place, best["layer"], effect, interval, best["n"]))
    unit = UNITS[trace.metric]
    say(console, f"{trace.display().headline}; of each site the layer of the largest mean effect:")
    heads = ("site", "token", "layer", f"effect ({unit})", "95 % interval", "prompts")
    print_table(console, heads, rows, left=_WORDS)
    if not bool(trace.parts.isnan().any()):
        say(console, trace.answer().text)
    say(console, f"figures: Trace.load({str(folder.artefact('trace'))!r}).plot()")


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
    say(console, scores.display().headline)
    print_table(console, heads, rows, left=_WORDS)
    if scores.verification is not None:
        say(console, scores.verification.text())


def print_selection(console: Any, folder: "RunFolder") -> None:
    """The selected neurons that score highest, what each says, how many and why, and the controls."""
    from tl_toxmem.masking import mask_slurs
    from tl_toxmem.select import Selected

    found = Selected.load(folder.artefact("select"))
    rows = []
    for card in found.cards[:_SHOWN]:
        words = " ".join(repr(mask_slurs(word)) for word, _ in card.raised[:_TOKENS])
        score = "" if card.score is None else f"{card.score:.4g}"
        rows.append((card.layer, card.neuron, score, f"{card.effect.value:.4g}", words))
    say(console, f"k = {found.k} ({found.rule}): {found.selected!r}")
    print_table(
        console, ("layer", "neuron", "score", "deleted alone (nats)", "raises"), rows, left=_WORDS
    )
    if found.joint_effect is not None:
        say(console, f"{found.joint_effect.text()}.")
    print_controls(console, folder)


def print_controls(console: Any, folder: "RunFolder") -> None:
    """How loud the controls are, and why there is no decoy."""
    from tl_toxmem.select import Selected, controls_text

    found = Selected.load(folder.artefact("select"))
    say(console, controls_text(found.loudness_ratios, found.no_decoy))


def print_export(console: Any, folder: "RunFolder") -> None:
    """The certificate of a run's checkpoint."""
    from tl_toxmem.certificate import Certificate

    checkpoint = folder.artefact("export")
    print_certificate(console, Certificate.read(checkpoint))
    say(console, f"checkpoint: {checkpoint}")


def print_certificate(console: Any, certificate: "Certificate") -> None:
    """What was compared, what came out, and what is allowed."""
    c = certificate
    same, n = c.greedy_identical
    rows = [
        (f"largest log-probability gap, {precision} (nats)", f"{gap:.2e}", f"at most {limit:.2e}")
        for precision, gap, _, limit in c.gaps()
    ]
    rows += [
        (f"the same of the unedited model, {precision} (nats)", f"{rounding:.2e}", "")
        for precision, _, rounding, _ in c.gaps()
    ]
    if c.storage_rounding is not None:
        rows.append((f"rounding of the edit to {c.stored} (nats)", f"{c.storage_rounding:.2e}", ""))
    counted = "all" if c.storage_rounding is None else "counted only"
    rows += [
        ("identical greedy continuations", f"{same} of {n}", counted),
        (
            "largest effect against base (nats)",
            f"{c.max_abs_logprob_effect:.3g}",
            f"at least {c.min_effect:g}",
        ),
        ("weights as the deletion makes them", "yes" if c.as_computed else "no", "yes"),
    ]
    print_table(console, ("certificate", "found", "allowed"), rows, left=_WORDS)
