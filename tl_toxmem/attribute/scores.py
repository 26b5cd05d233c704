"""`NeuronScores`: one method's score of every MLP neuron, what each costs, and the check of the highest."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.verification import Verification
from tl_toxmem.checks import seed_of, whole
from tl_toxmem.config import shown_name
from tl_toxmem.display import Display, Displayed, Table, count, estimate_text
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron, NeuronSet
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import check_tensors, record
from tl_toxmem.stats import Estimate, mean_estimates

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "neuron_scores"
UNITS = {
    "gradient": "nats",
    "attribution_patching": "nats",
    "grad_drop": "nats, without sign",
    "integrated_gradients": "nats",
    "knowledge_neurons": "probability",
    "direct_effect": "nats",
    "contrast": "activation x length of the value vector",
    "experts": "AUROC - 0.5",
    "probe": "cosine",
    "ablation": "nats",
}
"""Of each method's scores; nats are of the whole target's log-probability."""


@dataclass(frozen=True, repr=False)
class NeuronScores(Displayed):
    """One method's scores of every neuron; positive where the neuron speaks for the target.

    Attributes:
        method: which.
        scores: [layer, d_mlp] the mean over prompts, in `unit`.
        per_prompt: [prompt, layer, d_mlp]; no prompts for methods that score neurons by texts or weights alone.
        prompt_ids: of the rows of `per_prompt`.
        cost: [layer, d_mlp] what removing each costs on neutral text, in nats per token (see `cost.py`); NaN where no
            neutral text was given.
        mean_activation: [layer, d_mlp] on neutral text, NaN likewise.
        loudness: [layer, d_mlp] root mean square activation on neutral text x length of the value vector, NaN likewise.
        verification: what ablating the highest, and a random sample of the others, really does.
        facts: what else the method says of itself, such as its steps and its residual.
        seed: of noise, samples and intervals.
        model_name: of the model that they were made on, a folder by its last name; empty where nobody said.
        architecture: its `model_type`, likewise.
    """

    method: str
    scores: Float[Tensor, "layer d_mlp"]
    per_prompt: Float[Tensor, "prompt layer d_mlp"]
    prompt_ids: tuple[str, ...]
    seed: int
    cost: Float[Tensor, "layer d_mlp"] = field(default_factory=lambda: torch.empty(0))
    mean_activation: Float[Tensor, "layer d_mlp"] = field(default_factory=lambda: torch.empty(0))
    loudness: Float[Tensor, "layer d_mlp"] = field(default_factory=lambda: torch.empty(0))
    verification: Verification | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    model_name: str = ""
    architecture: str = ""

    def __post_init__(self) -> None:
        seed_of(self.seed)
        for name in ("cost", "mean_activation", "loudness"):
            if not getattr(self, name).numel():
                object.__setattr__(self, name, torch.full_like(self.scores, torch.nan))

    @classmethod
    def of_prompts(
        cls,
        method: str,
        per_prompt: Float[Tensor, "prompt layer d_mlp"],
        prompts: PromptSet,
        *,
        seed: int,
        facts: Mapping[str, Any] | None = None,
        model: LensModel | None = None,
    ) -> "NeuronScores":
        """Scores that are means over prompts."""
        ids = tuple(prompt.id for prompt in prompts)
        values = per_prompt.mean(0)
        return cls(method, values, per_prompt, ids, seed, facts=facts or {}, **_made_on(model))

    @classmethod
    def of_neurons(
        cls,
        method: str,
        scores: Float[Tensor, "layer d_mlp"],
        *,
        seed: int,
        facts: Mapping[str, Any] | None = None,
        model: LensModel | None = None,
    ) -> "NeuronScores":
        """Scores that rest on no prompt."""
        nothing = scores.new_empty(0, *scores.shape)
        return cls(method, scores, nothing, (), seed, facts=facts or {}, **_made_on(model))

    def display(self) -> Display:
        """The ten highest, and what measuring them said."""
        layers, d_mlp = self.scores.shape
        of = f" of {self.model_name}" if self.model_name else ""
        over = f", mean over {count(self.n_prompts, 'prompt')}" if self.n_prompts else ""
        top = highest(self.scores, min(_SHOWN, self.scores.numel()))
        headline = (
            f"Scores of {layers} x {d_mlp} neurons{of} by {self.method}, in {self.unit}{over}"
        )
        headline += f"; the {len(top)} highest"
        measured = self.verification.effects() if self.verification else {}
        costly, head = bool(self.cost.isfinite().any()), ["layer", "neuron", "score"]
        head += ["cost (nats per neutral token)"] * costly + ["measured (nats)"] * bool(measured)
        rows = []
        for neuron, score in zip(top, self.at(top), strict=True):
            cells = [str(neuron[0]), str(neuron[1]), estimate_text(score)]
            cells += [f"{float(self.cost[neuron]):.2g}"] * costly
            cells += [estimate_text(measured.get(neuron))] * bool(measured)
            rows.append(tuple(cells))
        notes = ["In brackets: 95 % intervals over prompts."] * (self.n_prompts > 1)
        if "residual" in self.facts:
            notes.append(f"Residual at most {self.facts['residual']:.2g} ({self.unit}).")
        notes.append(
            self.verification.text()
            if self.verification
            else "Not verified: a score only estimates what ablating a neuron would do."
        )
        return Display(headline, (Table(tuple(head), tuple(rows)),), tuple(notes))

    @property
    def unit(self) -> str:
        """What the scores are in."""
        return UNITS[self.method]

    @property
    def n_prompts(self) -> int:
        """Prompts that the scores are means over."""
        return len(self.prompt_ids)

    def check_shape(self, n_layers: int, d_mlp: int) -> None:
        """Refuse neurons, or a model, of another shape."""
        shape = tuple(self.scores.shape)
        if shape != (n_layers, d_mlp):
            of = f" ({self.model_name})" if self.model_name else ""
            raise ToxmemError(
                f"these scores are of a model of {shape[0]} x {shape[1]} neurons{of}, not {n_layers} x {d_mlp}: "
                "attribute on the model at hand"
            )

    def check_model(self, model: LensModel) -> None:
        """Refuse a model of another shape or architecture than the one that they were made on."""
        self.check_shape(model.n_layers, model.d_mlp)
        kind = model.arch.model_type
        if self.architecture not in ("", kind):
            raise ToxmemError(
                f"these scores were made on {self.model_name}, a {self.architecture} model, and {model.name} is "
                f"{kind}: attribute on the model at hand"
            )

    def per_cost(self, *, floor: float) -> Float[Tensor, "layer d_mlp"]:
        """`scores / (cost + floor x mean cost)`: what a neuron carries of the targets, for what removing it costs.

        Raises:
            ToxmemError: scores that were made without neutral text.
        """
        if self.cost.isnan().any():
            raise ToxmemError("these scores have no cost: give neutral text to attribute_neurons")
        return self.scores / (self.cost + floor * self.cost.mean())

    def share(self, *, threshold: float) -> Float[Tensor, "layer d_mlp"]:
        """Share of the prompts in which a neuron reaches `threshold` x the prompt's largest score (Dai et al. 2022).

        Raises:
            ToxmemError: a method that scores no single prompts.
        """
        if not self.n_prompts:
            raise ToxmemError(f"{self.method} scores neurons over no prompts: nothing to share")
        largest = self.per_prompt.flatten(1).max(1).values.clamp(min=0)
        reached = self.per_prompt >= threshold * largest[:, None, None]
        return (reached & (self.per_prompt > 0)).float().mean(0)

    def top(self, k: int) -> NeuronSet:
        """The `k` neurons of highest score, whatever they cost.

        Raises:
            ToxmemError: `k` larger than the model.
        """
        return top_neurons(self.scores, k)

    def at(self, neurons: list[Neuron]) -> list[Estimate]:
        """The scores of some neurons, with 95 % intervals clustered by prompt where there are prompts."""
        layers, numbers = (list(x) for x in zip(*neurons, strict=True)) if neurons else ([], [])
        if self.n_prompts:
            values = self.per_prompt[:, layers, numbers].numpy()
            return mean_estimates(values, seed=self.seed)
        return [Estimate(float(self.scores[n]), None, None, 0) for n in neurons]

    def frame(self, k: int = 50) -> "pd.DataFrame":
        """The `k` highest: score with its interval, cost, and the measured effect with its interval where there is one.

        Scores are in `unit`, measured effects in nats of the target's log-probability, costs in nats per neutral token.
        """
        import pandas as pd

        neurons = highest(self.scores, min(whole(k, "k"), self.scores.numel()))
        measured = self.verification.effects() if self.verification else {}
        rows = []
        for neuron, estimate in zip(neurons, self.at(neurons), strict=True):
            effect = measured.get(neuron)
            rows.append(
                {
                    "layer": neuron[0],
                    "neuron": neuron[1],
                    "score": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                    "cost": float(self.cost[neuron]),
                    "measured": effect.value if effect else None,
                    "measured_low": effect.low if effect else None,
                    "measured_high": effect.high if effect else None,
                }
            )
        return pd.DataFrame(rows, columns=_COLUMNS)

    def plot(self) -> "go.Figure":
        """Scores against measured effects where they were verified, else the scores by layer."""
        from tl_toxmem.plots import plot_scores

        return plot_scores(self)

    def verified(self, verification: Verification) -> "NeuronScores":
        """The same with the check of its highest."""
        return replace(self, verification=verification)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        meta: dict[str, Any] = {"method": self.method, "seed": self.seed}
        meta |= {"prompt_ids": list(self.prompt_ids), "facts": dict(self.facts)}
        meta |= {"model_name": self.model_name, "architecture": self.architecture}
        if self.verification is not None:
            more, meta["verification"] = self.verification.parts()
            tensors |= {f"verification.{name}": value for name, value in more.items()}
        write_tensors(Path(path), KIND, tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronScores":
        """Read what `save` wrote; the model is not needed.

        Raises:
            ToxmemError: missing, damaged, or of an older tl-toxmem.
        """
        tensors, meta = read_tensors(Path(path), KIND)
        if "method" not in meta:
            raise ToxmemError(f"{path} was made by an older tl-toxmem: attribute again")
        words = record(_Words, meta, path)
        if words.method not in UNITS:
            raise ToxmemError(f"{path} is damaged: no method {words.method!r}")
        shape = tuple(tensors["scores"].shape) if "scores" in tensors else ()
        if len(shape) != 2 or 0 in shape:
            raise ToxmemError(f"{path} is damaged: no scores by layer and neuron")
        shapes = {name: shape for name in _TENSORS}
        check_tensors(tensors, {**shapes, "per_prompt": (len(words.prompt_ids), *shape)}, path)
        verification = None
        if "verification" in meta:
            prefix = "verification."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            verification = Verification.from_parts(own, meta["verification"], path, shape=shape)
        values: dict[str, Any] = {name: getattr(words, name) for name in _WORDS}
        values |= {name: tensors[name] for name in _TENSORS}
        return cls(**values, verification=verification)


def _made_on(model: LensModel | None) -> dict[str, Any]:
    """What is kept of the model."""
    if model is None:
        return {}
    return {"model_name": shown_name(str(model.name)), "architecture": model.arch.model_type}


@dataclass(frozen=True)
class _Words:
    """The fields of scores that are no tensors (see `NeuronScores`)."""

    method: str
    prompt_ids: tuple[str, ...]
    seed: int
    facts: dict[str, Any]
    model_name: str = ""
    architecture: str = ""


_WORDS = tuple(one.name for one in fields(_Words))
_SHOWN = 10
_TENSORS = ("scores", "per_prompt", "cost", "mean_activation", "loudness")
_COLUMNS = ["layer", "neuron", "score", "low", "high", "n", "cost"]
_COLUMNS += ["measured", "measured_low", "measured_high"]


def top_neurons(values: Float[Tensor, "layer d_mlp"], k: int) -> NeuronSet:
    """The `k` neurons of highest value.

    Raises:
        ToxmemError: `k` larger than the model.
    """
    n_layers, d_mlp = values.shape
    n = values.numel()
    k = whole(k, "k", most=n, why=f"the model has {n} neurons")
    return NeuronSet(tuple(highest(values, k)), n_layers, d_mlp)


def highest(values: Float[Tensor, "layer d_mlp"], k: int) -> list[Neuron]:
    """The `k` neurons of highest value, the highest first."""
    d_mlp = values.shape[1]
    return [(i // d_mlp, i % d_mlp) for i in values.flatten().topk(k).indices.tolist()]
