"""`Robustness`: layer profiles under several variants of a trace, and how far their ranks agree."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from tl_toxmem.stats import Estimate, interval, resampled
from tl_toxmem.trace.statistics import Place

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Profile:
    """One variant at one site.

    Attributes:
        varied: `as configured`, `noise`, `window`, `metric` or `corruption`.
        name: what it was varied to.
        site: `mlp_out` or `attn_out`.
        effect: mean effect by layer, in the unit of the variant's metric.
        agreement: Spearman's rank correlation with the profile as configured; `n` counts prompts.
    """

    varied: str
    name: str
    site: str
    effect: tuple[float, ...]
    agreement: Estimate


@dataclass(frozen=True)
class Robustness:
    """All variants, those as configured first.

    Attributes:
        place: the token that the profiles are of, `last_subject` or `last`.
        profiles: one for each variant and site.
    """

    place: Place
    profiles: tuple[Profile, ...]

    def frame(self) -> "pd.DataFrame":
        """One row per variant and site: the agreement, and the layer of the largest effect."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "varied": p.varied,
                    "name": p.name,
                    "site": p.site,
                    "peak_layer": int(np.argmax(p.effect)),
                    **p.agreement.to_json(),
                }
                for p in self.profiles
            ]
        )

    def plot(self) -> "go.Figure":
        """The card (see `plots.plot_robustness`)."""
        from tl_toxmem.plots import plot_robustness

        return plot_robustness(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the header of a trace file."""
        return asdict(self)


def rank_agreement(
    first: Float[Tensor, "prompt layer"], second: Float[Tensor, "prompt layer"], *, seed: int
) -> Estimate:
    """Spearman's correlation of two mean profiles of the same prompts, with its interval over prompts."""
    a, b = first.double().numpy(), second.double().numpy()
    n = len(a)
    value = float(_spearman(a.mean(0)[None], b.mean(0)[None])[0])
    if n < 2:
        return Estimate(value, None, None, n)
    counts = resampled(n, np.random.default_rng(seed)) / n
    return Estimate(value, *interval(_spearman(counts @ a, counts @ b)), n)


def _spearman(a: Any, b: Any) -> Any:
    """Row by row; 0 where a row does not vary."""
    ranks = [rankdata(x, axis=-1) for x in (a, b)]
    centred = [r - r.mean(-1, keepdims=True) for r in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    return (centred[0] * centred[1]).sum(-1) / np.where(norm > 0, norm, np.inf)
