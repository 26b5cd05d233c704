"""The clean and corrupted runs of a few prompts, kept so that cells can go on from them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.careful import is_finite
from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import corrupted_embeddings, n_draws
from tl_toxmem.errors import NotFinite
from tl_toxmem.model import Hook, HookFn, LensModel
from tl_toxmem.model.cache import KeyValues
from tl_toxmem.sites import Site
from tl_toxmem.tokens import PromptTokens
from tl_toxmem.trace.metrics import Measure, needs_span


class Group:
    """Prompts that are traced together, left-padded to one width.

    Rows of the corrupted run are [prompt x draw], the draws of a prompt side by side.

    Attributes:
        n_draws: corrupted runs per prompt.
        width: padded length, with all of the target but its last token where the metrics look at the whole of it.
        pads: padding of each prompt.
        clean: [site, layer] -> [prompt, pos, width of the site].
        corrupted: [site, layer] -> [prompt x draw, pos, d_model] of the corrupted run, for what cells need of it.
        embeddings: [prompt x draw, pos, d_model] of the corrupted run.
        entering: [layer] -> [prompt x draw, pos, d_model] what enters each layer of the corrupted run, and what leaves
            the last.
        past: keys and values of each layer of the corrupted run.
        clean_values: [metric, prompt].
        corrupted_values: [metric, prompt x draw].
    """

    def __init__(
        self, model: LensModel, items: Sequence[PromptTokens], *, cfg: TraceConfig, level: float
    ) -> None:
        self.model, self.items, self.n_draws = model, items, n_draws(cfg)
        self.measure = Measure(cfg.measured, model, items)
        full = needs_span(cfg.measured)
        rows = [item.full if full else item.tokens for item in items]
        tokens, mask = model.pad(rows)
        self.width = tokens.shape[1]
        self.pads = [self.width - len(row) for row in rows]
        self.tokens: Int[Tensor, "row pos"] = tokens.repeat_interleave(self.n_draws, 0)
        self.mask: Int[Tensor, "row pos"] = mask.repeat_interleave(self.n_draws, 0)
        numbers = torch.arange(len(items), device=model.device)
        self.prompts: Int[Tensor, " row"] = numbers.repeat_interleave(self.n_draws)
        # What stands in padding never matters.
        shape = (*self.tokens.shape, model.d_model)
        self.embeddings = torch.zeros(shape, dtype=model.dtype, device=model.device)
        for i, item in enumerate(items):
            own = corrupted_embeddings(model, item, cfg=cfg, level=level, full=full)
            self.embeddings[i * self.n_draws : (i + 1) * self.n_draws, self.pads[i] :] = own
        self.clean, self.clean_values = self._run_clean(tokens, mask, _clean_sites(cfg))
        self._run_corrupted(severs_attention="attn" in cfg.severed)
        if not is_finite([self.clean_values, self.corrupted_values]):
            raise NotFinite("the values of a clean or corrupted run are not finite")

    def _run_clean(
        self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]
    ) -> tuple[dict[tuple[Site, int], Tensor], Float[Tensor, "metric prompt"]]:
        wanted = [(site, layer) for site in sites for layer in range(self.model.n_layers)]
        logits, states = self.model.capture(tokens, mask, sites=wanted, keep=self.measure.keep)
        return states, self.measure.clean(logits)

    @torch.no_grad()
    def _run_corrupted(self, *, severs_attention: bool) -> None:
        model, layers = self.model, range(self.model.n_layers)
        kept: dict[tuple[Site, int], Tensor] = {}

        def keep(key: tuple[Site, int]) -> HookFn:
            def hook(state: Tensor) -> None:
                kept[key] = state.clone()

            return hook

        sites: list[Site] = ["resid_pre", "mlp_out"]
        if severs_attention:
            sites.append("attn_out")
        keys = [(site, layer) for site in sites for layer in layers]
        keys.append(("resid_post", layers[-1]))
        hooks: list[Hook] = [("embed", 0, lambda _: self.embeddings)]
        hooks += [(site, layer, keep((site, layer))) for site, layer in keys]
        with model.hooks(hooks):
            logits, self.past = model.host.forward_cached(self.tokens, self.mask, self.measure.keep)
        self.entering = [kept.pop(("resid_pre", layer)) for layer in layers]
        self.entering.append(kept.pop(("resid_post", layers[-1])))
        self.corrupted = kept
        self.corrupted_values = self.measure(logits, self.prompts)

    def column(self, prompt: int, pos: int) -> int:
        """Where a prompt's token is in the padded tensors."""
        return self.pads[prompt] + pos

    def keys_values(self, layer: int, n: int, rows: Int[Tensor, " row"]) -> KeyValues:
        """Keys and values of the first `n` columns, for these rows of the corrupted run."""
        return self.past[layer].first(n, rows)


def _clean_sites(cfg: TraceConfig) -> list[Site]:
    """The sites whose clean states are restored."""
    return list(dict.fromkeys(("resid_post", "mlp_out", "attn_out", *cfg.sites)))
