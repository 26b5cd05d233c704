"""`Trace`: causal effects of every state, per prompt; saved traces load without the model."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_toxmem.config import Metric
from tl_toxmem.display import Display, Displayed
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.reading import check_tensors, record
from tl_toxmem.trace.agreement import Robustness
from tl_toxmem.trace.metrics import SIGN
from tl_toxmem.trace.question import Answer, answer
from tl_toxmem.trace.statistics import Place, at, by_class, by_layer, shares
from tl_toxmem.trace.summary import summary

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Figure = Literal["tokens", "layers", "classes", "severed", "shares", "robustness"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
KIND = "trace"
_TENSORS = ("clean", "corrupted", "restored", "parts", "exact", "n_restored")


@dataclass(frozen=True)
class _Words:
    """The fields of a trace that are no tensors (see `Trace`)."""

    sites: tuple[str, ...]
    metrics: tuple[Metric, ...]
    metric: Metric
    prompt_ids: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    subjects: tuple[tuple[int, int], ...]
    corruption: str
    noise: float
    n_noise: int
    seed: int


_WORDS = tuple(field.name for field in fields(_Words))


@dataclass(frozen=True, repr=False)
class Trace(Displayed):
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
        benign: the same of benign prompts, to compare with.
        robustness: layer profiles under other noise, windows, metrics and corruptions.
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
    benign: "Trace | None" = None
    robustness: Robustness | None = None

    def display(self) -> Display:
        """The largest mean effects and the shares of thirds of the stack; see `summary.summary`."""
        return summary(self)

    @property
    def has_subjects(self) -> bool:
        """Whether the corrupted span of some prompt ends before the prompt does; without a subject it is all of it."""
        spans = zip(self.subjects, self.words, strict=True)
        return any(end < len(words) for (_, end), words in spans)

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
    def normalised(self) -> Float[Tensor, "prompt site layer pos"]:
        """Indirect effects as shares of each prompt's total effect; NaN where corruption took nothing away."""
        total = torch.where(self.total_effect > 0, self.total_effect, torch.nan)
        return self.effect / total[:, None, None, None]

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
        values = self.restored[self.metrics.index(metric)]
        if bool((values.isnan() & ~self.restored[0].isnan()).any()):
            raise ToxmemError(
                f"this trace was screened by {self.metrics[0]!r}: {metric!r} is known of few cells only"
            )
        benign = self.benign.in_metric(metric) if self.benign else None
        return replace(self, metric=metric, benign=benign)

    def at(self, place: Place) -> Float[Tensor, "prompt site layer"]:
        """Effects at one token of each prompt.

        Args:
            place: `last_subject` (the subject's last token, where factual recall was found to sit in GPT) or
                `last` (the prompt's last token, where the target is predicted).
        """
        return at(self.effect, self, place)

    def by_layer(self, place: Place = "last_subject") -> "pd.DataFrame":
        """Mean effect at one token of each prompt by site and layer; see `statistics.by_layer`."""
        return by_layer(self, place)

    def by_class(self) -> "pd.DataFrame":
        """Average indirect effects by site, layer and class of token; see `statistics.by_class`."""
        return by_class(self)

    def shares(self) -> "pd.DataFrame":
        """Share of the total effect that early, middle and late layers mediate; see `statistics.shares`."""
        return shares(self)

    def answer(self) -> Answer:
        """Are the early MLPs special? In words, with numbers; see `question.answer`."""
        return answer(self, self.benign)

    def frame(self) -> "pd.DataFrame":
        """Every cell as a row; cells that were not asked for are left out."""
        import pandas as pd

        effect, total = self.effect, self.total_effect
        rows = []
        for p, s, layer, pos in (~effect.isnan()).nonzero().tolist():
            start, end = self.subjects[p]
            rows.append(
                {
                    "prompt": self.prompt_ids[p],
                    "site": self.sites[s],
                    "layer": layer,
                    "n_restored": int(self.n_restored[s, layer]),
                    "pos": pos,
                    "token": self.words[p][pos],
                    "in_subject": start <= pos < end,
                    "effect": float(effect[p, s, layer, pos]),
                    "total_effect": float(total[p]),
                    "measured": bool(self.exact[p, s, layer, pos]),
                }
            )
        return pd.DataFrame(rows)

    def plot(self, figure: Figure = "tokens", *, prompt: int | None = None) -> "go.Figure":
        """A figure of the trace.

        Args:
            figure: `tokens`, the token x layer maps of one prompt; `layers`, the mean effect by layer at two tokens;
                `classes`, by layer and class of token; `severed`; `shares` of early, middle and late layers; or
                `robustness`.
            prompt: for `tokens`, its place in the trace; None: the one that corruption takes most from.
        """
        from tl_toxmem import plots

        if figure not in FIGURES:
            raise ToxmemError(f"unknown figure {figure!r}: choose from {', '.join(FIGURES)}")
        if figure == "tokens":
            return plots.plot_trace(self, prompt=prompt)
        if figure == "robustness":
            if self.robustness is None:
                raise ToxmemError("this trace has no robustness card: see check_robustness")
            return self.robustness.plot()
        lacking = {
            "shares": ("parts", bool(self.parts.isnan().all())),
            "severed": ("severed", not any("_without_" in site for site in self.sites)),
        }
        setting, is_lacking = lacking.get(figure, ("", False))
        if is_lacking:
            raise ToxmemError(f"this trace has no data for {figure!r}: trace with trace.{setting}")
        draw = {
            "layers": plots.plot_layers,
            "classes": plots.plot_classes,
            "severed": plots.plot_severed,
            "shares": plots.plot_shares,
        }
        return draw[figure](self)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        meta: dict[str, Any] = {name: getattr(self, name) for name in _WORDS}
        if self.benign is not None:
            tensors |= {f"benign.{name}": getattr(self.benign, name) for name in _TENSORS}
            meta["benign"] = {name: getattr(self.benign, name) for name in _WORDS}
        if self.robustness is not None:
            meta["robustness"] = self.robustness.to_json()
        write_tensors(Path(path), KIND, tensors, meta)

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
        benign = None
        if "benign" in meta:
            absent = [name for name in _TENSORS if f"benign.{name}" not in tensors]
            if absent:
                raise ToxmemError(f"{path} is damaged: its benign trace lacks {', '.join(absent)}")
            others = {name: tensors[f"benign.{name}"] for name in _TENSORS}
            benign = cls(**_checked(others, meta["benign"], path))
        robustness = record(Robustness, meta["robustness"], path) if "robustness" in meta else None
        own = _checked({name: tensors[name] for name in _TENSORS}, meta, path)
        return cls(**own, benign=benign, robustness=robustness)


