"""`LensModel`: one surface over HookedTransformer and TransformerBridge, on raw Hugging Face weights.

Text goes through the checkpoint's own tokenizer and never through TransformerLens's, which may add a BOS token or
replace the tokenizer.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tl_toxmem.errors import ToxmemError
from tl_toxmem.model.bridge import BridgeHost
from tl_toxmem.model.finite import check_weights
from tl_toxmem.model.hooked import HookedHost
from tl_toxmem.model.load import (
    Source,
    check_tokenizer,
    find_source,
    from_object,
    load_hf,
    load_tokenizer,
    plain_log_probs,
    vocabulary_size,
)
from tl_toxmem.model.running import Host, Runner
from tl_toxmem.model.shell import shell
from tl_toxmem.precision import as_dtype, precision_name
from tl_toxmem.sites import Architecture, architecture

HOSTS = ("auto", "hooked", "bridge")

# Two implementations of the same sums in another order; 48 layers of float32 stay well below it, and a wrong
# weight, position or mask is far above it. transformers takes norms, rotary embeddings or softmaxes of some
# architectures in float32 whatever the precision, so float64 is allowed no less; bfloat16 rounds 2^16 times coarser,
# float16 2^13 times.
HOST_TOLERANCE = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
    torch.float16: 0.125,
    torch.bfloat16: 1.0,
}


@dataclass(frozen=True)
class MLPWeights:
    """One layer's MLP, as views of the model's own tensors.

    Attributes:
        w_out: [d_mlp, d_model] what each neuron writes.
        b_out: [d_model], or None.
        w_pre: [d_model, d_mlp] what each neuron reads; in a gated MLP, the gate.
        b_pre: [d_mlp], or None.
    """

    w_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None
    w_pre: Float[Tensor, "d_model d_mlp"]
    b_pre: Float[Tensor, " d_mlp"] | None


class LensModel(Runner):
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
        name: str = "unknown",
    ) -> None:
        if prepend_bos and tokenizer.bos_token_id is None:
            raise ToxmemError("prepend_bos: the tokenizer has no beginning-of-text token")
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        super().__init__(
            host,
            pad_id=next(int(i) for i in pads if i is not None),
            eos_ids=_ends(host, hf, tokenizer),
        )
        self.tokenizer, self.arch, self.source = tokenizer, arch, source
        self.prepend_bos = prepend_bos
        self.name = source.name if source else name
        self.own_tokenizer = False
        """Whether the tokenizer is the checkpoint's own, and not one that was given."""
        self._hf = hf
        self._checked: PreTrainedModel | None = None
        """The checkpoint of a wrapped HookedTransformer, once it was compared with it."""
        cfg = host.raw.cfg
        self.d_model: int = cfg.d_model
        self.d_mlp: int = cfg.d_mlp
        self.gated: bool = bool(cfg.gated_mlp)
        """Whether the MLP is gated, so that it has the site `mlp_up`."""
        self.d_vocab: int = cfg.d_vocab
        self.n_ctx: int = cfg.n_ctx
        parameter = next(host.raw.parameters())
        self.dtype: torch.dtype = parameter.dtype
        self.device: torch.device = parameter.device

    def __repr__(self) -> str:
        return (
            f"LensModel({self.name}, {self.host.kind}, {self.n_layers} layers, d_model {self.d_model}, "
            f"d_mlp {self.d_mlp}, {precision_name(self.dtype)}, {self.device})"
        )

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        host: str = "auto",
        dtype: torch.dtype | str | None = None,
        device: str | None = None,
        revision: str | None = None,
        prepend_bos: bool = False,
    ) -> "LensModel":
        """Load a local folder, a hub id or `demo`, or take a Hugging Face model; checked once against transformers.

        Args:
            model: a folder with config.json, safetensors and tokenizer files; a hub id; `demo`; or a model object,
                whose weights are shared and which is left as it was.
            tokenizer: for a model object; for a checkpoint, in place of its own.
            host: `auto` takes HookedTransformer where the installed TransformerLens has it.
            dtype: of the weights and activations, `torch.bfloat16` or its name; default: float32, or that of the model
                object.
            device: where the weights go, such as `cuda:0`; default: cpu, or that of the model object.
            revision: of a hub id.
            prepend_bos: put the beginning-of-text token before every text.

        Raises:
            ToxmemError: model missing, of an unsupported architecture, damaged, with weights that are not finite,
                without its tokenizer, in a precision that the device cannot do, or not equal to plain transformers on
                this host.
        """
        dtype = as_dtype(dtype)
        if isinstance(model, str | Path):
            source = find_source(model, revision=revision)
            hf = load_hf(
                source, dtype=dtype or torch.float32, device="cpu" if device is None else device
            )
            name = source.name
        else:
            if not isinstance(model, PreTrainedModel):
                raise ToxmemError(
                    f"cannot load a {type(model).__name__}: give a folder, a hub id or a Hugging Face model (for a "
                    "TransformerLens model: LensModel.wrap)"
                )
            if revision is not None:
                raise ToxmemError(f"revision {revision!r}: only a hub id has revisions")
            source, name = None, str(model.config.name_or_path or "unknown")
            if tokenizer is None:
                raise ToxmemError(f"a model object ({name}) needs its tokenizer: give tokenizer=")
            hf = from_object(model, dtype=dtype, device=device)
        check_weights(hf.named_parameters(), name)
        arch = architecture(hf.config.model_type, where=name)
        d_vocab = vocabulary_size(hf)
        own_tokenizer = tokenizer is None
        if tokenizer is not None:
            tokenizer = check_tokenizer(tokenizer, d_vocab=d_vocab, where="the tokenizer given")
        else:
            assert source is not None
            tokenizer = load_tokenizer(source, d_vocab=d_vocab)
        probe, mask = _probe(d_vocab, int(hf.config.max_position_embeddings), hf.device)
        expected = plain_log_probs(hf, probe, mask)
        kind = _pick_host(host)
        made = cls._on(
            kind,
            hf,
            tokenizer=tokenizer,
            arch=arch,
            source=source,
            prepend_bos=prepend_bos,
            name=name,
        )
        made.own_tokenizer = own_tokenizer
        gap = made._gap(expected)
        if gap != gap:  # NaN
            raise ToxmemError(
                f"{name} gives values that are not finite in {precision_name(made.dtype)}: it overflows "
                "(try bfloat16 or float32), or its weights are damaged"
            )
        if not gap <= HOST_TOLERANCE[made.dtype]:
            raise ToxmemError(
                f"{name} on host {kind!r} differs from transformers by {gap:.3g} nats"
            )
        return made

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
        name: str,
    ) -> "LensModel":
        """A Hugging Face model on a host; only HookedTransformer leaves `hf` itself fit to be saved."""
        hooked = kind == "hooked"
        host: Host = HookedHost.from_hf(hf) if hooked else BridgeHost.from_hf(hf)
        return cls(
            host,
            tokenizer,
            arch=arch,
            source=source,
            hf=hf if hooked else None,
            prepend_bos=prepend_bos,
            name=name,
        )

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
            ToxmemError: another kind of object, an unsupported architecture, training mode, weights that are not
                finite.
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
        check_weights(model.named_parameters(), "the wrapped model")
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
        if self._checked is not None:
            return self._checked
        if self.source is None:
            raise ToxmemError(
                "cannot bake a wrapped HookedTransformer without LensModel.wrap(checkpoint=...)"
            )
        hf = load_hf(self.source, dtype=self.dtype, device=str(self.device))
        if vocabulary_size(hf) != self.d_vocab:
            raise ToxmemError(
                f"the checkpoint {self.source.name} is not what the wrapped model was made from: it has a vocabulary "
                f"of {vocabulary_size(hf)}, not {self.d_vocab}"
            )
        probe, mask = _probe(self.d_vocab, self.n_ctx, self.device)
        gap = self._gap(plain_log_probs(hf, probe, mask))
        if not gap <= HOST_TOLERANCE[self.dtype]:
            raise ToxmemError(
                f"the checkpoint {self.source.name} is not what the wrapped model was made from: they differ by "
                f"{gap:.3g} nats"
            )
        self._checked = hf
        return hf

    def mlp_weights(self, layer: int) -> MLPWeights:
        """The weights of a layer's MLP, in one orientation for every host and architecture; nothing is copied.

        Raises:
            ToxmemError: no such layer; or see `clean_hf`.
        """
        self._check_layer(layer)
        parameters = dict(self.clean_hf().named_parameters())

        def get(pattern: str) -> Any:
            parameter = parameters.get(pattern.format(layer=layer))
            if parameter is None:
                return None
            across = parameter.ndim > 1 and not self.arch.rows_are_neurons
            return parameter.data.T if across else parameter.data

        arch = self.arch
        return MLPWeights(*(get(name) for name in (arch.w_out, arch.b_out, arch.w_pre, arch.b_pre)))

    def _gap(self, expected: Float[Tensor, "batch pos d_vocab"]) -> float:
        """Largest difference from what plain transformers said of the probe, in nats."""
        probe, mask = _probe(self.d_vocab, self.n_ctx, self.device)
        found = self.forward(probe, mask).double().log_softmax(-1)
        return float((found - expected)[mask.bool()].abs().max())

    def in_precision(self, dtype: torch.dtype) -> "LensModel":
        """A copy on the same kind of host: in more precision, to see past rounding, or in less, to be fast.

        Raises:
            ToxmemError: see `clean_hf`.
        """
        found = self.source
        if dtype.itemsize < self.dtype.itemsize:
            hf = _narrowed(self.clean_hf(), dtype)
        elif found is None:
            wider: Any = copy.deepcopy(self.clean_hf())
            hf = wider.to(dtype)
        else:  # from the files: this model may be in less precision than they are
            hf = load_hf(found, dtype=dtype, device=str(self.device))
        return LensModel._on(
            self.host.kind,
            hf,
            tokenizer=self.tokenizer,
            arch=self.arch,
            source=self.source,
            prepend_bos=self.prepend_bos,
            name=self.name,
        )

    # Text and tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that starts a sequence, with BOS only if `prepend_bos`."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return [int(bos), *ids] if self.prepend_bos else ids

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


