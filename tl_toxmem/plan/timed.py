"""One pass, run on the model to see how long it takes, and made small enough before: some rows, two layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.model import LensModel
from tl_toxmem.model.generate import Draws, Sampling, draw
from tl_toxmem.plan.work import Pass, Shape

Clock = Callable[[], float]
_MOST = 2e10
"""Operations that are timed at once; more are timed in part."""
_LAYERS = 2
_LONG = 0.1
"""Seconds; what takes longer is timed once."""
_ROUNDS = 3


class Timed:
    """A pass that is to be timed.

    Args:
        model: as it will run.
        one: which.
        protocol: how tokens are drawn.
        clock: in seconds.
    """

    def __init__(
        self, model: LensModel, one: Pass, *, protocol: EvaluateConfig, clock: Clock
    ) -> None:
        self.model, self.one, self.clock, self.protocol = model, one, clock, protocol
        shape = Shape.of(model)
        size = one.operations(shape) / one.times
        n_layers = shape.n_layers
        self.layers = n_layers if size <= _MOST else min(_LAYERS, n_layers)
        of_row = self.layers * one.layer_operations(shape) / max(one.row_layers, 1.0)
        of_row += one.kept * one.kept_operations(shape)
        self.rows = max(1, min(one.rows, int(_MOST / of_row)))
        pos = one.past + one.new
        self.mask = torch.ones(self.rows, pos, dtype=torch.long, device=model.device)
        if self.rows > 1 and pos > 1:
            self.mask[0, 0] = 0  # as where prompts of several lengths run together
        numbers = torch.arange(self.rows * pos, device=model.device) * 7919
        self.tokens = (numbers % model.d_vocab).view(self.rows, pos)
        self.resid = model.embed(self.tokens[:, one.past :])

    def seconds(self) -> float:
        """Of one such batch, whole."""
        one = self.one
        of_layers = one.row_layers / (self.rows * self.layers)
        of_head = one.rows / self.rows
        # The head is timed by itself where it is to be counted by itself.
        whole = of_layers == of_head == 1 and one.kind != "sweep"
        head = self._timed(self._drawn if one.kind == "decode" else self._head) if not whole else 0
        if one.kind == "sweep":
            layers = self._timed(self._swept()) if one.row_layers else 0.0
            return layers * of_layers + head * of_head
        way = self._steps() if one.kind == "decode" else self._resumed
        return (self._timed(way) - head) * of_layers + head * of_head

    def _timed(self, way: Callable[[], object]) -> float:
        """The least of a few rounds, after one that is not counted."""
        found: list[float] = []
        for _ in range(1 + _ROUNDS):
            start = self.clock()
            way()
            found.append(self.clock() - start)
            if found[-1] > _LONG and len(found) > 1:
                break
        return min(found[1:])

    def _resumed(self) -> None:
        """A pass from the token embeddings, or through the last layers."""
        host, one = self.model.host, self.one
        start = self.model.n_layers - self.layers
        with torch.set_grad_enabled(one.backwards > 0):
            resid = self.resid.detach().requires_grad_(one.backwards > 0)
            logits = host.resume(resid, start, self.mask, one.kept)
            self._back(logits, resid)

    def _head(self) -> None:
        """The unembedding, and what is made of the logits."""
        one = self.one
        with torch.set_grad_enabled(one.backwards > 0):
            resid = self.resid.detach().requires_grad_(one.backwards > 0)
            self._back(self.model.host.unembed(resid, one.kept), resid)

    def _back(self, logits: Tensor, resid: Tensor) -> None:
        value = logits.float().log_softmax(-1)[..., 0].sum()
        for i in range(self.one.backwards):
            torch.autograd.grad(value, [resid], retain_graph=i + 1 < self.one.backwards)

    def _swept(self) -> Callable[[], None]:
        """Blocks on the last positions, behind keys and values that are gathered."""
        model, one = self.model, self.one
        start = model.n_layers - self.layers
        # Keys and values of one row serve all: they are gathered as those of many are.
        with torch.no_grad():
            _, past = model.host.forward_cached(self.tokens[-1:], self.mask[-1:], 1)
        rows = torch.zeros(self.rows, dtype=torch.long, device=model.device)

        def run() -> None:
            suffix = model.host.suffix(self.mask, one.new)
            with torch.set_grad_enabled(one.backwards > 0):
                first = self.resid.detach().requires_grad_(one.backwards > 0)
                resid = first
                for layer in range(start, model.n_layers):
                    known = past[layer].first(one.past, rows)
                    resid = suffix.block(layer, resid, known)
                for i in range(one.backwards):
                    more = i + 1 < one.backwards
                    torch.autograd.grad(resid.sum(), [first], retain_graph=more)

        return run

    def _steps(self) -> Callable[[], None]:
        """Steps of a generation, one after the other, with the drawing of a token."""
        if self.layers < self.model.n_layers:
            swept = self._swept()
            return lambda: (swept(), self._drawn())[1]
        host, new = self.model.host, self.tokens[:, -1:]
        rows = torch.zeros(self.rows, dtype=torch.long, device=self.model.device)
        mask = torch.ones_like(self.mask)
        state: dict[str, Any] = {}
        with torch.no_grad():
            first = max(1, self.one.past)
            _, cache = host.step(self.tokens[-1:, :first], mask[-1:, :first], None)
            state["cache"] = host.take(cache, rows)
        state["mask"] = mask[:, :first]

        @torch.no_grad()
        def step() -> None:
            state["mask"] = torch.cat([state["mask"], mask[:, :1]], dim=1)
            logits, state["cache"] = host.step(new, state["mask"], state["cache"])
            self._draw(logits)

        return step

    @torch.no_grad()
    def _drawn(self) -> None:
        self._draw(self.model.host.unembed(self.resid[:, -1:], 1)[:, -1])

    def _draw(self, logits: Tensor) -> None:
        cfg = self.protocol
        sampling = None
        if not cfg.greedy:
            sampling = Sampling(cfg.temperature, cfg.top_k or None, cfg.top_p)
        every = torch.arange(len(logits), device=logits.device)
        draw(logits.float(), sampling, Draws(seeds=every), every, 0)
