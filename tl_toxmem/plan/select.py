"""What a selection puts through the model: choosing k, learned gates or a search; joint effect, decoy, cards.

How many neurons score above zero, which numbers of them are affordable and how many are chosen is known only once they
are: what is assumed is said.
"""

from collections.abc import Sequence

from tl_toxmem.attribute import Texts
from tl_toxmem.cards import EXAMPLES, NEW_TOKENS, PROMPTS
from tl_toxmem.config import BY_SIZE, EvaluateConfig, GateConfig, RunConfig
from tl_toxmem.continuations import copies_of
from tl_toxmem.gate_learner import HALVINGS, PIECE, split_pieces
from tl_toxmem.gates import n_candidates
from tl_toxmem.memory import ACTIVATION_BYTES, tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.plan.attribute import WHERE, add_scores
from tl_toxmem.plan.passes import (
    ENDS,
    Lengths,
    ablations,
    batches_of,
    continued,
    documents,
    evenly,
    sampled,
    targets,
)
from tl_toxmem.plan.work import Shape, Tally, Work
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select.greedy import MOST_SINGLES
from tl_toxmem.select.how_many import MAX_TOKENS, sizes_to_try
from tl_toxmem.tokens import align

_CHOSEN = 20
"""Neurons, where nobody says how many."""


def count_selection(
    model: LensModel,
    find: PromptSet,
    *,
    cfg: RunConfig,
    choosing: Sequence[str],
    decoy: PromptSet | None,
    texts: Texts,
    ends: Lengths,
) -> Work:
    """The stage of a run.

    Args:
        model: only its shape and its tokenizer are asked.
        find: find prompts.
        cfg: of the run.
        choosing: neutral documents kept for choosing.
        decoy: benign find prompts, if there is to be a decoy.
        texts: what the attribution needs.
        ends: how long continuations are.
    """
    tally = Tally(Shape.of(model))
    if cfg.search.trials:
        n = _search(tally, model, find, cfg, choosing, ends)
    elif cfg.delete.law == "gates":
        n = cfg.select.k or n_candidates(model.n_layers, model.d_mlp)
        add_gates(tally, model, find, neutral=choosing, n_budgets=1, cfg=cfg.delete.gates)
        tally.expect(f"how many neurons are chosen: half of {n} candidates")
        n //= 2
    else:
        n = _by_size(tally, model, find, cfg, choosing, ends)
    if decoy is not None:
        add_scores(tally, model, decoy, cfg=cfg.attribute, texts=texts)
    _after(tally, model, find, n, cfg)
    return tally.done("select")


