"""Neuron cards: one page on one neuron, for people.

What ablating it takes from the targets, what it costs, which tokens its value vector promotes, where it is most active,
and what the model says with and without it. Slurs are masked in everything shown; the record itself has the words.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import Law, NeuronScores, measure_ablations, promoted_tokens
from tl_toxmem.checks import prompt_set, seed_of, whole
from tl_toxmem.deletion import Deletion
from tl_toxmem.display import Display, Displayed, Table
from tl_toxmem.errors import ToxmemError
from tl_toxmem.masking import mask_slurs
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron, NeuronSet
from tl_toxmem.progress import in_batches, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.sites import Site
from tl_toxmem.stats import Estimate, mean_estimates
from tl_toxmem.tokens import PromptTokens, align

PROMPTS, EXAMPLES, NEW_TOKENS = 16, 3, 8
"""Prompts in a batch; shown on a card, and how far they are continued."""


@dataclass(frozen=True)
class Excited:
    """Where a neuron is active: a token of a prompt."""

    prompt: str
    token: str
    pos: int
    activation: float


@dataclass(frozen=True)
class Change:
    """One prompt's greedy continuation with the neuron and without."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, repr=False)
class NeuronCard(Displayed):
    """One neuron.

    Attributes:
        layer: where.
        neuron: which.
        effect: what deleting it takes from the log-probability of the targets (nats), with its interval over prompts.
        score: by the method that found it, or None.
        cost: on neutral text (nats per token), or None.
        raised: tokens that its value vector makes likelier, with the change in logits at its strongest activation.
        lowered: tokens that it makes less likely, likewise.
        excited: the prompts and tokens where its activation is largest, of either sign; one token a prompt.
        changes: greedy continuations of these prompts.
        law: what was done to the neuron to measure its effect, in words.
    """

    layer: int
    neuron: int
    effect: Estimate
    score: float | None
    cost: float | None
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]
    excited: tuple[Excited, ...]
    changes: tuple[Change, ...]
    law: str = "zero"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NeuronCard":
        """Read what `to_json` gave."""
        return cls(
            layer=values["layer"],
            neuron=values["neuron"],
            effect=Estimate(**values["effect"]),
            score=values["score"],
            cost=values["cost"],
            raised=tuple((word, value) for word, value in values["raised"]),
            lowered=tuple((word, value) for word, value in values["lowered"]),
            excited=tuple(Excited(**one) for one in values["excited"]),
            changes=tuple(Change(**one) for one in values["changes"]),
            law=values["law"],
        )

    def facts(self, *, mask: Callable[[str], str] = mask_slurs) -> list[tuple[str, str]]:
        """What is shown, line by line.

        Args:
            mask: what is done to texts; `str` leaves them as they are.
        """
        effect = f"{self.effect.value:.3g} nats"
        if self.effect.low is not None and self.effect.high is not None:
            effect += f" ({self.effect.low:.3g} to {self.effect.high:.3g}, n = {self.effect.n})"
        lines = [(f"deleting it ({self.law}) takes from the targets", effect)]
        if self.score is not None:
            lines.append(("score", f"{self.score:.3g}"))
        if self.cost is not None:
            lines.append(("cost on neutral text", f"{self.cost:.3g} nats per token"))
        lines += [
            ("its value vector raises", _tokens(self.raised, mask)),
            ("and lowers", _tokens(self.lowered, mask)),
        ]
        for one in self.excited:
            where = f"{mask(one.prompt)!r} at {mask(one.token)!r}"
            lines.append((f"active, {one.activation:.2f}", where))
        for change in self.changes:
            same = change.before == change.after
            after = "the same" if same else repr(mask(change.after))
            said = f"{mask(change.before)!r}, without it {after}"
            lines.append((f"after {mask(change.prompt)!r}", said))
        return lines

    def __repr__(self) -> str:
        return f"NeuronCard(layer {self.layer}, neuron {self.neuron}, {self.effect.value:.3g} nats)"

    def display(self) -> Display:
        """All that `facts` says."""
        headline = f"Layer {self.layer}, neuron {self.neuron}"
        return Display(headline, (Table((), tuple(self.facts())),))


def _tokens(words: Sequence[tuple[str, float]], mask: Callable[[str], str]) -> str:
    return ", ".join(f"{mask(word)!r} {value:+.2f}" for word, value in words)


