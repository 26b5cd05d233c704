"""Running a model on a TransformerLens host: hooks, forward, resume, capture, gradients, generation.

Token tensors are always left-padded and always come with their mask.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.engine import LOCAL, Engine
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model.cache import KeyValues
from tl_toxmem.model.generate import Draws, Sampling, decode
from tl_toxmem.sites import Site, hook_name

HookFn = Callable[[Tensor], Tensor | None]
Hook = tuple[Site, int, HookFn]


@runtime_checkable
class Suffix(Protocol):
    """Single blocks on the last positions of rows; see `HookedSuffix` and `BridgeSuffix`."""

    def block(self, layer: int, resid: Tensor, past: KeyValues) -> Tensor:
        """What leaves block `layer`, after `past` keys and values of the earlier positions."""
        ...


@runtime_checkable
class Host(Protocol):
    """What a TransformerLens model must offer; see `HookedHost` and `BridgeHost`."""

    kind: Literal["hooked", "bridge"]
    raw: Any
    n_layers: int
    points: dict[str, Any]

    def forward(self, tokens: Tensor, mask: Tensor, keep: int | None) -> Tensor:
        """Logits of the last `keep` positions."""
        ...

    def resume(self, resid: Tensor, layer: int, mask: Tensor, keep: int | None) -> Tensor:
        """Logits from what enters block `layer`."""
        ...

    def unembed(self, resid: Tensor, keep: int | None) -> Tensor:
        """Logits from what leaves the last block."""
        ...

    def forward_cached(
        self, tokens: Tensor, mask: Tensor, keep: int | None
    ) -> tuple[Tensor, list[KeyValues]]:
        """`forward`, and every layer's keys and values."""
        ...

    def suffix(self, mask: Tensor, n_new: int) -> Suffix:
        """To run blocks on the last `n_new` positions."""
        ...

    def step(self, new: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits after `new` tokens, and the cache."""
        ...

    def take(self, cache: Any, rows: Tensor) -> Any:
        """The cache of these rows, in this order, each as often as it is named."""
        ...

    def value_vectors(self, layer: int) -> Tensor:
        """What each neuron of a layer writes, [d_mlp, d_model]; a view."""
        ...


@runtime_checkable
class Edit(Protocol):
    """What is done to a model by hooks, and can be done to another copy of it; see `Deletion`."""

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """The model with the edit in force."""
        ...


class Runner:
    """What runs on a host. Hooks that are attached act in every method."""

    def __init__(self, host: Host, *, pad_id: int, eos_ids: tuple[int, ...]) -> None:
        self.host = host
        self.pad_id = pad_id
        """Fills the left of short rows; masked, so its value never matters."""
        self.eos_ids = eos_ids
        """Tokens that end a text."""
        self.n_layers: int = host.n_layers
        self.engine: Engine = LOCAL
        """Does the work that stages do prompt by prompt."""
        self.edits: tuple[Edit, ...] = ()
        """In force, in the order in which they came."""
        self._hooks_of_edits = 0

    @torch.no_grad()
    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embeddings, before positions are added."""
        embeddings: Tensor = self.host.raw.embed(tokens)
        return embeddings

    @torch.no_grad()
    def mean_embedding(self) -> Float[Tensor, " d_model"]:
        """The mean over all rows of the embedding matrix, float32."""
        device = next(self.host.raw.parameters()).device
        d_vocab = self.host.raw.cfg.d_vocab
        total = torch.zeros((), dtype=torch.float64, device=device)
        for start in range(0, d_vocab, 4096):
            tokens = torch.arange(start, min(start + 4096, d_vocab), device=device)
            total = total + self.embed(tokens[None])[0].double().sum(0)
        mean: Tensor = (total / d_vocab).float()
        return mean

    def value_vectors(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """What each neuron of a layer writes into the residual stream; a view, of processed weights too."""
        self._check_layer(layer)
        return self.host.value_vectors(layer)

    @contextmanager
    def edited(self, edit: Edit, hooks: Sequence[Hook]) -> Iterator[None]:
        """Attach the hooks of an edit, which workers of an engine then make as well."""
        before, n = self.edits, self._hooks_of_edits
        with self.hooks(hooks):
            self.edits, self._hooks_of_edits = (*before, edit), n + len(hooks)
            try:
                yield
            finally:
                self.edits, self._hooks_of_edits = before, n

    @property
    def only_edited(self) -> bool:
        """Whether no hooks are attached but those of `edits`."""
        return self._hooks_of_edits == sum(len(p.fwd_hooks) for p in self.host.points.values())

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Attach `(site, layer, fn)` for the duration; `fn(activation)` returns a new tensor or None.

        Raises:
            ToxmemError: a site or layer that the model does not have; nothing is attached then.
        """
        wanted = [(self._point(site, layer), fn) for site, layer, fn in hooks]
        added: list[tuple[Any, Any]] = []
        try:
            for point, fn in wanted:
                point.add_hook(_as_lens_hook(fn))  # returns a handle on 4.x only
                added.append((point, point.fwd_hooks[-1]))
            yield
        finally:
            for point, handle in reversed(added):
                handle.hook.remove()
                point.fwd_hooks[:] = [h for h in point.fwd_hooks if h is not handle]

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers:
            raise ToxmemError(f"no layer {layer}: the model has layers 0 to {self.n_layers - 1}")

    def _point(self, site: Site, layer: int) -> Any:
        self._check_layer(layer)
        name = hook_name(site, layer)
        if name not in self.host.points:  # the Bridge of 3.9 would run on, unhooked
            raise ToxmemError(f"the model has no hook point {name!r}")
        return self.host.points[name]

    @torch.no_grad()
    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits of the last `keep` positions (all for None)."""
        return self.host.forward(tokens, mask, keep)

    def differentiable(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """`forward` through which gradients flow, to what attached hooks bring in."""
        return self.host.forward(tokens, mask, keep)

    @torch.no_grad()
    def resume(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        layer: int,
        mask: Int[Tensor, "batch pos"],
        *,
        keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits from the residual stream entering block `layer` (`n_layers`: only unembed)."""
        return self.host.resume(resid, layer, mask, keep)

    def capture(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        sites: Sequence[tuple[Site, int]],
        keep: int | None = None,
    ) -> tuple[Tensor, dict[tuple[Site, int], Tensor]]:
        """Logits, and copies of the activations at `(site, layer)`, each [batch, pos, width]."""
        found: dict[tuple[Site, int], Tensor] = {}

        def grab(key: tuple[Site, int]) -> HookFn:
            def hook(activation: Tensor) -> None:
                found[key] = activation.detach().clone()

            return hook

        with self.hooks([(site, layer, grab((site, layer))) for site, layer in sites]):
            logits = self.forward(tokens, mask, keep=keep)
        return logits, found

    def gradients(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        metric: Callable[[Tensor], Float[Tensor, ""]],
        site: Site = "mlp_post",
        keep: int | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Activations at `site` of every layer, and the gradients of `metric(logits)` there.

        One forward and one backward pass; no gradient of a parameter is made.
        """
        found: list[Tensor] = [torch.empty(0)] * self.n_layers

        def grab(layer: int) -> HookFn:
            def hook(activation: Tensor) -> None:
                found[layer] = activation

            return hook

        hooks: list[Hook] = [("embed", 0, lambda a: a.detach().requires_grad_(True))]
        hooks += [(site, layer, grab(layer)) for layer in range(self.n_layers)]
        with torch.enable_grad(), self.hooks(hooks):
            value = metric(self.host.forward(tokens, mask, keep))
            gradients = torch.autograd.grad(value, found)
        return [a.detach() for a in found], list(gradients)

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        seeds: Int[Tensor, " row"] | None = None,
        copies: int = 1,
    ) -> Int[Tensor, "row longer"]:
        """Prompts with their continuations, hooks active; greedy without `sampling`.

        Args:
            tokens: left-padded prompts.
            mask: 1 where a token is real.
            max_new_tokens: most tokens of a continuation.
            sampling: how tokens are drawn.
            generator: of random numbers for the whole batch, as transformers draws them.
            seeds: in its place one for each row: what it draws then does not depend on the batch that it is in.
            copies: continuations of each prompt, which is run once; rows of one prompt follow each other.
        """
        return decode(
            self.host,
            tokens,
            mask,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            draws=Draws(generator, seeds),
            copies=copies,
            eos=self.eos_ids,
            pad=self.pad_id,
        )


def _as_lens_hook(fn: HookFn) -> Callable[..., Tensor | None]:
    def hooked(activation: Tensor, hook: Any) -> Tensor | None:  # noqa: ARG001 - TransformerLens passes it
        return fn(activation)

    return hooked