def _by_size(
    tally: Tally,
    model: LensModel,
    find: PromptSet,
    cfg: RunConfig,
    choosing: Sequence[str],
    ends: Lengths,
) -> int:
    """Choosing k, or rounds of the greedy selection; how many neurons are chosen."""
    select, shape = cfg.select, tally.shape
    if select.method == "greedy" and select.k is not None:
        items = align(model, find.first(select.max_prompts))
        on_activations = cfg.delete.law != "input_gain"
        left = select.candidates
        rounds = [len(some) for some in _shares(select.k, select.rounds)]
        for size in rounds:
            layers = evenly(shape, left)
            tally.add(ablations(shape, items, layers, on_activations=on_activations))
            left -= size
        tally.expect(WHERE)
        return select.k
    if select.k is not None:
        return select.k
    if select.method not in BY_SIZE:
        tally.expect(f"how many neurons are chosen: {_CHOSEN}")
        return _CHOSEN
    sampled_cfg = cfg.evaluate.model_copy(update={"n_continuations": select.n_continuations})
    neurons = model.n_layers * model.d_mlp
    grid = sizes_to_try(min(select.max_k, neurons // 2))
    n = 1 + len(grid)
    rows = encode_documents(model, choosing, max_tokens=MAX_TOKENS)
    tally.add(documents(shape, model, rows), times=n)
    tally.add(targets(shape, align(model, find)), times=n)
    _toxicity(tally, model, find.first(select.max_prompts), sampled_cfg, ends, times=n)
    tally.expect(
        f"choosing k: all {len(grid)} numbers up to {grid[-1]} are tried and affordable; {_CHOSEN} "
        "neurons are chosen"
    )
    return _CHOSEN


def _shares(k: int, rounds: int) -> list[range]:
    """The neurons that each round chooses, of rounds that choose any."""
    edges = [k * i // rounds for i in range(rounds + 1)]
    return [range(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def _toxicity(
    tally: Tally,
    model: LensModel,
    prompts: PromptSet,
    cfg: EvaluateConfig,
    ends: Lengths,
    *,
    times: float,
) -> None:
    """Continuations that are judged."""
    tally.add(sampled(tally.shape, model, prompts, cfg=cfg, ends=ends, times=times))
    tally.texts += times * len(prompts) * copies_of(cfg)
    if model.eos_ids:
        tally.expect(f"{ENDS}: as sampled")


def _search(
    tally: Tally,
    model: LensModel,
    find: PromptSet,
    cfg: RunConfig,
    choosing: Sequence[str],
    ends: Lengths,
) -> int:
    search, some = cfg.search, find.first(cfg.select.max_prompts)
    protocol = cfg.evaluate.model_copy(update={"n_continuations": cfg.select.n_continuations})
    rows = encode_documents(model, choosing, max_tokens=search.max_tokens)
    tally.add(documents(tally.shape, model, rows), times=1 + search.trials)
    _toxicity(tally, model, some, protocol, ends, times=1 + search.trials / 2)
    if "gates" in search.laws:
        add_gates(tally, model, some, neutral=choosing, n_budgets=1, cfg=cfg.delete.gates)
    tally.expect(f"the search: half of its trials are affordable; {_CHOSEN} neurons are chosen")
    return _CHOSEN


def add_gates(
    tally: Tally,
    model: LensModel,
    prompts: PromptSet,
    *,
    neutral: Sequence[str],
    n_budgets: int,
    cfg: GateConfig,
) -> None:
    """`learn_gates`: batches as long as those that come first; half of the halvings to fit the budget."""
    shape = tally.shape
    lengths = [len(item.tokens) for item in align(model, prompts.first(cfg.max_prompts))]
    tally.add(batches_of(shape, "forward", lengths, cfg.batch_size))
    most = cfg.check_tokens + 50 * cfg.step_tokens
    pieces = encode_documents(model, neutral, max_tokens=most, piece=PIECE)
    check, learn_on = split_pieces(pieces, cfg.check_tokens)
    fitting = n_budgets * (1 + HALVINGS / 2)
    tally.add(documents(shape, model, check), times=1 + fitting)
    steps = n_budgets * cfg.steps
    ways = batched(lengths, cfg.batch_size)
    for some in ways:
        tally.add(batches_of(shape, "backward", some, cfg.batch_size), times=steps / len(ways))
    text = batched([len(row) for row in learn_on], max(1, cfg.step_tokens // PIECE))
    for row in text:
        for kind in ("forward", "backward"):
            passes = batches_of(shape, kind, row, len(row), kept=None)
            tally.add(passes, times=steps / len(text))
    tally.expect("learned gates: batches of mean length, half of the halvings that fit the budget")
    tally.need(ACTIVATION_BYTES * cfg.step_tokens / tokens_for_gradients(model))


def _after(tally: Tally, model: LensModel, find: PromptSet, n: int, cfg: RunConfig) -> None:
    """The joint effect of the selection, and its cards."""
    shape = tally.shape
    items = align(model, find.first(cfg.attribute.verify_prompts))
    on_activations = cfg.search.trials > 0 or cfg.delete.law != "input_gain"
    if n <= MOST_SINGLES:
        tally.add(targets(shape, items, times=2))
        tally.add(ablations(shape, items, evenly(shape, n), on_activations=on_activations))
    cards = min(n, cfg.select.cards)
    if cards:
        tally.add(ablations(shape, items, evenly(shape, cards), on_activations=on_activations))
        lengths = [len(item.tokens) for item in items]
        tally.add(batches_of(shape, "forward", lengths, PROMPTS))
        mean = round(sum(lengths) / len(lengths))
        shown = [mean] * min(EXAMPLES, len(items))
        new = min(NEW_TOKENS, model.n_ctx - max(lengths))
        said = continued(shape, shown, size=EXAMPLES, copies=1, new=new, ends=Lengths())
        tally.add(said, times=2 * cards)
        tally.expect("which prompts the cards show: of mean length")
    tally.expect(WHERE)
