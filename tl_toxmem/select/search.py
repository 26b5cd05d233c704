"""A search over neurons, law and strength for a perplexity budget, on the find split alone (optuna's TPE).

Each trial is a deletion. Where its rise of perplexity on the text kept for choosing is within the budget, with its
bootstrap interval, it is judged by sampled continuations of the find prompts; where it is not, it only tells the
sampler how far off it is. The budget is `select.max_perplexity_increase`; the report split is not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import EvaluateConfig, GateConfig, SearchConfig, SelectConfig
from tl_toxmem.continuations import sample_continuations, score_continuations
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.gates import Gates, learn_gates
from tl_toxmem.losses import document_losses, resampled_rise
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.select.candidates import gate_candidates
from tl_toxmem.select.laws import law_of
from tl_toxmem.select.ranking import select_neurons
from tl_toxmem.stats import resampled

if TYPE_CHECKING:
    from optuna import Trial

_MOST = 0.05


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: of the trial.
        settings: law, number of neurons and so on.
        rise: of neutral perplexity, relative.
        rise_high: its upper limit.
        toxicity_rate: on the find prompts' continuations; None where the trial was not affordable.
    """

    number: int
    settings: dict[str, Any]
    rise: float
    rise_high: float
    toxicity_rate: float | None


@dataclass(frozen=True)
class Found:
    """The best affordable deletion, its law (see `law_of`), and all that was tried."""

    deletion: Deletion
    law: dict[str, Any]
    best: Tried
    trials: tuple[Tried, ...]


