"""What ROME associates (Meng et al. 2022, sections 3.1 and A.5): a key and a value for each prompt.

The key k* of a prompt is the mean, over contexts, of what enters the layer's output matrix at the subject's last token.
Its value is v* = W k* + b + d, with d found by Adam so that the layer's output plus d at that token minimises

    mean over contexts of -log P(alternative | context, prompt) / tokens of the alternative
    + kl KL(P_d || P)(next token | essence prompt "{subject} is a")
    + weight_decay |d| / |y|^2,         |d| <= clamp |y|,

with y the layer's output at the token in the bare prompt. A context is nothing, or a piece of ordinary text before the
prompt's own tokens (ROME samples it from the model). The published code averages the key over contexts but solves for
the bare prompt's; here, as in the paper and in R-ROME (Gupta et al. 2024), there is one key.

All prompts are searched together; no search feels another. Only positions from the edited token on are run, and only
the layers above.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.config import RomeConfig
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import in_batches, track
from tl_toxmem.sites import Site
from tl_toxmem.tokens import PromptTokens, target_log_prob

_BEST_TOKENS = 2048
"""Larger batches are no faster and take more memory."""
_POOL_TOKENS = 10_000
"""Of the text that contexts are drawn from."""


@dataclass(frozen=True)
class Associations:
    """Keys, and what the layer puts out for them before and after; float64 on the CPU.

    Attributes:
        keys: k*.
        outputs: W k* + b.
        values: v*.
    """

    keys: Float[Tensor, "edit d_mlp"]
    outputs: Float[Tensor, "edit d_model"]
    values: Float[Tensor, "edit d_model"]

    def first(self, n: int) -> "Associations":
        """Those of the first `n` prompts."""
        return Associations(self.keys[:n], self.outputs[:n], self.values[:n])


def draw_prefixes(
    model: LensModel, texts: Sequence[str], *, cfg: RomeConfig, seed: int
) -> list[list[int]]:
    """Pieces of ordinary text in tokens, for contexts.

    Raises:
        ToxmemError: no text.
    """
    pool = encode_documents(model, texts, max_tokens=_POOL_TOKENS, piece=max(cfg.prefix_tokens) + 1)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(pool), (cfg.prefixes,), generator=draw).tolist()
    bos = model.tokenizer.bos_token_id
    return [
        [token for token in pool[i] if token != bos][:length]
        for i, length in zip(chosen, cycle(cfg.prefix_tokens), strict=False)
    ]


def find_associations(
    model: LensModel,
    items: Sequence[PromptTokens],
    *,
    layer: int,
    prefixes: Sequence[Sequence[int]],
    cfg: RomeConfig,
) -> Associations:
    """Keys and values of prompts whose targets are what the edit should make the model say.

    Args:
        model: any host; it is left as it was.
        items: prompts in tokens, each with its alternative as the target.
        layer: whose MLP is edited.
        prefixes: contexts, in tokens; cut where prompt and alternative leave less room in the model's context.
        cfg: of the search.
    """
    n_rows = len(prefixes) + 2
    most = min(_BEST_TOKENS, tokens_for_gradients(model)) // n_rows
    found: list[Associations] = []
    for some in in_batches(
        items, len(items), "values", length=lambda i: len(i.full) - i.subject[1] + 1, most=most
    ):
        found.append(_Search(model, some, layer, prefixes, cfg).run())
    return Associations(
        torch.cat([x.keys for x in found]),
        torch.cat([x.outputs for x in found]),
        torch.cat([x.values for x in found]),
    )


class _Search:
    """A few prompts' contexts, run once up to the layer, to go on from with something added.

    Rows are [prompt x context], a prompt's side by side: bare, with each prefix, and last the essence prompt.
    """

    def __init__(
        self,
        model: LensModel,
        items: Sequence[PromptTokens],
        layer: int,
        prefixes: Sequence[Sequence[int]],
        cfg: RomeConfig,
    ) -> None:
        self.model, self.items, self.layer, self.cfg = model, items, layer, cfg
        rows = [row for item in items for row in _contexts(model, item, prefixes, cfg.essence)]
        self.n_rows = len(prefixes) + 2
        tokens, self.mask = model.pad([row for row, _ in rows])
        after = torch.tensor([n for _, n in rows], device=model.device)
        self.n_new = int(after.max()) + 1
        self.at: Int[Tensor, " row"] = self.n_new - 1 - after
        self.column = tokens.shape[1] - self.n_new
        self.keep = max(len(item.target) for item in items)
        seen: dict[str, Tensor] = {}

        def see(name: str) -> HookFn:
            def hook(state: Tensor) -> None:
                seen[name] = state[:, self.column :].clone()

            return hook

        sites: tuple[Site, ...] = ("resid_post", "mlp_post", "mlp_out")
        with torch.no_grad(), model.hooks([(site, layer, see(site)) for site in sites]):
            logits, self.past = model.host.forward_cached(tokens, self.mask, self.keep)
        self.leaving = seen["resid_post"]
        every = torch.arange(len(rows), device=model.device)
        by_prompt = len(items), self.n_rows, -1
        self.keys = seen["mlp_post"][every, self.at].view(by_prompt)[:, :-1].double()
        self.outputs = seen["mlp_out"][every, self.at].view(by_prompt)[:, :-1].double()
        essence = logits.view(*by_prompt[:2], *logits.shape[1:])[:, -1, -1]
        self.essence: Float[Tensor, "prompt d_vocab"] = essence.float().log_softmax(-1)

    def run(self) -> Associations:
        """Follow the gradient for every prompt until its loss is low, or the steps are over."""
        cfg = self.cfg
        length = self.outputs[:, 0].norm(dim=1, keepdim=True).float()
        change = torch.zeros(
            len(self.items), self.model.d_model, device=self.mask.device, requires_grad=True
        )
        adam = torch.optim.Adam([change], lr=cfg.learning_rate)
        active = torch.arange(len(self.items), device=self.mask.device)
        for _ in track(range(cfg.steps - 1), "steps", total=cfg.steps - 1):
            with torch.enable_grad():
                loss = self._loss(change, active)
                loss = loss + cfg.weight_decay * (change.norm(dim=1) / length[:, 0] ** 2)[active]
                (change.grad,) = torch.autograd.grad(loss.sum(), [change])
            active = active[loss.detach() >= cfg.stop]
            if not len(active):
                break
            before = change.detach().clone()
            adam.step()
            with torch.no_grad():
                within = (cfg.clamp * length / change.norm(dim=1, keepdim=True)).clamp(max=1)
                before[active] = (change * within)[active]
                change.copy_(before)
        keys, outputs = self.keys.mean(1).cpu(), self.outputs.mean(1).cpu()
        return Associations(keys, outputs, outputs + change.detach().double().cpu())

    def _loss(
        self, change: Float[Tensor, "prompt d_model"], active: Int[Tensor, " active"]
    ) -> Float[Tensor, " active"]:
        """Of the prompts that are still searched, without the weight decay."""
        n = self.n_rows
        rows = (active[:, None] * n + torch.arange(n, device=active.device)).flatten()
        added = change[active].repeat_interleave(n, 0).to(self.leaving.dtype)
        place = torch.arange(len(rows), device=rows.device), self.at[rows]
        resid = self.leaving[rows].index_put(place, added, accumulate=True)
        suffix = self.model.host.suffix(self.mask[rows], self.n_new)
        for layer in range(self.layer + 1, self.model.n_layers):
            resid = suffix.block(layer, resid, self.past[layer].first(self.column, rows))
        logits = self.model.host.unembed(resid, self.keep)
        logits = logits.view(len(active), n, *logits.shape[1:])
        items = [self.items[i] for i in active.tolist()]
        repeated = [item for item in items for _ in range(n - 1)]
        log_prob = target_log_prob(logits[:, :-1].flatten(0, 1), repeated).view(len(items), n - 1)
        lengths = torch.tensor([len(item.target) for item in items], device=log_prob.device)
        edited = logits[:, -1, -1].float().log_softmax(-1)
        kl = (edited.exp() * (edited - self.essence[active])).sum(-1)
        return -log_prob.mean(1) / lengths + self.cfg.kl * kl


def _contexts(
    model: LensModel, item: PromptTokens, prefixes: Sequence[Sequence[int]], essence: str
) -> list[tuple[list[int], int]]:
    """A prompt's rows, and how many tokens come after the edited one in each."""
    bos = int(model.prepend_bos)
    head, body = list(item.full[:bos]), list(item.full[bos:])
    room = model.n_ctx - len(item.full)
    after = len(item.full) - item.subject[1]
    rows = [(head + list(prefix[:room]) + body, after) for prefix in ((), *prefixes)]
    subject = list(item.tokens[slice(*item.subject)])
    tail: list[int] = model.tokenizer(essence, add_special_tokens=False)["input_ids"]
    return [*rows, ((head + subject + tail)[-model.n_ctx :], len(tail))]
