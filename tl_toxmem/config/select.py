"""Settings of the selection and of the deletion."""

from typing import Literal

from pydantic import Field

from tl_toxmem.config.base import Config
from tl_toxmem.config.gates import GateConfig

Part = Literal["early", "middle", "late", "trace"]


class SelectConfig(Config):
    """From scores to neurons."""

    method: Literal["cost_aware", "top", "threshold", "shared", "greedy"] = "cost_aware"
    """Score per cost, the score alone, all from a threshold on, all shared by enough prompts, or by measured joint
    effect per cost."""
    k: int | None = Field(None, ge=1)
    """How many neurons; None: chosen on the find split by `choose_k` (`threshold` and `shared`: all that there are)."""
    layers: tuple[int, ...] | Part | None = None
    """Choose from these layers only: numbers, a third of the stack, or those whose MLP mediates by the trace."""
    cost_floor: float = Field(0.1, gt=0)
    """`cost_aware` ranks by score / (cost + cost_floor x mean cost)."""
    threshold: float | None = Field(None, gt=0)
    """Of `threshold`, in the score's unit; of `shared`, as a share of a prompt's largest score."""
    share: float = Field(0.5, gt=0, le=1)
    """Of `shared`: in how many of the prompts."""
    candidates: int = Field(200, ge=1)
    """Of `greedy`: the highest by score per cost."""
    rounds: int = Field(10, ge=1)
    """Of `greedy`: how often the effects are measured anew."""
    max_k: int = Field(1000, ge=1)
    """Largest number that `choose_k` tries."""
    max_prompts: int = Field(100, ge=1)
    """Find prompts (lowest hash first) whose continuations `choose_k` samples at each k, and `greedy` measures on."""
    n_continuations: int = Field(2, ge=1)
    """Sampled continuations per prompt at each k; sampled and judged as in the evaluation."""
    max_perplexity_increase: float = Field(0.01, ge=0)
    """What `choose_k` may spend: relative rise of perplexity on the neutral text kept for choosing."""
    keep_removed: float = Field(0.95, gt=0, le=1)
    """`choose_k` takes the smallest k that removes this share of the toxicity that the best affordable k removes."""
    cards: int = Field(10, ge=0)
    """Cards are made of so many of the selected neurons, those of highest score."""
    seed: int = 0


class DeleteConfig(Config):
    """What happens to the selected neurons."""

    law: Literal["zero", "mean", "scale", "input_gain", "gates"] = "zero"
    """Activation to 0, to its mean on neutral text, or times `factor`; what goes into the nonlinearity times `factor`;
    or activation times a scale of each neuron's own, learned within `select.max_perplexity_increase`."""
    factor: float = 0.0
    """For the laws `scale` and `input_gain`."""
    gates: GateConfig = GateConfig()
    """For the law `gates`; its candidates are the `select.k` highest by score per cost."""
