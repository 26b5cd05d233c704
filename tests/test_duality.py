"""Hooks = baked = exported = reloaded, and different from base; undo and removal are bit-exact."""

import pytest
import torch
from tiny import GATED, TINY

pytestmark = pytest.mark.host
# Two orders of summation of the same numbers; the edits themselves move log-probabilities by about 1.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SINGLE = 1e-5  # architectures of which transformers takes parts in float32 whatever the precision
ROUNDED_WEIGHTS = (
    1e-6  # seen in float64: rows that are scaled or shifted are rounded once to float32
)
FELT = 1e-2
LAWS = ["zero", "mean", "scale", "composed"]
# A shift needs an output bias, which gated MLPs have not: see test_a_shift_without_a_bias_is_refused.
BAKEABLE = [
    (arch, law) for arch in TINY for law in LAWS if arch not in GATED or law in ("zero", "scale")
]
TEXTS = ["Bob is a", "the town", "x", "a longer text than those"]


def make(law: str, model):
    from tl_toxmem import Deletion, NeuronSet

    shape = (model.n_layers, model.d_mlp)
    some = NeuronSet(tuple((layer, i) for layer in range(4) for i in range(3 + layer)), *shape)
    other = NeuronSet(tuple((layer, i) for layer in (1, 3) for i in range(2, 9)), *shape)
    means = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    laws = {
        "zero": Deletion.zero(some),
        "mean": Deletion.mean(some, means),
        "scale": Deletion.scale(some, -0.7),
        "composed": Deletion.mean(some, means).then(Deletion.scale(other, 1.5)),
    }
    return laws[law]


def log_probs(model, tokens, mask):
    return model.forward(tokens, mask).double().log_softmax(-1)[mask.bool()]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("arch", "law"), BAKEABLE)
def test_hooks_baked_exported_reloaded_agree(load, host, arch, law, dtype, tmp_path):
    from tl_toxmem import LensModel, bake, export_checkpoint
    from tl_toxmem.model import plain_log_probs

    tolerance = TOLERANCE[dtype] if arch == "gpt2" else SINGLE
    model = load(host, dtype, arch=arch)
    deletion = make(law, model)
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    base = log_probs(model, tokens, mask)
    with deletion.applied(model):
        hooked = log_probs(model, tokens, mask)
    assert torch.equal(log_probs(model, tokens, mask), base), "hooks left something behind"
    assert (hooked - base).abs().max() > FELT

    hf = model.clean_hf()
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    undo = bake(hf, deletion)
    baked = plain_log_probs(hf, tokens, mask)[mask.bool()]
    undo.restore()
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())

    exported = export_checkpoint(model, deletion, tmp_path / "out", prompts=TEXTS)
    assert torch.equal(log_probs(model, tokens, mask), base), "export changed the model"
    again = LensModel.from_pretrained(tmp_path / "out", host=host, dtype=dtype)
    reloaded = log_probs(again, tokens, mask)
    # The edit may not add to what the two implementations differ by without it.
    rounding = float((plain_log_probs(hf, tokens, mask)[mask.bool()] - base).abs().max())
    for other in (baked, reloaded):
        assert (other - hooked).abs().max() <= max(tolerance, 2 * rounding)
    assert exported.certificate.passed
    assert exported.certificate.precision == "float64"
    exact = dtype == torch.float64 or law == "zero"
    limit = TOLERANCE[torch.float64] if exact else ROUNDED_WEIGHTS
    if arch != "gpt2":
        limit = SINGLE
    assert exported.certificate.max_abs_logprob_gap <= limit
    assert exported.certificate.greedy_identical == (len(TEXTS), len(TEXTS))


