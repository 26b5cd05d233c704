"""`Trace`: causal effects of every state, per prompt; saved traces load without the model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_toxmem.config import Metric
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.stats import mean_estimate
from tl_toxmem.trace.metrics import SIGN

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Place = Literal["last_subject", "last"]
PLACES: tuple[Place, ...] = get_args(Place)
KIND = "trace"
_TENSORS = ("clean", "corrupted", "restored", "parts", "exact", "n_restored")
_WORDS = (
    "sites",
    "metrics",
    "metric",
    "prompt_ids",
    "words",
    "subjects",
    "corruption",
    "noise",
    "n_noise",
    "seed",
)


@dataclass(frozen=True)
class Trace:
    """Causal effects of every state, per prompt.

    Attributes:
        sites: names along the site axis: `mlp_out` (a window), `mlp_out_single` (each layer alone),
            `resid_post_without_mlp` (severed, at the subject's last token), ...
        metrics: names along the metric axis (see `trace.metrics`).
        metric: what `effect` is in; `in_metric` gives the same trace in another.
        prompt_ids: along the prompt axis.
        words: the tokens of each prompt as text.
        subjects: half-open span of the corrupted tokens of each prompt.
        clean: [metric, prompt], clean run.
        corrupted: [metric, prompt], mean over noise draws.
        restored: [metric, prompt, site, layer, pos], mean over noise draws; NaN past a prompt's end, and where a site
            was not asked for.
        parts: [metric, prompt, 2, 4] with MLP and attention outputs (first axis) of the early, middle and late thirds
            of the layers and of all layers (second) restored at all tokens from the first corrupted one on.
        exact: [prompt, site, layer, pos] whether a cell was measured, or only estimated by a screening.
        n_restored: [site, layer] layers really restored in each window.
        corruption: `noise`, `replace` or `mean`.
        noise: the standard deviation of the noise.
        n_noise: draws per prompt.
        seed: of the noise.
    """

    sites: tuple[str, ...]
    metrics: tuple[Metric, ...]
    metric: Metric
    prompt_ids: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    subjects: tuple[tuple[int, int], ...]
    clean: Float[Tensor, "metric prompt"]
    corrupted: Float[Tensor, "metric prompt"]
    restored: Float[Tensor, "metric prompt site layer pos"]
    parts: Float[Tensor, "metric prompt part_site part"]
    exact: Bool[Tensor, "prompt site layer pos"]
    n_restored: Int[Tensor, "site layer"]
    corruption: str
    noise: float
    n_noise: int
    seed: int

    @property
    def effect(self) -> Float[Tensor, "prompt site layer pos"]:
        """Indirect effects in `metric`, positive where a state mediates the target; NaN past a prompt's end."""
        m = self.metrics.index(self.metric)
        return SIGN[self.metric] * (self.restored[m] - self.corrupted[m][:, None, None, None])

    @property
    def total_effect(self) -> Float[Tensor, " prompt"]:
        """What corruption takes away, in `metric`."""
        m = self.metrics.index(self.metric)
        return SIGN[self.metric] * (self.clean[m] - self.corrupted[m])

    @property
    def part_effect(self) -> Float[Tensor, "prompt part_site part"]:
        """Joint indirect effects of the thirds of the layers, and of all of them; see `parts`."""
        m = self.metrics.index(self.metric)
        return SIGN[self.metric] * (self.parts[m] - self.corrupted[m][:, None, None])

    def in_metric(self, metric: Metric) -> "Trace":
        """The same trace, with its effects in another of its metrics."""
        if metric not in self.metrics:
            raise ToxmemError(
                f"this trace has no {metric!r}: choose from {', '.join(self.metrics)}"
            )
        return replace(self, metric=metric)

    def at(self, place: Place) -> Float[Tensor, "prompt site layer"]:
        """Effects at one token of each prompt.

        Args:
            place: `last_subject` (the subject's last token, where factual recall was found to sit in GPT) or
                `last` (the prompt's last token, where the target is predicted).
        """
        if place not in PLACES:
            raise ToxmemError(f"unknown place {place!r}: choose from {', '.join(PLACES)}")
        ends = (
            [end for _, end in self.subjects] if place == "last_subject" else map(len, self.words)
        )
        pos = torch.tensor([end - 1 for end in ends])
        return self.effect[torch.arange(len(pos)), :, :, pos]

    def by_layer(self, place: Place = "last_subject") -> "pd.DataFrame":
        """Mean effect at one token of each prompt by site and layer, with 95 % intervals over prompts."""
        import pandas as pd

        effects = self.at(place)
        rows = []
        for s, site in enumerate(self.sites):
            for layer in range(effects.shape[2]):
                estimate = mean_estimate(effects[:, s, layer].numpy(), seed=self.seed)
                n_restored = int(self.n_restored[s, layer])
                rows.append(
                    {"site": site, "layer": layer, "n_restored": n_restored, **estimate.to_json()}
                )
        return pd.DataFrame(rows)

    def frame(self) -> "pd.DataFrame":
        """Every cell as a row: prompt, site, layer, pos, token, whether it is of the subject, effect."""
        import pandas as pd

        rows = []
        for p, (prompt_id, words) in enumerate(zip(self.prompt_ids, self.words, strict=True)):
            start, end = self.subjects[p]
            for s, site in enumerate(self.sites):
                for layer in range(self.effect.shape[2]):
                    rows += [
                        (prompt_id, site, layer, pos, word, start <= pos < end, effect)
                        for pos, (word, effect) in enumerate(
                            zip(words, self.effect[p, s, layer].tolist(), strict=False)
                        )
                    ]
        return pd.DataFrame(
            rows, columns=["prompt", "site", "layer", "pos", "token", "in_subject", "effect"]
        )

    def plot(self) -> "go.Figure":
        """Heat maps of one prompt's effects, token x layer, one panel per site (see `plots.plot_trace`)."""
        from tl_toxmem.plots import plot_trace

        return plot_trace(self)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        write_tensors(Path(path), KIND, tensors, {name: getattr(self, name) for name in _WORDS})

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what `save` wrote; the model is not needed.

        Raises:
            ToxmemError: missing, damaged, or written by an earlier tl-toxmem that measured less.
        """
        tensors, meta = read_tensors(Path(path), KIND)
        lacking = sorted({*_TENSORS, *_WORDS} - {*tensors, *meta})
        if lacking:
            raise ToxmemError(
                f"{path} is of an earlier tl-toxmem (no {', '.join(lacking)}): trace anew"
            )
        values: dict[str, Any] = {name: meta[name] for name in _WORDS}
        for name in ("sites", "metrics", "prompt_ids"):
            values[name] = tuple(values[name])
        for name in ("words", "subjects"):
            values[name] = tuple(tuple(inner) for inner in values[name])
        return cls(**{**tensors, **values})
