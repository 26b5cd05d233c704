"""What a trace measures at the prompt's end, in float32 whatever the model's precision.

| name | what | unit |
|---|---|---|
| `log_prob`, `prob`, `logit` | of the target's first token | nats, probability, logits |
| `span_log_prob` | of the whole target | nats |
| `logit_diff` | the target's first token against the neutral target's | logits |
| `kl` | clean run against this one, at the prompt's last token | nats |

Effects are positive where a state mediates the target: restored - corrupted, and for `kl`, which a restored state
lowers, corrupted - restored.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.config import Metric
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.tokens import PromptTokens, continuation

METRICS: tuple[Metric, ...] = get_args(Metric)
SIGN: dict[str, float] = {name: -1.0 if name == "kl" else 1.0 for name in METRICS}

UNITS: dict[str, str] = {
    "log_prob": "nats of log-probability",
    "prob": "probability",
    "logit": "logits",
    "kl": "nats of KL divergence",
    "span_log_prob": "nats of log-probability of the whole target",
    "logit_diff": "logits of difference to the neutral target",
}


def needs_span(names: Sequence[Metric]) -> bool:
    """Whether the whole target has to be run."""
    return "span_log_prob" in names


def neutral_tokens(model: LensModel, items: Sequence[PromptTokens]) -> list[int]:
    """The first token of each neutral target.

    Raises:
        ToxmemError: a prompt without one, or whose neutral target begins as its target does.
    """
    found = []
    for item in items:
        where, text = f"prompt {item.prompt.id!r}", item.prompt.neutral_target
        if text is None:
            raise ToxmemError(
                f"{where} has no neutral_target, which the metric logit_diff needs: give one, or choose from "
                f"{', '.join(name for name in METRICS if name != 'logit_diff')}"
            )
        tokens = continuation(model, item.prompt.start, text)
        if not tokens:
            raise ToxmemError(f"{where}: the neutral target {text!r} has no tokens")
        if tokens[0] == item.target[0]:
            raise ToxmemError(
                f"{where}: the neutral target {text!r} and the target begin with the same token"
            )
        found.append(tokens[0])
    return found


class Measure:
    """Metrics of a few prompts, each of many rows.

    Args:
        names: along the metric axis.
        model: for its tokenizer.
        items: the prompts.
    """

    def __init__(
        self, names: Sequence[Metric], model: LensModel, items: Sequence[PromptTokens]
    ) -> None:
        self.names = tuple(names)
        self.span = needs_span(names)
        self.keep = max(len(item.target) for item in items) if self.span else 1
        """How many last positions are looked at."""
        device = model.device
        self._target = torch.tensor([item.target[0] for item in items], device=device)
        self._neutral = self._target
        if "logit_diff" in names:
            self._neutral = torch.tensor(neutral_tokens(model, items), device=device)
        # [prompt, kept]: what each position predicts, and whether it is of the target; targets end together.
        self._wanted = torch.zeros(len(items), self.keep, dtype=torch.long, device=device)
        self._real = torch.zeros(len(items), self.keep, device=device)
        for row, item in enumerate(items):
            n = len(item.target) if self.span else 1
            self._wanted[row, -n:] = torch.tensor(item.target[:n], device=device)
            self._real[row, -n:] = 1
        self._at = (self._real.cumsum(-1) == 0).sum(-1)  # where the first token is predicted
        self._clean: Float[Tensor, "prompt d_vocab"] | None = None

    def clean(self, logits: Float[Tensor, "prompt kept d_vocab"]) -> Float[Tensor, "metric prompt"]:
        """Of the clean run, one row a prompt; the others are compared with it."""
        prompts = torch.arange(len(logits), device=logits.device)
        self._clean = logits[prompts, self._at].float().log_softmax(-1)
        return self(logits, prompts)

    def __call__(
        self, logits: Float[Tensor, "row kept d_vocab"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, "metric row"]:
        """Each metric of each row, on the CPU.

        Args:
            logits: of the last `keep` positions; fewer do where they hold the prompts' own targets.
            prompts: which prompt each row is of.
        """
        kept = logits.shape[1]
        rows = torch.arange(len(logits), device=logits.device)
        first = logits[rows, self._at[prompts] - (self.keep - kept)].float()
        total = first.logsumexp(-1)
        logit = first.gather(-1, self._target[prompts][:, None])[:, 0]
        found: dict[str, Tensor] = {"logit": logit, "log_prob": logit - total}
        found["prob"] = found["log_prob"].exp()
        if "kl" in self.names:
            assert self._clean is not None
            clean = self._clean[prompts]
            found["kl"] = (clean.exp() * (clean - (first - total[:, None]))).sum(-1)
        if "logit_diff" in self.names:
            found["logit_diff"] = logit - first.gather(-1, self._neutral[prompts][:, None])[:, 0]
        if self.span:
            every = logits.float()
            picked = every.gather(-1, self._wanted[prompts, -kept:][..., None])[..., 0]
            log_probs = (picked - every.logsumexp(-1)) * self._real[prompts, -kept:]
            found["span_log_prob"] = log_probs.sum(-1)
        return torch.stack([found[name] for name in self.names]).cpu()
