"""What the adapter of lm-eval uses of it, written out anew: the base class, the windows of a rolling likelihood, a run.

The harness itself is heavy and no part of the tests' environment. Where it is there, `test_evaluation.py` runs it too.
"""

from dataclasses import dataclass
from types import ModuleType

TASKS = ("twice", "greedy")


@dataclass
class Request:
    args: tuple


class TemplateLM:
    """Texts to tokens, as the harness does it: a blank at the context's end belongs to what follows."""

    @property
    def prefix_token_id(self):
        return self.eot_token_id

    def loglikelihood(self, requests):
        pairs = []
        for context, new in (request.args for request in requests):
            kept = context.rstrip()
            before = self.tok_encode(kept) if kept else [self.prefix_token_id]
            whole = self.tok_encode(context + new) if kept else [*before, *self.tok_encode(new)]
            pairs.append(((context, new), before, whole[len(before) :]))
        return self._loglikelihood_tokens(pairs)


def rolling(token_list, prefix_token, max_seq_len, context_len):
    """Inputs and what they predict: every token once, from all that fits before it at its window's end."""
    assert context_len == 1
    tokens = [prefix_token, *token_list]
    for start in range(0, len(token_list), max_seq_len):
        end = min(start + max_seq_len, len(token_list))
        yield tokens[max(0, end - max_seq_len) : end], token_list[start:end]


def disjoint(window):
    inputs, predicted = window
    return inputs[: len(inputs) - len(predicted) + 1], predicted


def simple_evaluate(*, model, tasks, **options):
    """Every task asks for one likelihood twice, and reports a metric, a count and a word."""
    found = model.loglikelihood([Request(("Bob is a", " fool"))] * 2)
    values = {"sum,none": sum(value for value, _ in found), "n": len(found), "alias": "a name"}
    return {"results": {task: values for task in tasks}, "seed": options["random_seed"]}


def install(monkeypatch):
    """Put it where the harness would be imported from."""
    import sys

    parts = {
        "lm_eval": {"simple_evaluate": simple_evaluate},
        "lm_eval.api": {},
        "lm_eval.api.model": {"TemplateLM": TemplateLM},
        "lm_eval.utils": {"get_rolling_token_windows": rolling, "make_disjoint_window": disjoint},
        "lm_eval.tasks": {"TaskManager": type("TaskManager", (), {"all_tasks": TASKS})},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
