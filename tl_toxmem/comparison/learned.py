"""Learned gates as methods of the comparison, and the same learning at random places."""

import random
from collections.abc import Callable, Sequence

from tl_toxmem.comparators import Comparator, Material
from tl_toxmem.comparators.ours import best
from tl_toxmem.config import SelectConfig
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.gates import learn_gates, n_candidates
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select import control_sets, select_neurons

_BUDGETS = (0.003, 0.01, 0.03, 0.1)
Candidates = Callable[[Material, int], NeuronSet]


def random_neurons(material: Material, n: int) -> NeuronSet:
    """As many others in each layer, about as loud."""
    return control_sets(best(material, n), material.scores, seed=material.seed)["random_neurons"]


def random_layers(material: Material, n: int) -> NeuronSet:
    """The `n` that score highest per cost in a random third of the layers."""
    n_layers = material.scores.scores.shape[0]
    draw = random.Random(material.seed)
    layers = tuple(sorted(draw.sample(range(n_layers), max(1, n_layers // 3))))
    return select_neurons(material.scores, cfg=SelectConfig(k=n, layers=layers))


def _maker(candidates: Candidates) -> Callable[..., dict[float, Deletion]]:
    def make(
        model: LensModel, material: Material, *, strengths: Sequence[float], cfg: ComparatorConfig
    ) -> dict[float, Deletion]:
        n = cfg.gate_candidates or n_candidates(model.n_layers, model.d_mlp)
        found = learn_gates(
            model,
            material.prompts,
            candidates=candidates(material, n),
            scores=material.scores,
            neutral=material.neutral,
            budgets=strengths,
            cfg=cfg.gates,
            seed=material.seed,
        )
        return {budget: gates.deletion() for budget, gates in found.items()}

    return make


def _comparator(label: str, family: str, candidates: Candidates) -> Comparator:
    return Comparator(
        label=label,
        family=family,
        strength="allowed rise of perplexity",
        strengths=lambda model: _BUDGETS,  # noqa: ARG005
        make=_maker(candidates),
        needs=(),
    )


LEARNED = {
    "gates": _comparator("learned gates", "learned", best),
    "gates_random_neurons": _comparator("learned gates, random neurons", "control", random_neurons),
    "gates_random_layers": _comparator("learned gates, random layers", "control", random_layers),
}