def _checked(tensors: dict[str, Tensor], meta: Any, path: object) -> dict[str, Any]:
    """The fields of a trace, once words and tensors are known to fit each other."""
    words = record(_Words, meta, path)
    n_metrics, n_prompts = len(words.metrics), len(words.prompt_ids)
    restored = tensors["restored"]
    if restored.ndim != 5:
        raise ToxmemError(f"{path} is damaged: restored has {restored.ndim} axes, not 5")
    layers, width = restored.shape[3:]
    cells = (n_prompts, len(words.sites), layers, width)
    check_tensors(
        tensors,
        {
            "clean": (n_metrics, n_prompts),
            "corrupted": (n_metrics, n_prompts),
            "restored": (n_metrics, *cells),
            "parts": (n_metrics, n_prompts, 2, 4),
            "exact": cells,
            "n_restored": (len(words.sites), layers),
        },
        path,
        whole=("n_restored",),
        truth=("exact",),
    )
    spans = zip(words.words, words.subjects, strict=False)
    fits = len(words.words) == len(words.subjects) == n_prompts and words.metric in words.metrics
    if not fits or not all(0 <= start <= end <= len(text) <= width for text, (start, end) in spans):
        raise ToxmemError(
            f"{path} is damaged: its prompts, words and subjects do not fit each other"
        )
    return {**tensors, **{name: getattr(words, name) for name in _WORDS}}
