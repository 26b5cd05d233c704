"""The whole proof on a real pretrained model, SmolLM2-135M (Llama architecture, 30 layers, 46,080 neurons).

Where the model cannot be had, these tests are skipped by name.
"""

import pytest
import smollm2
import torch

pytestmark = pytest.mark.host
TEXTS = [
    "The capital of France is",
    "She opened the door and",
    "Water boils at",
    "I think that you",
]
FELT = 1e-2


@pytest.fixture(scope="module")
def folder():
    return smollm2.checkpoint()


def make(model):
    """All three kinds of law, one after the other: gains, zeros, a low rank on every layer touched."""
    from tl_toxmem import Deletion, NeuronSet

    draw = torch.Generator().manual_seed(0)
    flat = torch.randperm(model.n_layers * model.d_mlp, generator=draw)[:500].tolist()
    pairs = tuple(divmod(i, model.d_mlp) for i in flat)
    gained, silenced = (
        NeuronSet(some, model.n_layers, model.d_mlp) for some in (pairs[:250], pairs[250:])
    )
    updates = {}
    for layer, of_layer in (gained | silenced).by_layer().items():
        U = torch.zeros(model.d_mlp, 2)
        U[of_layer] = torch.randn(len(of_layer), 2, generator=draw)
        updates[layer] = (U, 0.05 * torch.randn(2, model.d_model, generator=draw))
    first = Deletion.input_gain(gained, torch.rand(250, generator=draw))
    both = first.then(Deletion.zero(silenced))
    return both.then(Deletion.low_rank(updates, n_layers=model.n_layers))


def test_delete_export_verify_apply_revert(folder, host, tmp_path):
    from tl_toxmem import (
        LensModel,
        bake_checkpoint,
        export_checkpoint,
        revert_checkpoint,
        verify_checkpoint,
    )
    from tl_toxmem.config import ExportConfig

    model = LensModel.from_pretrained(folder, host=host)
    deletion = make(model)
    assert len(deletion.neurons) == 500
    cfg = ExportConfig(max_new_tokens=4)  # float64 is slow
    out = tmp_path / "exported"
    done = export_checkpoint(model, deletion, out, prompts=TEXTS, cfg=cfg).certificate
    assert done.passed and done.as_computed and done.precision == "float64"
    assert done.greedy_identical == (len(TEXTS), len(TEXTS))
    assert done.max_abs_logprob_effect > FELT
    assert done.max_abs_logprob_gap <= 1e-5 + 4 * done.rounding
    assert verify_checkpoint(out, base=folder).passed
    bake_checkpoint(folder, tmp_path / "applied", deletion)
    weights = (out / "model.safetensors").read_bytes()
    assert (tmp_path / "applied" / "model.safetensors").read_bytes() == weights
    delta = tmp_path / "applied" / "deletion.safetensors"
    revert_checkpoint(delta, tmp_path / "applied", tmp_path / "back")
    original = (folder / "model.safetensors").read_bytes()
    assert weights != original
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == original
