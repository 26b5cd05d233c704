"""`LensModel`: one surface over HookedTransformer and TransformerBridge, on raw Hugging Face weights.

Token tensors are always left-padded and always come with their mask; text goes through the checkpoint's
own tokenizer and never through TransformerLens's, which may add a BOS token or replace the tokenizer.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tl_toxmem.errors import ToxmemError
from tl_toxmem.model.bridge import BridgeHost
from tl_toxmem.model.generate import Sampling, decode
from tl_toxmem.model.hooked import HookedHost
from tl_toxmem.model.load import (
    Source,
    check_tokenizer,
    find_source,
    load_hf,
    load_tokenizer,
    plain_log_probs,
)
from tl_toxmem.sites import Architecture, Site, architecture, hook_name

HookFn = Callable[[Tensor], Tensor | None]
Hook = tuple[Site, int, HookFn]
HostName = Literal["auto", "hooked", "bridge"]

# Two implementations of the same sums in another order; 48 layers of float32 stay well below it, and a wrong
# weight, position or mask is far above it. transformers takes norms, rotary embeddings or softmaxes of some
# architectures in float32 whatever the precision, so float64 is allowed no less; bfloat16 rounds 2^16 times coarser.
HOST_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 1.0}


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

    def step(self, new: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits after `new` tokens, and the cache."""
        ...