@pytest.mark.parametrize("arch", GATED)
def test_a_shift_without_a_bias_is_refused_and_nothing_is_changed(load, host, arch, tmp_path):
    from tl_toxmem import ToxmemError, export_checkpoint

    model = load(host, arch=arch)
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    base = log_probs(model, tokens, mask)
    message = f"{arch}'s MLP has no output bias to hold that: use the law zero or scale"
    with pytest.raises(ToxmemError, match=message):
        export_checkpoint(model, make("mean", model), tmp_path / "out", prompts=TEXTS)
    assert not list(tmp_path.iterdir())
    assert torch.equal(log_probs(model, tokens, mask), base)


def test_the_composition_is_the_two_laws_in_turn(load, host):
    from tl_toxmem import Deletion, NeuronSet

    model = load(host, torch.float64)
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    neurons = NeuronSet(((1, 4), (2, 5)), model.n_layers, model.d_mlp)
    means = torch.full((model.n_layers, model.d_mlp), 0.3)
    first, second = Deletion.mean(neurons, means), Deletion.scale(neurons, 2.0)
    with first.applied(model), second.applied(model):
        in_turn = log_probs(model, tokens, mask)
    with first.then(second).applied(model):
        assert (log_probs(model, tokens, mask) - in_turn).abs().max() <= TOLERANCE[torch.float64]
    with second.then(first).applied(model):
        assert (log_probs(model, tokens, mask) - in_turn).abs().max() > 1e-3


def test_undone_when_the_body_raises(load, host):
    model = load(host)
    tokens, mask = model.pad([model.encode("Bob")])
    base = log_probs(model, tokens, mask)
    with pytest.raises(KeyboardInterrupt), make("zero", model).applied(model):
        raise KeyboardInterrupt
    assert torch.equal(log_probs(model, tokens, mask), base)
    assert all(not point.fwd_hooks for point in model.host.points.values())


@pytest.mark.parametrize("whole", [False, True], ids=["empty", "every neuron"])
def test_the_empty_and_the_full_set(load, host, whole):
    from tl_toxmem import Deletion, NeuronSet, bake
    from tl_toxmem.model import plain_log_probs

    model = load(host)
    every = tuple((layer, i) for layer in range(4) for i in range(128)) if whole else ()
    deletion = Deletion.zero(NeuronSet(every, 4, 128))
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    base = log_probs(model, tokens, mask)
    with deletion.applied(model):
        hooked = log_probs(model, tokens, mask)
    assert torch.equal(hooked, base) is not whole
    hf = model.clean_hf()
    undo = bake(hf, deletion)
    baked = plain_log_probs(hf, tokens, mask)[mask.bool()]
    undo.restore()
    assert (baked - hooked).abs().max() <= TOLERANCE[torch.float32]


def test_an_edit_without_effect_is_not_exported(load, host, tmp_path):
    from tl_toxmem import Deletion, NeuronSet, ToxmemError, export_checkpoint

    model = load(host)
    nothing = Deletion.scale(NeuronSet(((0, 0),), 4, 128), 1.0)
    with pytest.raises(ToxmemError, match="no effect"):
        export_checkpoint(model, nothing, tmp_path / "out", prompts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_a_wrong_bake_is_caught_and_nothing_left(load, host, tmp_path, monkeypatch):
    from tl_toxmem import Deletion, ToxmemError, export, export_checkpoint

    model = load(host)
    true_bake = export.bake
    wrong = Deletion.scale(make("zero", model).neurons, 0.001)
    monkeypatch.setattr(export, "bake", lambda hf, deletion: true_bake(hf, wrong))
    with pytest.raises(ToxmemError, match="more than the bound"):
        export_checkpoint(model, make("zero", model), tmp_path / "out", prompts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_deletion_file_round_trip(load, host, tmp_path):
    from tl_toxmem import Deletion

    deletion = make("composed", load(host))
    deletion.save(tmp_path / "d.safetensors")
    again = Deletion.load(tmp_path / "d.safetensors")
    assert again.neurons == deletion.neurons
    assert torch.equal(again.gain, deletion.gain)
    assert torch.equal(again.shift, deletion.shift)