def search_deletion(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    neutral: Sequence[str],
    scorer: ToxicityScorer,
    budget: float,
    cfg: SearchConfig,
    protocol: EvaluateConfig | None = None,
    gates: GateConfig | None = None,
) -> Found:
    """Search.

    Args:
        model: any host, raw weights.
        prompts: find prompts.
        scores: with costs and mean activations.
        neutral: the text kept for choosing.
        scorer: the judge.
        budget: relative rise of neutral perplexity, such as 0.02.
        cfg: how much is tried.
        protocol: sampling and threshold.
        gates: how gates are learned, where that law is among `cfg.laws`.

    Raises:
        ToxmemError: optuna is not installed, base continues nothing toxically, or no trial was affordable.
    """
    if not cfg.trials:
        raise ToxmemError("search.trials is 0: give the number of deletions to try")
    optuna = _optuna()
    search = _Search(model, prompts, scores, neutral, scorer, budget, cfg, protocol, gates)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=cfg.seed))
    for _ in track(range(cfg.trials), "search", total=cfg.trials):
        study.optimize(search.trial, n_trials=1)
    affordable = [one for one in search.tried if one.toxicity_rate is not None]
    if not affordable:
        least = min(one.rise_high for one in search.tried)
        raise ToxmemError(
            f"none of {cfg.trials} deletions is sure to raise neutral perplexity by at most {budget:.2%} (the nearest: "
            f"up to {least:.2%}): raise the budget, search.trials or search.max_tokens"
        )
    best = min(affordable, key=lambda one: (study.trials[one.number].value, one.number))
    return Found(*search.deletion(best.settings), best, tuple(search.tried))


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise ToxmemError('a search needs: pip install "tl-toxmem[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def most_neurons(n_layers: int, d_mlp: int) -> int:
    """How many a trial takes at most: a twentieth of the model's, and half a layer, so that there are controls."""
    return max(1, min(int(_MOST * n_layers * d_mlp), d_mlp // 2))


class _Search:
    def __init__(
        self,
        model: LensModel,
        prompts: PromptSet,
        scores: NeuronScores,
        neutral: Sequence[str],
        scorer: ToxicityScorer,
        budget: float,
        cfg: SearchConfig,
        protocol: EvaluateConfig | None,
        gates: GateConfig | None,
    ) -> None:
        self.model, self.prompts, self.scores, self.neutral = model, prompts, scores, neutral
        self.scorer, self.budget, self.cfg = scorer, budget, cfg
        self.protocol = protocol or EvaluateConfig()
        self.gate_cfg = gates or GateConfig()
        self.rows = encode_documents(model, neutral, max_tokens=cfg.max_tokens)
        self.base, self.n_tokens = document_losses(model, self.rows)
        self.draws = resampled(len(self.rows), np.random.default_rng(cfg.seed))
        self.most = most_neurons(model.n_layers, model.d_mlp)
        self.learned: Gates | None = None
        self.tried: list[Tried] = []
        if self._toxicity()[0] == 0:
            raise ToxmemError(
                f"{scorer.name} calls no continuation of the find prompts toxic, so there is nothing to search for: "
                "give prompts that the model continues toxically, another scorer, or a lower evaluate.threshold"
            )

    def trial(self, trial: "Trial") -> float:
        """What the sampler is told: the toxic rate, or more than 1 where the trial is not affordable."""
        settings = self._suggest(trial)
        deletion, _ = self.deletion(settings)
        with deletion.applied(self.model):
            rise, high = self._rise()
            if high > self.budget:
                self.tried.append(Tried(trial.number, settings, rise, high, None))
                return 1 + min(high - self.budget, 100.0)
            rate, mean = self._toxicity()
        self.tried.append(Tried(trial.number, settings, rise, high, rate))
        return rate + mean / 100  # the mean score breaks ties

    def _suggest(self, trial: "Trial") -> dict[str, Any]:
        law = trial.suggest_categorical("law", list(self.cfg.laws))
        settings: dict[str, Any] = {"law": law}
        if law == "gates":
            return settings | {"share": trial.suggest_float("share", 0.3, 1.0)}
        settings["k"] = trial.suggest_int("k", 1, self.most, log=True)
        settings["cost_floor"] = trial.suggest_float("cost_floor", 0.01, 1.0, log=True)
        settings["layers"] = trial.suggest_categorical("layers", ["all", "early", "middle", "late"])
        if law == "scale":
            settings["factor"] = trial.suggest_float("factor", -0.5, 0.8)
        return settings

    def deletion(self, settings: dict[str, Any]) -> tuple[Deletion, dict[str, Any]]:
        """The deletion of a trial, and its law."""
        if settings["law"] == "gates":
            learned = self._gates()
            scales = 1 - settings["share"] * (1 - learned.scale)
            neurons, law = learned.neurons, {"law": "gates", "scales": scales.tolist()}
        else:
            part = None if settings["layers"] == "all" else settings["layers"]
            select = SelectConfig(k=settings["k"], layers=part, cost_floor=settings["cost_floor"])
            neurons = select_neurons(self.scores, cfg=select)
            law = {key: settings[key] for key in ("law", "factor") if key in settings}
        return law_of(law, self.scores, of=neurons)(neurons), law

    def _gates(self) -> Gates:
        if self.learned is None:
            found = learn_gates(
                self.model,
                self.prompts,
                candidates=gate_candidates(self.scores, cfg=SelectConfig()),
                scores=self.scores,
                neutral=self.neutral,
                budgets=[self.budget],
                cfg=self.gate_cfg,
                seed=self.cfg.seed,
            )
            self.learned = found[self.budget]
        return self.learned

    def _rise(self) -> tuple[float, float]:
        """The rise of perplexity and its upper limit, paired with base by document."""
        losses, _ = document_losses(self.model, self.rows)
        more = losses - self.base
        return resampled_rise(more, self.n_tokens, self.draws, self.cfg.confidence)

    def _toxicity(self) -> tuple[float, float]:
        """Share of toxic continuations, and the mean score."""
        texts = sample_continuations(self.model, self.prompts, cfg=self.protocol)
        values = score_continuations(self.scorer, texts)
        return float((values >= self.protocol.threshold).mean()), float(values.mean())
