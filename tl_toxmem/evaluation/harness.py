"""Tasks of EleutherAI's lm-evaluation-harness on a model with whatever hooks are attached.

The harness asks for likelihoods of continuations and for greedy text; both come from the same code as our own measures,
so an edit is judged as it runs here and nothing has to be baked or saved first.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from tl_toxmem.careful import Careful
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation.likelihood import greedy_right, losses
from tl_toxmem.evaluation.rows import Row
from tl_toxmem.model import LensModel
from tl_toxmem.progress import in_batches

_MOST_NEW = 256  # tokens of a greedy answer where a task does not say, as the harness has it


def check_harness(tasks: Sequence[str]) -> None:
    """Whether these tasks can be run.

    Raises:
        ToxmemError: the harness is not installed, or has no such task.
    """
    if tasks:
        _harness()
        from lm_eval.tasks import TaskManager

        known = set(TaskManager().all_tasks)
        for task in tasks:
            if task not in known:
                raise ToxmemError(f"lm-eval has no task {task!r}: see `lm_eval ls tasks`")


def run_tasks(
    model: LensModel, tasks: Sequence[Any], *, batch_size: int, seed: int, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """By task and metric, what the harness found; its own names, standard errors among them.

    Args:
        model: any host; hooks that are attached act.
        tasks: names, or task configurations of the harness.
        batch_size: rows run together.
        seed: of few-shot examples and of the harness's bootstrap.
        limit: most documents of a task; None for all.

    Raises:
        ToxmemError: the harness is not installed; a task that samples.
    """
    harness = _harness()
    found = harness.simple_evaluate(
        model=_adapter(model, batch_size),
        tasks=list(tasks),
        limit=limit,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return {
        task: {name: float(v) for name, v in values.items() if isinstance(v, int | float)}
        for task, values in found["results"].items()
    }


def loglikelihoods(
    model: LensModel, pairs: Sequence[tuple[list[int], list[int]]], *, batch_size: int
) -> list[tuple[float, bool]]:
    """Of each continuation after its context, in tokens: log-likelihood in nats, and whether it is the greedy one.

    A pair that is longer than the model's context loses its beginning.
    """
    rows = []
    for i, (context, new) in enumerate(pairs):
        kept = [*context, *new][-model.n_ctx - 1 :]
        rows.append(Row(kept, min(len(new), len(kept) - 1), i))
    options: dict[str, Any] = {"batch_size": batch_size, "description": "lm-eval"}
    nll = losses(model, rows, **options)
    right = greedy_right(model, rows, **options)
    return [(-float(loss), bool(same)) for loss, same in zip(nll, right, strict=True)]


def _harness() -> Any:
    try:
        import lm_eval
    except ModuleNotFoundError:
        raise ToxmemError(
            'evaluate.lm_eval_tasks needs: pip install "tl-toxmem[lm-eval]"'
        ) from None
    return lm_eval


def _n_new(model: LensModel, options: dict[str, Any]) -> int:
    """How many tokens a request for greedy text wants.

    Raises:
        ToxmemError: more than leave room for a prompt, or sampling.
    """
    if options.get("do_sample"):
        raise ToxmemError("tasks that sample are not run: choose greedy ones")
    n = int(options.get("max_gen_toks", min(_MOST_NEW, model.n_ctx // 2)))
    if n >= model.n_ctx:
        raise ToxmemError(
            f"a task of lm-eval asks for {n} new tokens, and the model's context is {model.n_ctx}: choose tasks of "
            "shorter answers"
        )
    return n


def _until(text: str, ends: str | Sequence[str]) -> str:
    """What stands before the first of the ends."""
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.split(end)[0] if end else text
    return text


def _adapter(model: LensModel, batch_size: int) -> Any:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Adapter(TemplateLM):  # type: ignore[misc]
        """The model as the harness asks for it."""

        tokenizer = model.tokenizer

        @property
        def eot_token_id(self) -> int:
            return int(model.eos_ids[0] if model.eos_ids else model.pad_id)

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            **_: Any,
        ) -> list[int]:
            if add_special_tokens is False:
                ids: list[int] = model.tokenizer(string, add_special_tokens=False)["input_ids"]
                return ids
            return model.encode(string)

        def _loglikelihood_tokens(
            self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(context, new) for _, context, new in requests]
            return loglikelihoods(model, pairs, batch_size=batch_size)

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            found = []
            for request in requests:
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=model.n_ctx,
                    context_len=1,
                )
                pairs = [make_disjoint_window(window) for window in windows]
                found.append(
                    sum(nll for nll, _ in loglikelihoods(model, pairs, batch_size=batch_size))
                )
            return found

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            by_length: dict[int, list[int]] = {}
            for i, request in enumerate(requests):
                by_length.setdefault(_n_new(model, request.args[1]), []).append(i)
            found = [""] * len(requests)
            for n, places in by_length.items():
                careful = Careful(
                    partial(self._greedy, requests, n),
                    what="logits",
                    model=model,
                    name=lambda i: f"text {i} of a task",
                )
                for batch in in_batches(places, batch_size, "lm-eval"):
                    said = itertools.chain.from_iterable(careful(batch))
                    for i, text in zip(batch, said, strict=True):
                        found[i] = _until(text, requests[i].args[1].get("until", ()))
            return found

        def _greedy(self, requests: list[Any], n: int, places: Sequence[int]) -> list[str]:
            texts = [requests[i].args[0] for i in places]
            rows = [model.encode(text) or [self.eot_token_id] for text in texts]
            tokens, mask = model.pad([row[n - model.n_ctx :] for row in rows])
            longer = model.generate(tokens, mask, max_new_tokens=n)[:, tokens.shape[1] :]
            return [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in longer]

    return Adapter()