class LensModel:
    """A language model on a TransformerLens host. Make one by `from_pretrained` or `wrap`."""

    def __init__(
        self,
        host: Host,
        tokenizer: PreTrainedTokenizerBase,
        *,
        arch: Architecture,
        source: Source | None,
        hf: PreTrainedModel | None,
        prepend_bos: bool,
    ) -> None:
        if prepend_bos and tokenizer.bos_token_id is None:
            raise ToxmemError("prepend_bos: the tokenizer has no beginning-of-text token")
        self.host, self.tokenizer, self.arch, self.source = host, tokenizer, arch, source
        self.prepend_bos = prepend_bos
        self._hf = hf
        cfg = host.raw.cfg
        self.n_layers: int = cfg.n_layers
        self.d_model: int = cfg.d_model
        self.d_mlp: int = cfg.d_mlp
        self.d_vocab: int = cfg.d_vocab
        self.n_ctx: int = cfg.n_ctx
        parameter = next(host.raw.parameters())
        self.dtype: torch.dtype = parameter.dtype
        self.device: torch.device = parameter.device

    def __repr__(self) -> str:
        name = self.source.name if self.source else "wrapped"
        return (
            f"LensModel({name}, {self.host.kind}, {self.n_layers} layers, d_model {self.d_model}, "
            f"d_mlp {self.d_mlp}, {str(self.dtype).removeprefix('torch.')}, {self.device})"
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        host: HostName = "auto",
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        revision: str | None = None,
        prepend_bos: bool = False,
    ) -> "LensModel":
        """Load a local folder, a hub id or `demo`, and check it once against plain transformers.

        Args:
            name_or_path: a folder with config.json, safetensors and tokenizer files; a hub id; `demo`.
            host: `auto` takes HookedTransformer where the installed TransformerLens has it.
            dtype: of the weights and activations.
            device: where the weights go, such as `cpu` or `cuda:0`.
            revision: of a hub id.
            prepend_bos: put the beginning-of-text token before every text.

        Raises:
            ToxmemError: model missing, of an unsupported architecture, damaged, without its tokenizer, or
                not equal to plain transformers on this host.
        """
        source = find_source(name_or_path, revision=revision)
        hf = load_hf(source, dtype=dtype, device=device)
        arch = architecture(hf.config.model_type, where=source.name)
        embedding: Any = hf.get_input_embeddings().weight
        d_vocab = int(embedding.shape[0])
        tokenizer = load_tokenizer(source, d_vocab=d_vocab)
        probe, mask = _probe(d_vocab, int(hf.config.max_position_embeddings), hf.device)
        expected = plain_log_probs(hf, probe, mask)
        kind = _pick_host(host)
        model = cls._on(
            kind, hf, tokenizer=tokenizer, arch=arch, source=source, prepend_bos=prepend_bos
        )
        gap = model._gap(expected)
        if not gap <= HOST_TOLERANCE[dtype]:
            raise ToxmemError(
                f"{source.name} on host {kind!r} differs from transformers by {gap:.3g} nats"
            )
        return model

    @classmethod
    def _on(
        cls,
        kind: Literal["hooked", "bridge"],
        hf: PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase,
        arch: Architecture,
        source: Source | None,
        prepend_bos: bool,
    ) -> "LensModel":
        """A Hugging Face model on a host; only HookedTransformer leaves `hf` itself fit to be saved."""
        hooked = kind == "hooked"
        host: Host = HookedHost.from_hf(hf) if hooked else BridgeHost.from_hf(hf)
        kept = hf if hooked else None
        return cls(host, tokenizer, arch=arch, source=source, hf=kept, prepend_bos=prepend_bos)

    @classmethod
    def wrap(
        cls,
        model: Any,
        *,
        tokenizer: PreTrainedTokenizerBase,
        checkpoint: str | Path | None = None,
        prepend_bos: bool = False,
    ) -> "LensModel":
        """Use a HookedTransformer or TransformerBridge that you already have; it is not changed.

        Args:
            model: the TransformerLens model; a processed one (folded, centred) may be analysed, not baked.
            tokenizer: a fast Hugging Face tokenizer.
            checkpoint: folder or hub id of the weights it was made from; baking from a HookedTransformer
                needs it.
            prepend_bos: as in `from_pretrained`.

        Raises:
            ToxmemError: another kind of object, an unsupported architecture, training mode.
        """
        kind = type(model).__name__
        if kind not in ("HookedTransformer", "TransformerBridge"):
            raise ToxmemError(
                f"cannot wrap a {kind}: give a HookedTransformer or a TransformerBridge"
            )
        if kind == "TransformerBridge" and model.training:
            raise ToxmemError(
                "the TransformerBridge is in training mode (dropout): call model.eval() first"
            )
        host: Host = HookedHost(model) if kind == "HookedTransformer" else BridgeHost(model)
        found = (
            model.original_model.config.model_type
            if kind == "TransformerBridge"
            else model.cfg.original_architecture
        )
        arch = architecture(str(found), where="the wrapped model")
        tokenizer = check_tokenizer(
            tokenizer, d_vocab=model.cfg.d_vocab, where="the tokenizer given"
        )
        source = None if checkpoint is None else find_source(checkpoint)
        return cls(host, tokenizer, arch=arch, source=source, hf=None, prepend_bos=prepend_bos)

    @property
    def processed(self) -> bool:
        """Whether the weights were folded or centred, so that they are not the checkpoint's."""
        raw = self.host.raw
        if self._hf is not None:  # loaded here, and the very tensors of the Hugging Face model
            return False
        if self.host.kind == "bridge":
            return bool(getattr(raw, "_weights_processed", False))
        w_out = raw.blocks[0].mlp.W_out
        centred = (
            float(w_out.float().mean(-1).abs().max()) < 1e-6
        )  # centring leaves "LN" in the config
        return raw.cfg.normalization_type == "LNPre" or centred

    def clean_hf(self) -> PreTrainedModel:
        """The model as a Hugging Face object to bake and save; it shares the weights where it can.

        Raises:
            ToxmemError: processed weights, or a wrapped HookedTransformer without `checkpoint`.
        """
        if self.processed:
            raise ToxmemError(
                "cannot bake from processed weights (folded or centred): their rows are not the "
                "checkpoint's; load it raw by LensModel.from_pretrained and apply the same deletion"
            )
        if self._hf is not None:
            return self._hf
        if isinstance(self.host, BridgeHost):
            return self.host.clean_hf()
        if self.source is None:
            raise ToxmemError(
                "cannot bake a wrapped HookedTransformer without LensModel.wrap(checkpoint=...)"
            )
        hf = load_hf(self.source, dtype=self.dtype, device=str(self.device))
        probe, mask = _probe(self.d_vocab, self.n_ctx, self.device)
        gap = self._gap(plain_log_probs(hf, probe, mask))
        if not gap <= HOST_TOLERANCE[self.dtype]:
            raise ToxmemError(
                f"the checkpoint {self.source.name} is not what the wrapped model was made from: they differ by "
                f"{gap:.3g} nats"
            )
        return hf

    def _gap(self, expected: Float[Tensor, "batch pos d_vocab"]) -> float:
        """Largest difference from what plain transformers said of the probe, in nats."""
        probe, mask = _probe(self.d_vocab, self.n_ctx, self.device)
        found = self.forward(probe, mask).double().log_softmax(-1)
        return float((found - expected)[mask.bool()].abs().max())

    def in_precision(self, dtype: torch.dtype) -> "LensModel":
        """A copy on the same kind of host in more precision, from the same checkpoint, to see past rounding.

        Raises:
            ToxmemError: see `clean_hf`.
        """
        # Anew from the files where they are at hand: this model may be in less precision than they are.
        found = self.source
        if found is None:
            wider: Any = copy.deepcopy(self.clean_hf())
            hf: PreTrainedModel = wider.to(dtype)
        else:
            hf = load_hf(found, dtype=dtype, device=str(self.device))
        return LensModel._on(
            self.host.kind,
            hf,
            tokenizer=self.tokenizer,
            arch=self.arch,
            source=self.source,
            prepend_bos=self.prepend_bos,
        )

    # Text and tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that starts a sequence, with BOS only if `prepend_bos`."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return [int(bos), *ids] if self.prepend_bos else ids

    @property
    def pad_id(self) -> int:
        """The id that fills the left of short rows; masked, so its value never matters."""
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        return 0

    def pad(
        self, rows: Sequence[Sequence[int]]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Left-padded tokens and their 0/1 mask."""
        width = max(len(row) for row in rows)
        tokens = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        return tokens.to(self.device), mask.to(self.device)

    # Running

    @torch.no_grad()
    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embeddings, before positions are added."""
        embeddings: Tensor = self.host.raw.embed(tokens)
        return embeddings

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

    def _point(self, site: Site, layer: int) -> Any:
        if not 0 <= layer < self.n_layers:
            raise ToxmemError(f"no layer {layer}: the model has layers 0 to {self.n_layers - 1}")
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
    ) -> Int[Tensor, "batch longer"]:
        """Prompts with their continuations, hooks active; greedy without `sampling`."""
        eos = self.tokenizer.eos_token_id
        return decode(
            self.host,
            tokens,
            mask,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            generator=generator,
            eos=None if eos is None else int(eos),
            pad=self.pad_id,
        )


def _as_lens_hook(fn: HookFn) -> Callable[..., Tensor | None]:
    def hooked(activation: Tensor, hook: Any) -> Tensor | None:  # noqa: ARG001 - TransformerLens passes it
        return fn(activation)

    return hooked


def _pick_host(host: HostName) -> Literal["hooked", "bridge"]:
    if host != "auto":
        return host
    from importlib.metadata import version

    return "hooked" if int(version("transformer-lens").split(".")[0]) < 4 else "bridge"


def _probe(d_vocab: int, n_ctx: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A small left-padded batch that every model can run, to compare a host with transformers on."""
    width = min(6, n_ctx)
    tokens = (torch.arange(2 * width).reshape(2, width) * 7919 + 13) % d_vocab
    mask = torch.ones_like(tokens)
    mask[1, : width // 2] = 0
    return tokens.to(device), mask.to(device)
