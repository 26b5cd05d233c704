"""Where things are: the only file with TransformerLens hook names and Hugging Face parameter names.

Everything else speaks of a site, a layer and a neuron. Adding an architecture is adding a row to
`ARCHITECTURES`, one to `model/hooked_config.py` (and a tiny test model).

The GPT-2 MLP: `pre = x W_in + b_in`, `a = gelu(pre)`, `y = a W_out + b_out` with `W_out [d_mlp, d_model]`,
so neuron `i` of a layer is column `i` of `W_in`, entry `i` of `a` and row `i` of `W_out`. A gated MLP (Llama) has
`a = silu(x W_gate) * (x W_in)` and, as a rule, no biases; `W_out` is the same.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from tl_toxmem.errors import ToxmemError

Site = Literal[
    "embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_up", "mlp_post"
]
TraceSite = Literal["resid_pre", "resid_post", "mlp_out", "attn_out", "mlp_post"]
TRACE_SITES: tuple[TraceSite, ...] = get_args(TraceSite)

_HOOKS: dict[str, str] = {
    "embed": "hook_embed",  # token embeddings before positions are added: where noise goes
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "mlp_pre": "blocks.{layer}.mlp.hook_pre",  # what goes into the nonlinearity; in a gated MLP, the gate
    "mlp_up": "blocks.{layer}.mlp.hook_pre_linear",  # gated MLPs only: what the gate multiplies
    "mlp_post": "blocks.{layer}.mlp.hook_post",  # neuron activations [batch, pos, d_mlp]
}


def hook_name(site: Site, layer: int = 0) -> str:
    """The TransformerLens hook point of a site (the same on HookedTransformer and the Bridge)."""
    if site not in _HOOKS:
        raise ToxmemError(f"unknown site {site!r}: choose from {', '.join(_HOOKS)}")
    return _HOOKS[site].format(layer=layer)


@dataclass(frozen=True)
class Architecture:
    """Where one Hugging Face architecture keeps its MLP.

    Attributes:
        model_type: the key of `config.json`.
        hf_class: the class that TransformerLens calls `original_architecture`.
        w_out: name of the MLP's output matrix, with `{layer}`.
        b_out: name of the MLP's output bias; some configurations of gated models have none.
        w_pre: name of the matrix that makes `pre`, what goes into the nonlinearity; in a gated MLP, the gate.
        b_pre: name of its bias, likewise.
        rows_are_neurons: True where `w_out` is stored as [d_mlp, d_model] and `w_pre` as [d_model, d_mlp] (a
            Conv1D), False where both are stored as the transpose (an nn.Linear).
        rotary: name of the module that makes rotary position embeddings, which blocks are called with; None where
            positions are added to the embeddings.
    """

    model_type: str
    hf_class: str
    w_out: str
    b_out: str
    w_pre: str
    b_pre: str
    rows_are_neurons: bool
    rotary: str | None


def _gated(model_type: str, hf_class: str) -> Architecture:
    mlp = "model.layers.{layer}.mlp"
    return Architecture(
        model_type=model_type,
        hf_class=hf_class,
        w_out=f"{mlp}.down_proj.weight",
        b_out=f"{mlp}.down_proj.bias",
        w_pre=f"{mlp}.gate_proj.weight",
        b_pre=f"{mlp}.gate_proj.bias",
        rows_are_neurons=False,
        rotary="model.rotary_emb",
    )


_ROWS = (
    Architecture(
        model_type="gpt2",
        hf_class="GPT2LMHeadModel",
        w_out="transformer.h.{layer}.mlp.c_proj.weight",
        b_out="transformer.h.{layer}.mlp.c_proj.bias",
        w_pre="transformer.h.{layer}.mlp.c_fc.weight",
        b_pre="transformer.h.{layer}.mlp.c_fc.bias",
        rows_are_neurons=True,
        rotary=None,
    ),
    Architecture(
        model_type="gpt_neo",
        hf_class="GPTNeoForCausalLM",
        w_out="transformer.h.{layer}.mlp.c_proj.weight",
        b_out="transformer.h.{layer}.mlp.c_proj.bias",
        w_pre="transformer.h.{layer}.mlp.c_fc.weight",
        b_pre="transformer.h.{layer}.mlp.c_fc.bias",
        rows_are_neurons=False,
        rotary=None,
    ),
    Architecture(
        model_type="gpt_neox",
        hf_class="GPTNeoXForCausalLM",
        w_out="gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight",
        b_out="gpt_neox.layers.{layer}.mlp.dense_4h_to_h.bias",
        w_pre="gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight",
        b_pre="gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias",
        rows_are_neurons=False,
        rotary="gpt_neox.rotary_emb",
    ),
    _gated("llama", "LlamaForCausalLM"),
    _gated("qwen2", "Qwen2ForCausalLM"),
    _gated("mistral", "MistralForCausalLM"),
)
ARCHITECTURES: dict[str, Architecture] = {row.model_type: row for row in _ROWS}


def architecture(model_type: str, *, where: str) -> Architecture:
    """The row of `ARCHITECTURES` for a `model_type` or a Hugging Face class name.

    Raises:
        ToxmemError: naming what is supported.
    """
    for row in ARCHITECTURES.values():
        if model_type in (row.model_type, row.hf_class):
            return row
    known = ", ".join(ARCHITECTURES)
    raise ToxmemError(f"{where} is a {model_type!r} model; supported architectures: {known}")
