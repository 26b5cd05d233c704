"""The whole way on the demo model, small."""

from pathlib import Path

SMALL = {
    "split": {"max_find": 16, "max_report": 8},
    "trace": {"max_prompts": 2, "n_noise": 2},
    "attribute": {"verify_top": 5, "verify_random": 5, "verify_prompts": 8, "max_cost_tokens": 600},
    "select": {"max_k": 30, "cards": 2},
    "evaluate": {"n_continuations": 2, "max_new_tokens": 5, "max_neutral_tokens": 500},
    "export": {"n_prompts": 4, "max_new_tokens": 4},
}


def config(out: Path, **changes):
    from tl_toxmem.config import make_config

    return make_config({"model": "demo", "out": str(out), **SMALL, **changes})
