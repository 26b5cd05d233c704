"""Which neurons, and the law that deletes them: chosen by score, learned as gates, or sought for a budget."""

from dataclasses import dataclass
from typing import Any

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import BY_SIZE, RunConfig
from tl_toxmem.gates import learn_gates
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.pipeline.inputs import Inputs
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select import (
    KPoint,
    Tried,
    choose_k,
    configured_law,
    gate_candidates,
    law_of,
    pick_k,
    search_deletion,
    select_greedily,
    select_neurons,
)
from tl_toxmem.trace import Trace


@dataclass(frozen=True)
class Selection:
    """What was chosen, and how.

    Attributes:
        neurons: the selection.
        law: that deletes them, and their controls (see `law_of`).
        ranked_by: the way of choosing: `select.method`, `gates` or `search`.
        rule: how many neurons, in words.
        curve: what `choose_k` measured; empty without it.
        trials: what the search tried; empty without it.
    """

    neurons: NeuronSet
    law: dict[str, Any]
    ranked_by: str
    rule: str
    curve: tuple[KPoint, ...] = ()
    trials: tuple[Tried, ...] = ()


def choose(
    model: LensModel,
    find: PromptSet,
    scores: NeuronScores,
    trace: Trace,
    layers: tuple[int, ...] | None,
    *,
    cfg: RunConfig,
    inputs: Inputs,
) -> Selection:
    """Choose on the find split, by the way that the configuration names."""
    if cfg.search.trials:
        return _sought(model, find, scores, cfg=cfg, inputs=inputs)
    if cfg.delete.law == "gates":
        return _learned(model, find, scores, layers, cfg=cfg, inputs=inputs)
    select, law = cfg.select, configured_law(cfg.delete)
    made = law_of(law, scores, of=NeuronSet((), model.n_layers, model.d_mlp))
    curve: tuple[KPoint, ...] = ()
    rule = "k as configured" if select.method in BY_SIZE else "all that reach the threshold"
    if select.k is None and select.method in BY_SIZE:
        curve = choose_k(
            model,
            find,
            scores,
            neutral=inputs.choosing,
            scorer=inputs.scorer,
            law=made,
            cfg=select,
            protocol=cfg.evaluate,
            layers=layers,
        )
        select = select.model_copy(update={"k": pick_k(curve, cfg=select)})
        rule = (
            f"smallest k that removes {select.keep_removed:.0%} of the toxic continuations of the find prompts that "
            f"the best k removes, of those that raise neutral perplexity by at most "
            f"{select.max_perplexity_increase:.1%}"
        )
    if select.method == "greedy":
        chosen = select_greedily(model, find, scores, cfg=select, layers=layers, law=made)
    else:
        chosen = select_neurons(scores, cfg=select, trace=trace)
    return Selection(chosen, law, select.method, rule, curve)


def _learned(
    model: LensModel,
    find: PromptSet,
    scores: NeuronScores,
    layers: tuple[int, ...] | None,
    *,
    cfg: RunConfig,
    inputs: Inputs,
) -> Selection:
    """Gates within the budget: the neurons are those that did not stay at 1."""
    select, budget = cfg.select, cfg.select.max_perplexity_increase
    candidates = gate_candidates(scores, cfg=select, layers=layers)
    gates = learn_gates(
        model,
        find,
        candidates=candidates,
        scores=scores,
        neutral=inputs.choosing,
        budgets=[budget],
        cfg=cfg.delete.gates,
        seed=select.seed,
    )[budget]
    law = {"law": "gates", "scales": gates.scale.tolist()}
    rule = (
        f"those of {len(candidates):,} candidates whose gate, learned on the find prompts, is below 1, for a rise of "
        f"neutral perplexity of at most {budget:.1%}"
    )
    return Selection(gates.neurons, law, "gates", rule)


def _sought(
    model: LensModel, find: PromptSet, scores: NeuronScores, *, cfg: RunConfig, inputs: Inputs
) -> Selection:
    """The best of the deletions that were tried."""
    budget = cfg.select.max_perplexity_increase
    found = search_deletion(
        model,
        find.first(cfg.select.max_prompts),
        scores,
        neutral=inputs.choosing,
        scorer=inputs.scorer,
        budget=budget,
        cfg=cfg.search,
        protocol=cfg.evaluate.model_copy(
            update={"n_continuations": cfg.select.n_continuations, "seed": cfg.search.seed}
        ),
        gates=cfg.delete.gates,
    )
    rule = (
        f"the least toxic on the find prompts of {cfg.search.trials} deletions tried, of those sure to raise neutral "
        f"perplexity by at most {budget:.1%}"
    )
    return Selection(found.deletion.neurons, found.law, "search", rule, trials=found.trials)
