"""What an evaluation puts through the model: base and every law on the same rows, and what the judges read.

Determined but for the continuations: how many tokens they have is sampled (`Lengths`), and what is measured of them is
on rows of their mean length.
"""

from collections.abc import Sequence

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import copies_of
from tl_toxmem.evaluation.baseline import asked_of
from tl_toxmem.evaluation.likelihood import MOST_ROWS, answered_rows
from tl_toxmem.evaluation.rows import Row, documents, last_word_rows, prompt_rows, window_rows
from tl_toxmem.model import LensModel
from tl_toxmem.plan.passes import ENDS, Lengths, likelihoods, sampled
from tl_toxmem.plan.work import Shape, Tally, Work
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align

_FLOATS = 4
"""Of a vocabulary, for each position that is unembedded: logits, their float32, log-probabilities and one more."""


def count_evaluation(
    model: LensModel,
    report: PromptSet,
    *,
    n_laws: int,
    neutral: Sequence[str],
    benign: PromptSet | None,
    cfg: EvaluateConfig,
    ends: Lengths,
) -> Work:
    """The stage of a run.

    Args:
        model: only its shape and its tokenizer are asked.
        report: report prompts.
        n_laws: deletions beside base.
        neutral: documents that nothing was chosen on.
        benign: report prompts with right continuations.
        cfg: the protocol.
        ends: how long continuations are.
    """
    tally = Tally(Shape.of(model))
    add_evaluation(
        tally,
        model,
        report,
        n_laws=n_laws,
        with_base=True,
        neutral=neutral,
        benign=benign,
        cfg=cfg,
        ends=ends,
    )
    return tally.done("evaluate", units=len(report))


def add_evaluation(
    tally: Tally,
    model: LensModel,
    report: PromptSet,
    *,
    n_laws: int,
    with_base: bool,
    neutral: Sequence[str],
    benign: PromptSet | None,
    cfg: EvaluateConfig,
    ends: Lengths,
) -> None:
    """One call of `evaluate`, with base or with a baseline that is known."""
    shape, measures, size = tally.shape, cfg.measures, cfg.batch_size
    n_models = n_laws + with_base
    tally.add(sampled(shape, model, report, cfg=cfg, ends=ends, times=n_models))
    tally.texts += n_models * len(report) * copies_of(cfg)
    if model.eos_ids:
        tally.expect(f"{ENDS}: as sampled")
    windows = window_rows(model, documents(model, neutral, cfg=cfg), cfg=cfg)
    once: list[list[Row]] = []
    if "prompt_perplexity" in measures:
        once.append(prompt_rows([item.asked for item in align(model, report)]))
    if "last_word_accuracy" in measures:
        once.append(last_word_rows(model, documents(model, neutral, cfg=cfg)))
    asked = asked_of(benign, cfg)
    if asked is not None:
        once.append(answered_rows(model, asked))
    for rows in once:
        tally.add(likelihoods(shape, model, rows, size), times=n_models)
    if "kl_neutral" in measures:  # base beside the laws, and once by itself
        tally.add(likelihoods(shape, model, windows, min(size, MOST_ROWS)), times=_beside(n_laws))
        tally.add(likelihoods(shape, model, windows, size), times=int(with_base))
    else:
        tally.add(likelihoods(shape, model, windows, size), times=n_models)
    made = _continuations(model, report, cfg=cfg, ends=ends)
    if "continuation_perplexity" in measures and made:
        tally.add(likelihoods(shape, model, made, size), times=n_models)
    if "kl_continuations" in measures and made:
        tally.add(likelihoods(shape, model, made, min(size, MOST_ROWS)), times=_beside(n_laws))
    logits = max((one.rows * one.kept for one in tally.passes), default=0)
    layers = max((one.rows * one.new for one in tally.passes), default=0)
    floats = _FLOATS * shape.d_vocab * logits + layers * (5 * shape.d_mlp + 12 * shape.d_model)
    tally.need(4.0 * floats)


def _beside(n_laws: int) -> int:
    """Laws, and base beside them."""
    return 1 + n_laws if n_laws else 0


def _continuations(
    model: LensModel, report: PromptSet, *, cfg: EvaluateConfig, ends: Lengths
) -> list[Row]:
    """Continuations after their prompts, all of the mean length."""
    n = round(ends.mean(cfg.max_new_tokens))
    cut = cfg.max_prompt_tokens or model.n_ctx
    prompts = [list(item.asked)[:cut] for item in align(model, report)]
    if not n:
        return []
    return [
        Row([*prompt, *[model.pad_id] * n], n, i)
        for i, prompt in enumerate(prompts)
        for _ in range(copies_of(cfg))
    ]
