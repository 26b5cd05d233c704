"""Learned gates: a scale in [0, 1] for each of some neurons, found by gradient.

With `d = 1 - s` of the candidates' scales s, projected Adam minimises

    mean over find prompts of softplus(log m - log m_base + margin)
    + sum_i lambda_i d_i + mu KL(base || gated) on neutral text

with m the probability that the next token is the first of any find prompt's target (pressed down alone, a prompt's own
target makes room for another prompt's insult), lambda_i in proportion to what removing neuron i costs, so that most
d_i are exactly 0, and mu moved at each step (dual ascent) so that the KL stays at the budget: for a budget of x
relative perplexity, log(1 + x) nats per token. What is learned is a `Deletion.scale`, and bakes like any other.

Louizos et al. 2018 learn gates for sparsity. Wang and Veitch 2025 say why it must be held against the same learning at
random places: give it random candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.checks import several_numbers
from tl_toxmem.config import GateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.gate_learner import Learner
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.prompts import PromptSet

_CANDIDATES = (50, 2000)
"""Fewest and most by default."""


def n_candidates(n_layers: int, d_mlp: int) -> int:
    """How many neurons get a gate unless told otherwise: a thirtieth of them, 50 to 2,000, at most half."""
    fewest, most = _CANDIDATES
    return min(most, max(fewest, n_layers * d_mlp // 30), max(1, n_layers * d_mlp // 2))


@dataclass(frozen=True)
class Gates:
    """What was learned for one budget.

    Attributes:
        neurons: the candidates whose scale is below 1.
        scale: [neuron] in [0, 1), in the order of `neurons`.
        budget: relative rise of neutral perplexity that was allowed.
        increase: what it rose by, on neutral text that was not learned from.
        increase_high: the upper limit of that.
    """

    neurons: NeuronSet
    scale: Float[Tensor, " neuron"]
    budget: float
    increase: float
    increase_high: float

    def deletion(self) -> Deletion:
        """The law: each activation times its scale."""
        return Deletion.scale(self.neurons, self.scale)


def learn_gates(
    model: LensModel,
    prompts: PromptSet,
    *,
    candidates: NeuronSet,
    scores: NeuronScores,
    neutral: Sequence[str],
    budgets: Sequence[float],
    cfg: GateConfig | None = None,
    seed: int = 0,
) -> dict[float, Gates]:
    """Learn gates for one budget after the other, the smallest first.

    Args:
        model: any host, raw weights; it is left as it was.
        prompts: find prompts with toxic targets.
        candidates: the neurons that may be scaled.
        scores: with costs, of the same model.
        neutral: text kept for choosing.
        budgets: relative rises of neutral perplexity, such as 0.01.
        cfg: of the optimisation.
        seed: of the batches and of the bootstrap.

    Returns:
        The gates by budget. The upper limit of the rise of perplexity (by bootstrap over pieces of text that was not
        learned from) is within the budget: where the optimisation overshot, all scales are moved towards 1 together
        until it is.

    Raises:
        ToxmemError: no candidates, no cost in the scores, one budget in place of several, or one that is not positive,
            no prompts, too little neutral text to learn on one part and to check on another.
    """
    cfg = cfg or GateConfig()
    several_numbers(budgets, "budgets")
    if not len(candidates) or not budgets or min(budgets) <= 0:
        raise ToxmemError("learned gates need candidates, and budgets above 0")
    learner = Learner(
        model, prompts.first(cfg.max_prompts), candidates, scores, neutral, cfg, seed=seed
    )
    return {budget: Gates(*learner.learn(budget)) for budget in sorted(set(budgets))}