def neuron_cards(
    model: LensModel,
    prompts: PromptSet,
    neurons: Sequence[Neuron] | NeuronSet,
    *,
    scores: NeuronScores | None = None,
    law: Law = Deletion.zero,
    n_examples: int = EXAMPLES,
    n_tokens: int = 8,
    max_new_tokens: int = NEW_TOKENS,
    seed: int = 0,
) -> list[NeuronCard]:
    """A card of each neuron, in the order given.

    Args:
        model: any host, without the neurons deleted.
        prompts: with their targets; what excites the neurons is looked for among them.
        neurons: which.
        scores: whose score and cost are shown.
        law: what is done to a neuron to see its effect.
        n_examples: prompts shown.
        n_tokens: tokens at each end of what its value vector promotes.
        max_new_tokens: of the continuations.
        seed: of the intervals.

    Raises:
        ToxmemError: no prompts, a neuron that the model does not have, a prompt that does not fit the model, scores of
            another model, more tokens than it has, or a number below zero.
    """
    prompt_set(prompts)
    neurons, seed = list(neurons), seed_of(seed)
    n_examples, max_new_tokens = (
        whole(n_examples, "n_examples"),
        whole(max_new_tokens, "max_new_tokens"),
    )
    n_tokens = whole(
        n_tokens, "n_tokens", most=model.d_vocab, why=f"the model has {model.d_vocab} tokens"
    )
    if scores is not None:
        scores.check_model(model)
    items = align(model, prompts)
    if not items:
        raise ToxmemError("neuron cards need at least one prompt")
    effects = mean_estimates(
        measure_ablations(model, prompts, neurons, law=law).T.numpy(), seed=seed
    )
    peaks, resid = _peaks(model, items, neurons)
    at = peaks[..., 0].abs().argmax(1, keepdim=True)
    strongest = peaks[..., 0].gather(1, at)[:, 0].tolist()
    promoted = promoted_tokens(model, neurons, strongest, resid=resid, n=n_tokens)
    cards = []
    for i, neuron in enumerate(track(neurons, "neuron cards", total=len(neurons))):
        order = peaks[i, :, 0].abs().topk(min(n_examples, len(items))).indices.tolist()
        some = [items[row] for row in order]
        places = [int(peaks[i, row, 1]) for row in order]
        own = NeuronSet((neuron,), model.n_layers, model.d_mlp)
        before = _continued(model, some, max_new_tokens)
        deletion = law(own)
        with deletion.applied(model):
            after = _continued(model, some, max_new_tokens)
        cards.append(
            NeuronCard(
                layer=neuron[0],
                neuron=neuron[1],
                effect=effects[i],
                score=None if scores is None else float(scores.scores[neuron]),
                cost=None
                if scores is None or bool(scores.cost[neuron].isnan())
                else float(scores.cost[neuron]),
                raised=promoted[i].raised,
                lowered=promoted[i].lowered,
                excited=tuple(
                    Excited(item.prompt.start, item.words[pos], pos, float(peaks[i, row, 0]))
                    for item, pos, row in zip(some, places, order, strict=True)
                ),
                changes=tuple(
                    Change(item.prompt.start, one, other)
                    for item, one, other in zip(some, before, after, strict=True)
                ),
                law=deletion.law,
            )
        )
    return cards


@torch.no_grad()
def _peaks(
    model: LensModel, items: Sequence[PromptTokens], neurons: Sequence[Neuron]
) -> tuple[Float[Tensor, "neuron prompt two"], Float[Tensor, " d_model"]]:
    """Each neuron's strongest activation in each prompt and where; the mean of what leaves the last layer."""
    layers = sorted({layer for layer, _ in neurons})
    last: tuple[Site, int] = ("resid_post", model.n_layers - 1)
    found = torch.zeros(len(neurons), len(items), 2)
    total, start = torch.zeros(model.d_model, device=model.device, dtype=model.dtype), 0
    for batch in in_batches(items, PROMPTS, "activations"):
        tokens, mask = model.pad([item.tokens for item in batch])
        sites: list[tuple[Site, int]] = [("mlp_post", layer) for layer in layers]
        _, states = model.capture(tokens, mask, sites=[*sites, last], keep=1)
        total = total + states[last][:, -1].sum(0)
        pads = tokens.shape[1] - mask.sum(1)
        for i, (layer, number) in enumerate(neurons):
            hidden = states["mlp_post", layer][..., number].float()
            # In a gated MLP a neuron may be strongest where it is negative, and then says the opposite.
            peak = hidden.abs().masked_fill(mask == 0, -1).max(1)
            rows = slice(start, start + len(batch))
            found[i, rows, 0] = hidden.gather(1, peak.indices[:, None])[:, 0].cpu()
            found[i, rows, 1] = (peak.indices - pads).float().cpu()
        start += len(batch)
    return found, total / len(items)


def _continued(model: LensModel, items: Sequence[PromptTokens], n: int) -> list[str]:
    """Greedy continuations."""
    if not items:
        return []
    room = min(n, model.n_ctx - max(len(item.tokens) for item in items))
    if room < 1:
        return ["" for _ in items]
    tokens, mask = model.pad([item.tokens for item in items])
    longer = model.generate(tokens, mask, max_new_tokens=room)[:, tokens.shape[1] :]
    return [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in longer]