def _ends(
    host: Host, hf: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The tokens that end a text: those of the checkpoint's generation settings, else the tokenizer's."""
    model = hf if hf is not None else getattr(host.raw, "original_model", None)
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return ()
    return tuple(int(end) for end in (ends if isinstance(ends, list) else [ends]))


def _pick_host(host: str) -> Literal["hooked", "bridge"]:
    if host not in HOSTS:
        raise ToxmemError(f"unknown host {host!r}: choose from {', '.join(HOSTS)}")
    if host != "auto":
        return "hooked" if host == "hooked" else "bridge"
    from importlib.metadata import version

    return "hooked" if int(version("transformer-lens").split(".")[0]) < 4 else "bridge"


def _probe(d_vocab: int, n_ctx: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A small left-padded batch that every model can run, to compare a host with transformers on."""
    width = min(6, n_ctx)
    tokens = (torch.arange(2 * width).reshape(2, width) * 7919 + 13) % d_vocab
    mask = torch.ones_like(tokens)
    mask[1, : width // 2] = 0
    return tokens.to(device), mask.to(device)


def _narrowed(hf: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy in less precision, from memory: a mapped file that is read again would be resident twice."""
    made: dict[int, Tensor] = {}
    state = {}
    for name, value in hf.state_dict().items():
        if value.data_ptr() not in made:
            made[value.data_ptr()] = value.to(dtype) if value.is_floating_point() else value
        state[name] = made[value.data_ptr()]
    return shell(hf, state=state, buffers=dict(hf.named_buffers()))
