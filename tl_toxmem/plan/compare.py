"""What a comparison puts through the model: what methods are made from, their making, and each law's evaluation.

Laws are as many as there are strengths; a method that has fewer (fewer prompts to edit, say) takes less.
"""

from collections.abc import Sequence

from tl_toxmem.attribute import Texts
from tl_toxmem.comparison import METHODS, check_methods, what_is_there
from tl_toxmem.comparison.comparing import protocol_of
from tl_toxmem.comparison.material import sampled_alternatives
from tl_toxmem.comparison.methods import parts_needed
from tl_toxmem.config import AttributeConfig, RunConfig
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.plan.attribute import add_scores, labelled_passes
from tl_toxmem.plan.evaluate import add_evaluation
from tl_toxmem.plan.passes import ENDS, Lengths, batches_of, sampled, targets
from tl_toxmem.plan.select import add_gates
from tl_toxmem.plan.work import Pass, Shape, Tally, Work, whole
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align

_ROWS_OF = 2048
"""Tokens in a batch of ProFS's texts, and of ROME's."""
_HALF = "the layer that ROME edits: half way up; all of its steps, with contexts of mean length"


def count_comparison(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: RunConfig,
    texts: Texts,
    there: dict[str, bool],
    reporting: Sequence[str],
    benign: PromptSet | None,
    ends: Lengths,
) -> Work:
    """The stage of a run.

    Args:
        model: only its shape and its tokenizer are asked.
        prompts: of both splits.
        cfg: of the run.
        texts: neutral text kept for choosing, labelled text, benign find prompts.
        there: the optional parts of the material.
        reporting: neutral documents that nothing was chosen on.
        benign: benign report prompts.
        ends: how long continuations are.
    """
    tally = Tally(Shape.of(model))
    find, report = prompts.find, prompts.report
    chosen, _ = check_methods(cfg.compare, what_is_there(model, there))
    if "alternatives" in parts_needed(cfg.compare):
        without = PromptSet.of(p.from_start() for p in find if p.neutral_target is None)
        own = sampled_alternatives(cfg.compare, cfg.evaluate, seed=cfg.seed)
        tally.add(sampled(tally.shape, model, without, cfg=own, ends=ends))
        tally.texts += len(without) * own.n_continuations
    protocol = protocol_of(cfg.compare, cfg.evaluate)
    strengths = {
        name: cfg.compare.strengths.get(name) or METHODS[name].strengths(model) for name in chosen
    }
    for name in chosen:
        _make(tally, model, find, name, strengths[name], cfg=cfg, texts=texts)
    laws = [len(some) for some in strengths.values()]
    for n_laws, with_base in ((0, True), (1, False), *((n, False) for n in laws)):
        add_evaluation(
            tally,
            model,
            report,
            n_laws=n_laws,
            with_base=with_base,
            neutral=reporting,
            benign=benign,
            cfg=protocol,
            ends=ends,
        )
    traced = align(model, find.first(cfg.trace.max_prompts))
    if "mlp_out" in cfg.trace.sites and len(traced) >= 3:
        tally.add(targets(tally.shape, traced), times=1 + model.n_layers)
    tally.expect(f"{ENDS}: as sampled, those of laws as those of base")
    return tally.done("compare", units=len(report))


def _make(
    tally: Tally,
    model: LensModel,
    find: PromptSet,
    name: str,
    strengths: Sequence[float],
    *,
    cfg: RunConfig,
    texts: Texts,
) -> None:
    """The laws of a method."""
    own = cfg.compare.comparators
    if name == "knowledge_neurons":
        how = AttributeConfig(method="knowledge_neurons", steps=own.knowledge_steps)
        add_scores(tally, model, find.first(own.knowledge_prompts), cfg=how, texts=texts)
    elif name in ("value_vectors", "probe_shift"):
        tally.add(labelled_passes(tally.shape, model, texts, method="probe"))
    elif name == "aura":
        sites = model.n_layers * (3 if model.gated else 2)
        tally.add(labelled_passes(tally.shape, model, texts, method=name, sites=sites))
    elif name.startswith("profs"):
        some = align(model, find.first(own.profs.pairs))
        lengths = [len(item.tokens) + len(item.target) for item in some]
        passes = batches_of(tally.shape, "forward", lengths, len(lengths), most=_ROWS_OF)
        tally.add(passes, times=2)
        tally.expect("what ProFS's prompts are to say: as long as their targets")
    elif name.startswith("rome"):
        _rome(tally, model, find.first(int(max(strengths))), cfg=cfg, texts=texts)
    elif name.startswith("gates"):
        neutral = texts.neutral or ()
        n = len(strengths)
        add_gates(tally, model, find, neutral=neutral, n_budgets=n, cfg=own.gates)


def _rome(
    tally: Tally, model: LensModel, prompts: PromptSet, *, cfg: RunConfig, texts: Texts
) -> None:
    """The covariance of keys, and the search for values from the edited layer and token on."""
    own, shape = cfg.compare.comparators.rome, tally.shape
    lengths = [
        len(row)
        for row in encode_documents(model, texts.neutral or (), max_tokens=own.covariance_tokens)
    ]
    every = batches_of(shape, "forward", lengths, len(lengths), most=_ROWS_OF)
    tally.add(every, times=0.5)
    items = align(model, prompts)
    prefix = sum(own.prefix_tokens) / len(own.prefix_tokens) * own.prefixes / (own.prefixes + 1)
    rows = len(items) * (own.prefixes + 2)
    width = round(max(len(item.full) for item in items) + prefix)
    new = max(1 if own.token == "last" else len(i.full) - i.subject[1] + 1 for i in items)
    new = max(new, max(len(item.target) for item in items))
    kept = max(len(item.target) for item in items)
    above = rows * (shape.n_layers / 2)
    step = Pass("sweep", rows, new, max(0, width - new), kept, above, own.steps - 1, backwards=1)
    tally.add([whole(shape, "forward", rows, width, kept=kept), step])
    tally.expect(_HALF)
