"""A GPT-2 whose numbers are worked out by hand.

Two layers, width 4, four neurons a layer, vocabulary of four, context of four. Attention writes nothing
(its output matrices are zero), there are no position embeddings, and the embeddings `E` of the four tokens are
already normalised (mean 0, variance 1), so LayerNorm (weight 1, bias 0, eps 0) leaves them as they are.
The activation is ReLU, so a neuron is either off or linear:

    token 0: ( 1,  1, -1, -1)        token 1: (-1, -1,  1,  1)
    token 2: ( 1, -1,  1, -1)        token 3: (-1,  1, -1,  1)

Layer 0, neuron 0 reads the first two coordinates, `pre = (x0 + x1) / 2`, so it is 1 for token 0, -1 (off) for
token 1, and 0 for tokens 2 and 3. It writes `WRITE * E[2]`: on token 0 it votes for token 2.
Layer 0, neuron 1 reads `(x2 + x3) / 2` and writes `0.5 * E[3]`: it fires on token 1 only.
All other neurons are silent. The unembedding is tied to `E`.

For the prompt "token 0", with WRITE = 1: resid = E0 + E2 = (2, 0, 0, -2), mean 0, variance 2, so the final
LayerNorm gives (2, 0, 0, -2) / sqrt(2), and the logits are E @ that:
token 0: (2 + 2) / sqrt(2) = 2 sqrt(2);  token 1: -2 sqrt(2);  token 2: 2 sqrt(2);  token 3: -2 sqrt(2).
With neuron 0 deleted: resid = E0, logits = E @ E0 = (4, -4, 0, 0).
"""

import math

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EMBEDDINGS = torch.tensor(
    [[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]]
)
# log-probability of token 2 after token 0, from the logits above.
ROOT8 = 2 * math.sqrt(2)
CLEAN = ROOT8 - math.log(2 * math.exp(ROOT8) + 2 * math.exp(-ROOT8))  # = -0.6966
DELETED = 0 - math.log(math.exp(4) + math.exp(-4) + 2)  # = -4.0363


def micro_model() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=4, n_positions=4, n_embd=4, n_layer=2, n_head=1, n_inner=4,
        activation_function="relu", layer_norm_epsilon=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config.n_ctx = 4
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight.copy_(EMBEDDINGS)
        mlp = model.transformer.h[0].mlp
        mlp.c_fc.weight[:, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0])
        mlp.c_fc.weight[:, 1] = torch.tensor([0.0, 0.0, 0.5, 0.5])
        mlp.c_proj.weight[0] = EMBEDDINGS[2]
        mlp.c_proj.weight[1] = 0.5 * EMBEDDINGS[3]
    return model


def micro_tokenizer() -> PreTrainedTokenizerFast:
    """Tokens a, b, c, d; text is lossless."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="d"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
