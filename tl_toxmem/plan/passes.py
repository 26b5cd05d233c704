"""What the parts that several stages share put through the model, batch by batch as they will be run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tl_toxmem.attribute.onward import CLEAN_TOKENS, rows_of_sweep
from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import copies_of, prompts_of_batch
from tl_toxmem.evaluation.likelihood import row_batches
from tl_toxmem.evaluation.rows import Row
from tl_toxmem.losses import DOCUMENTS
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.plan.work import Kind, Pass, Shape, whole
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import TARGETS, PromptTokens, align

ENDS = "when continuations end"
"""What is said where lengths of continuations matter; `Speeds` samples some to know."""


@dataclass(frozen=True)
class Lengths:
    """How long continuations are.

    Attributes:
        alive: by token, the share of continuations that go on after it; empty: all go on to the end.
    """

    alive: tuple[float, ...] = ()

    def after(self, n: int) -> float:
        """The share that goes on after `n` tokens."""
        if not self.alive or not n:
            return 1.0
        return self.alive[min(n, len(self.alive)) - 1]

    def mean(self, most: int) -> float:
        """Tokens of a continuation, the one that ends it not counted."""
        return sum(self.after(n) for n in range(1, most + 1))


def batches_of(
    shape: Shape,
    kind: Kind,
    lengths: Sequence[int],
    size: int,
    *,
    kept: int | None = 1,
    most: int | None = None,
    times: float = 1.0,
) -> Iterator[Pass]:
    """Rows of these lengths in batches; `kept` None: logits of every position."""
    for some in batched(lengths, size, length=int, most=most):
        width = max(some)
        yield whole(
            shape, kind, len(some), width, kept=width if kept is None else kept, times=times
        )


def targets(shape: Shape, items: Sequence[PromptTokens], *, times: float = 1.0) -> Iterator[Pass]:
    """`target_log_probs`."""
    for some in batched(items, TARGETS):
        yield target_pass(shape, "forward", some, times=times)


def target_pass(
    shape: Shape, kind: Kind, some: Sequence[PromptTokens], *, times: float = 1.0
) -> Pass:
    """Prompts with all of their targets but the last token."""
    width, kept = max(len(x.full) for x in some), max(len(x.target) for x in some)
    return whole(shape, kind, len(some), width, kept=kept, times=times)


def documents(
    shape: Shape, model: LensModel, rows: Sequence[Sequence[int]], *, times: float = 1.0
) -> Iterator[Pass]:
    """`document_losses`."""
    lengths, most = [len(row) for row in rows], tokens_for_logits(model)
    yield from batches_of(shape, "forward", lengths, DOCUMENTS, kept=None, most=most, times=times)


def likelihoods(
    shape: Shape,
    model: LensModel,
    rows: Sequence[Row],
    size: int,
    *,
    times: float = 1.0,
) -> Iterator[Pass]:
    """Rows of which the last tokens are predicted, once."""
    for some in row_batches(model, rows, size):
        width, kept = max(len(row.tokens) for row in some) - 1, max(row.n for row in some)
        yield whole(shape, "forward", len(some), width, kept=min(width, kept), times=times)


def ablations(
    shape: Shape, items: Sequence[PromptTokens], layers: Sequence[int], *, on_activations: bool
) -> Iterator[Pass]:
    """`measure_ablations` of neurons in these layers, in rising order."""
    if not on_activations:
        yield from targets(shape, items, times=1 + len(layers))
        return
    for some in batched(items, len(items), length=lambda x: len(x.full), most=CLEAN_TOKENS):
        clean = target_pass(shape, "forward", some)
        yield clean
        above = [shape.n_layers - 1 - layer for layer in layers for _ in some]
        for rows in batched(above, rows_of_sweep(clean.new)):
            yield Pass("sweep", len(rows), clean.new, 0, clean.kept, sum(rows))


def evenly(shape: Shape, n: int) -> list[int]:
    """Layers of `n` neurons of which nobody knows yet where they are."""
    return [i * shape.n_layers // n for i in range(n)]


def continued(
    shape: Shape,
    lengths: Sequence[int],
    *,
    size: int,
    copies: int,
    new: int,
    ends: Lengths,
    times: float = 1.0,
) -> Iterator[Pass]:
    """`generate` on rows of these lengths, so many at a time, each continued `copies` times.

    The last token that is drawn is not put through the model.
    """
    for some in batched(lengths, size):
        width, rows = max(some), len(some) * copies
        yield whole(shape, "forward", len(some), width, kept=1, times=times)
        for n in range(1, new):
            live = rows * ends.after(n)
            if live < 0.5:
                break
            left = max(1, round(live))
            yield whole(shape, "decode", left, 1, past=width + n - 1, kept=1, times=times)


def sampled(
    shape: Shape,
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: EvaluateConfig,
    ends: Lengths,
    times: float = 1.0,
) -> Iterator[Pass]:
    """`continue_prompts`."""
    cut = cfg.max_prompt_tokens or model.n_ctx
    lengths = [min(cut, len(item.asked)) for item in align(model, prompts)]
    yield from continued(
        shape,
        lengths,
        size=prompts_of_batch(cfg),
        copies=copies_of(cfg),
        new=cfg.max_new_tokens,
        ends=ends,
        times=times,
    )
