"""Settings of the comparison with other methods."""

from pydantic import Field, model_validator

from tl_toxmem.config.base import Config
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.config.evaluate import ALL_MEASURES, COSTLY, MeasureName


class CompareConfig(Config):
    """Which methods are held against the deletion, and how far each is driven."""

    methods: tuple[str, ...] = ()
    """By name; empty: all."""
    strengths: dict[str, tuple[float, ...]] = {}
    """By method, in place of its own."""
    n_continuations: int | None = Field(None, ge=1)
    """Sampled continuations per prompt; None: as many as in the evaluation."""
    measures: tuple[MeasureName, ...] = tuple(
        m for m in ALL_MEASURES if m == "kl_neutral" or m not in COSTLY
    )
    """In place of `evaluate.measures`; without those that cost forward passes of their own, as there are many laws."""
    alternatives: int = Field(8, ge=1)
    """Continuations sampled for a find prompt without a `neutral_target`; the least toxic is its benign alternative."""
    regression_k: int = Field(20, ge=1)
    """Neurons deleted in one layer, for the regression of success on the traced effect; at most half a layer."""
    comparators: ComparatorConfig = ComparatorConfig()
    """Of the methods themselves."""

    @model_validator(mode="after")
    def _each_once(self) -> "CompareConfig":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods: name each method once")
        for name, values in self.strengths.items():
            if not values:
                raise ValueError(f"no strengths of {name}: leave it out for the method's own")
            if len(set(values)) < len(values):
                raise ValueError(f"give each strength of {name} once")
        return self
