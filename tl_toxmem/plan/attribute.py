"""What an attribution puts through the model: the scores, the costs, the check by ablation.

Where the highest neurons lie is not known before there are scores: they are counted as spread evenly over the layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tl_toxmem.attribute import Texts
from tl_toxmem.attribute.auroc import batches_of_texts
from tl_toxmem.attribute.contrast import TOKENS
from tl_toxmem.attribute.cost import PIECE
from tl_toxmem.attribute.integrated import KNOWLEDGE_STEPS
from tl_toxmem.attribute.onward import CLEAN_TOKENS, sizes_of_sweeps
from tl_toxmem.attribute.texts import labelled_of
from tl_toxmem.config import AttributeConfig
from tl_toxmem.memory import ACTIVATION_BYTES, tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.plan.passes import ablations, batches_of, evenly, target_pass
from tl_toxmem.plan.work import Kind, Pass, Shape, Tally, Work, whole
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, align

WHERE = "in which layers the neurons lie that rank highest: evenly spread"
_STEPS = 15
"""Of integrated gradients, where completeness asks for as many as it takes: five and ten more, say."""


def count_attribution(
    model: LensModel, find: PromptSet, *, cfg: AttributeConfig, texts: Texts
) -> Work:
    """The stage of a run.

    Args:
        model: only its shape and its tokenizer are asked.
        find: find prompts.
        cfg: of the attribution.
        texts: what the method needs, and neutral text.
    """
    tally = Tally(Shape.of(model))
    shape = tally.shape
    add_scores(tally, model, find, cfg=cfg, texts=texts)
    if texts.neutral is not None:
        most = tokens_for_gradients(model)
        rows = encode_documents(model, texts.neutral, max_tokens=cfg.max_cost_tokens, piece=PIECE)
        lengths = [len(row) for row in rows]
        tally.add(batches_of(shape, "backward", lengths, cfg.batch_size, kept=None, most=most))
    n = cfg.verify_top + cfg.verify_random
    if n:
        items = align(model, find.first(cfg.verify_prompts))
        tally.add(ablations(shape, items, evenly(shape, n), on_activations=True))
        tally.expect(WHERE)
    largest = max((p.rows * p.new for p in tally.passes if p.kind == "backward"), default=0)
    tally.need(largest * ACTIVATION_BYTES / tokens_for_gradients(model))
    scores = 4.0 * shape.n_layers * shape.d_mlp * len(find)
    return replace(tally.done("attribute", units=len(find)), memory=tally.memory + 2 * scores)


def add_scores(
    tally: Tally, model: LensModel, prompts: PromptSet, *, cfg: AttributeConfig, texts: Texts
) -> None:
    """The scores of a method."""
    items, method = align(model, prompts), cfg.method
    if method in ("gradient", "attribution_patching", "grad_drop"):
        tally.add(_by_gradient(tally.shape, model, items, cfg))
    elif method in ("integrated_gradients", "knowledge_neurons"):
        if method == "integrated_gradients" and cfg.steps is None:
            tally.expect(f"steps of integrated gradients: {_STEPS} of each layer and prompt")
        tally.add(_along_paths(tally.shape, model, items, cfg))
    elif method == "direct_effect":
        for some in batched(items, len(items), length=_full, most=CLEAN_TOKENS):
            tally.add([target_pass(tally.shape, "forward", some)])
    elif method == "contrast":
        for own in (items, align(model, texts.benign or PromptSet(()))):
            lengths = [len(item.full) for item in own]
            size = max(1, len(own))
            tally.add(batches_of(tally.shape, "forward", lengths, size, most=TOKENS))
    elif method in ("experts", "probe"):
        tally.add(labelled_passes(tally.shape, model, texts, method=method))
    else:
        every = [layer for layer in range(model.n_layers) for _ in range(model.d_mlp)]
        tally.add(ablations(tally.shape, items, every, on_activations=True))


def labelled_passes(
    shape: Shape, model: LensModel, texts: Texts, *, method: str, sites: int | None = None
) -> Iterator[Pass]:
    """`auroc.passes`.

    Args:
        shape: of the model.
        model: for its tokenizer.
        texts: with labelled ones.
        method: that needs them.
        sites: states that are captured; None: as the method does.
    """
    n = sites or (model.n_layers if method == "experts" else 1)
    for some in batches_of_texts(model, labelled_of(texts, method=method), n):
        yield whole(shape, "forward", len(some), max(map(len, some)), kept=1)


def _full(item: PromptTokens) -> int:
    return len(item.full)


def _by_gradient(
    shape: Shape, model: LensModel, items: Sequence[PromptTokens], cfg: AttributeConfig
) -> Iterator[Pass]:
    most = max(1, tokens_for_gradients(model))
    for some in batched(items, cfg.batch_size, length=_full, most=most):
        one = target_pass(shape, "backward", some)
        yield replace(one, backwards=model.n_layers) if cfg.method == "grad_drop" else one
        if cfg.method != "gradient":
            for item in some:
                yield whole(shape, "forward", cfg.n_noise, len(item.full), kept=1)


def _along_paths(
    shape: Shape, model: LensModel, items: Sequence[PromptTokens], cfg: AttributeConfig
) -> Iterator[Pass]:
    """The clean runs, the zeros of all layers, and the steps; sweeps as large as they may be."""
    everywhere = cfg.method == "integrated_gradients"
    most = tokens_for_gradients(model)
    steps = cfg.steps or (_STEPS if everywhere else KNOWLEDGE_STEPS)
    for some in batched(items, len(items), length=_full, most=max(1, min(CLEAN_TOKENS, most))):
        clean = target_pass(shape, "forward", some)
        yield clean
        new = clean.new if everywhere else clean.kept
        ways: tuple[tuple[int, Kind], ...] = ((1, "forward"), (steps, "backward"))
        for n, kind in ways:
            layers = [layer for layer in range(shape.n_layers) for _ in range(len(some) * n)]
            yield from _path_sweeps(shape, layers, kind, new, clean, most * shape.n_layers)


def _path_sweeps(
    shape: Shape, layers: Sequence[int], kind: Kind, new: int, clean: Pass, most: int
) -> Iterator[Pass]:
    start = 0
    for size in sizes_of_sweeps(layers, n_new=new, n_layers=shape.n_layers, most=most):
        some = layers[start : start + size]
        start += size
        above = sum(shape.n_layers - 1 - layer for layer in some)
        back = 1 if kind == "backward" else 0
        yield Pass("sweep", size, new, clean.new - new, clean.kept, above, backwards=back)
