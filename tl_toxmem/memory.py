"""How many tokens go into one batch, so that no stage needs much more memory than the model itself."""

from tl_toxmem.model import LensModel

ACTIVATION_BYTES = 2 * 2**30
"""What one batch may take for activations; GPT-2-XL in float32 is 6.2 GB of weights."""
_LOGIT_COPIES = 4  # logits, float32 logits, log-probabilities, and one more to compare with


def tokens_for_logits(model: LensModel) -> int:
    """Tokens of a forward pass whose logits are kept at every position."""
    return max(1, ACTIVATION_BYTES // _logits(model))


def tokens_for_gradients(model: LensModel) -> int:
    """Tokens of a forward and a backward pass.

    What a layer keeps for its gradient was measured at GPT-2-XL's width on both hosts, with up to 256 tokens a row:
    0.26 to 0.44 MB per token, about ten vectors of d_mlp and sixteen of d_model.
    """
    layer = (10 * model.d_mlp + 16 * model.d_model) * model.dtype.itemsize
    return max(1, ACTIVATION_BYTES // (model.n_layers * layer + _logits(model)))


def _logits(model: LensModel) -> int:
    return 4 * _LOGIT_COPIES * model.d_vocab
