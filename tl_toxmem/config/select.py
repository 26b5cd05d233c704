"""Settings of the selection and of the deletion."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from tl_toxmem.config.base import Config, Seed
from tl_toxmem.config.gates import GateConfig

Part = Literal["early", "middle", "late", "trace"]
BY_SIZE = ("cost_aware", "top", "greedy")
"""Methods that need a number of neurons; the others have it from their threshold."""


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
    seed: Seed = 0

    @field_validator("layers", mode="before")
    @classmethod
    def _check_layers(cls, value: Any) -> Any:
        """One message in place of one for each form that it may have."""
        parts = get_args(Part)
        numbers = isinstance(value, list | tuple | range) and all(type(n) is int for n in value)
        if value is None or numbers or (isinstance(value, str) and value in parts):
            return tuple(value) if numbers else value
        raise ValueError(f"give layer numbers such as [2, 3], or one of {', '.join(parts)}")

    @model_validator(mode="after")
    def _check_k(self) -> "SelectConfig":
        if self.k is not None and self.method not in BY_SIZE:
            raise ValueError(
                f"k is {self.k}, but select.method = {self.method!r} has its number of neurons from the threshold: "
                f"leave out k, or choose a method of {', '.join(BY_SIZE)}"
            )
        return self


class DeleteConfig(Config):
    """What happens to the selected neurons."""

    law: Literal["zero", "mean", "scale", "input_gain", "gates"] = "zero"
    """Activation to 0, to its mean on neutral text, or times `factor`; what goes into the nonlinearity times `factor`;
    or activation times a scale of each neuron's own, learned within `select.max_perplexity_increase`."""
    factor: float = 0.0
    """For the laws `scale` and `input_gain`."""
    gates: GateConfig = GateConfig()
    """For the law `gates`; its candidates are the `select.k` highest by score per cost."""
