"""Learned gates as methods of the comparison, and the same learning at random places."""

import random
from collections.abc import Callable, Sequence

from tl_toxmem.comparators import Comparator, Material
from tl_toxmem.comparators.base import no_detail
from tl_toxmem.comparators.ours import best, most_controlled
from tl_toxmem.config import SelectConfig
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.gates import learn_gates, n_candidates
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select import loudness_of, select_neurons

_BUDGETS = (0.003, 0.01, 0.03, 0.1)
Candidates = Callable[[Material, int], NeuronSet]


def random_neurons(material: Material, n: int) -> NeuronSet:
    """As many others in each layer, about as loud.

    Unlike controls that are silenced, these may be among the highest: an edit that is optimised at a random place is to
    have what that place has.
    """
    return best(material, n).random_like(seed=material.seed, loudness=loudness_of(material.scores))


def random_layers(material: Material, n: int) -> NeuronSet:
    """The `n` that score highest per cost in a random third of the layers."""
    layers = drawn_layers(material)
    among = min(n, len(layers) * material.scores.scores.shape[1])
    return select_neurons(material.scores, cfg=SelectConfig(k=among, layers=layers))


def drawn_layers(material: Material) -> tuple[int, ...]:
    """A random third of the layers."""
    n_layers = material.scores.scores.shape[0]
    draw = random.Random(material.seed)
    return tuple(sorted(draw.sample(range(n_layers), max(1, n_layers // 3))))


def _which_layers(material: Material, cfg: ComparatorConfig) -> str:
    """What one draw is worth depends on it: its layers, and how many of the best candidates lie there."""
    layers = drawn_layers(material)
    candidates = best(material, _n_candidates(material, cfg))
    there = sum(layer in layers for layer, _ in candidates) / len(candidates)
    return f" {', '.join(map(str, layers))} ({there:.0%} of the best candidates)"


def _n_candidates(material: Material, cfg: ComparatorConfig) -> int:
    n_layers, d_mlp = material.scores.scores.shape
    return most_controlled(material, cfg.gate_candidates or n_candidates(n_layers, d_mlp))


def _maker(candidates: Candidates) -> Callable[..., dict[float, Deletion]]:
    def make(
        model: LensModel, material: Material, *, strengths: Sequence[float], cfg: ComparatorConfig
    ) -> dict[float, Deletion]:
        found = learn_gates(
            model,
            material.prompts,
            candidates=candidates(material, _n_candidates(material, cfg)),
            scores=material.scores,
            neutral=material.neutral,
            budgets=strengths,
            cfg=cfg.gates,
            seed=material.seed,
        )
        return {budget: gates.deletion() for budget, gates in found.items()}

    return make


def _comparator(
    label: str,
    family: str,
    candidates: Candidates,
    detail: Callable[[Material, ComparatorConfig], str] = no_detail,
) -> Comparator:
    return Comparator(
        label=label,
        family=family,
        strength="allowed rise of perplexity",
        strengths=lambda model: _BUDGETS,  # noqa: ARG005
        make=_maker(candidates),
        takes="positive",
        detail=detail,
    )


LEARNED = {
    "gates": _comparator("learned gates", "learned", best),
    "gates_random_neurons": _comparator("learned gates, random neurons", "control", random_neurons),
    "gates_random_layers": _comparator(
        "learned gates, random layers", "control", random_layers, _which_layers
    ),
}
