"""The deletion record and its file."""

import pytest
import torch
from laws import PAIRS, SINGLE, make
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.mark.parametrize("law", [*SINGLE, *PAIRS], ids=str)
def test_file_round_trip(law, tmp_path):
    from tl_toxmem import Deletion

    deletion = make(law)
    deletion.save(tmp_path / "d.safetensors")
    again = Deletion.load(tmp_path / "d.safetensors")
    assert again.neurons == deletion.neurons
    for name in ("gain", "shift", "pre_gain"):
        assert torch.equal(getattr(again, name), getattr(deletion, name))
    assert again.added.keys() == deletion.added.keys()
    for layer, update in deletion.added.items():
        for part in ("U", "V", "constant"):
            assert torch.equal(getattr(again.added[layer], part), getattr(update, part))
    assert (again.law, again.base) == (deletion.law, None)


def test_the_file_knows_the_model(gpt2_folder, tmp_path):
    from tl_toxmem import Deletion, LensModel
    from tl_toxmem.base import tensor_sha256

    deletion = make(("scale", "input gain"))
    model = LensModel.from_pretrained(gpt2_folder)
    bound = deletion.made_for(model)
    bound.save(tmp_path / "d.safetensors")
    base = Deletion.load(tmp_path / "d.safetensors").base
    assert base == bound.base
    assert base.architecture == "gpt2"
    expected = {
        f"transformer.h.{layer}.mlp.{name}"
        for layer in range(4)
        for name in ("c_proj.weight", "c_fc.weight", "c_fc.bias")
    }
    assert set(base.tensors) == expected
    with safe_open(gpt2_folder / "model.safetensors", "pt") as file:
        for name, (precision, digest) in base.tensors.items():
            assert (precision, digest) == ("float32", tensor_sha256(file.get_tensor(name)))


def test_damaged_files(tmp_path):
    from tl_toxmem import Deletion, ToxmemError

    file = tmp_path / "d.safetensors"
    with pytest.raises(ToxmemError, match="is missing"):
        Deletion.load(file)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ToxmemError, match="holds plain tensors, not deletion"):
        Deletion.load(file)
    make("low rank").save(file)
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    del tensors["low_rank.1.V"]
    save_file(tensors, file, metadata)
    with pytest.raises(ToxmemError, match="is damaged: it lacks 'low_rank.1.V'"):
        Deletion.load(file)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda d, n: d.scale(n, torch.ones(3)), "needs 22 finite values of gain"),
        (lambda d, n: d.input_gain(n, float("nan")), "needs 22 finite values of pre_gain"),
        (lambda d, n: d.mean(n, torch.ones(3, 3)), r"of shape \(3, 3\) for a model of 4 x 128"),
        (lambda d, n: d.low_rank({}, n_layers=4), "at least one layer"),
        (
            lambda d, n: d.low_rank({0: (torch.ones(128, 2), torch.ones(3, 32))}, n_layers=4),
            r"needs U \[d_mlp, rank\] and V \[rank, d_model\]",
        ),
        (
            lambda d, n: d.low_rank({4: (torch.ones(128, 1), torch.ones(1, 32))}, n_layers=4),
            "in layer 4: the model has layers 0 to 3",
        ),
        (
            lambda d, n: d.low_rank({0: (torch.ones(128, 1) / 0, torch.ones(1, 32))}, n_layers=4),
            "finite values of U and V",
        ),
        (lambda d, n: d.constant({}, n_layers=4, d_mlp=128), "at least one layer"),
        (
            lambda d, n: d.constant({4: torch.ones(32)}, n_layers=4, d_mlp=128),
            "no layer 4: the model has layers 0 to 3",
        ),
        (
            lambda d, n: d.constant({0: torch.ones(32) / 0}, n_layers=4, d_mlp=128),
            "values that are not finite",
        ),
    ],
)
def test_what_is_no_law(build, message):
    from tl_toxmem import Deletion, ToxmemError

    with pytest.raises(ToxmemError, match=message):
        build(Deletion, make("zero").neurons)


def test_what_cannot_be_composed(gpt2_folder, tmp_path):
    from test_filebake import other_model

    from tl_toxmem import Deletion, NeuronSet, ToxmemError, bake_checkpoint

    with pytest.raises(ToxmemError, match="laws for 4 x 128 and 4 x 64"):
        make("zero").then(Deletion.zero(NeuronSet((), 4, 64)))
    bake_checkpoint(gpt2_folder, tmp_path / "a", make("scale"))
    bake_checkpoint(other_model(tmp_path / "other"), tmp_path / "b", make("scale"))
    a, b = (Deletion.load(tmp_path / x / "deletion.safetensors") for x in "ab")
    with pytest.raises(ToxmemError, match="made for different models"):
        a.then(b)
    assert a.then(make("zero")).base == make("zero").then(a).base == a.base


def tampered(file, **changes):
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    save_file({**tensors, **changes}, file, metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda d: {"low_rank.1.V": torch.full((2, 32), torch.nan).double()}, "not finite"),
        (lambda d: {"low_rank.1.U": torch.ones(128, 3).double()}, r"U is \[128, 3\] in float64"),
        (lambda d: {"low_rank.1.U": torch.ones(128, 2).double()}, "reads neurons that are not"),
        (lambda d: {"neurons": d.flip(0).contiguous()}, "neurons are not sorted and unique"),
        (lambda d: {"gain": torch.ones(3).double()}, r"gain is \[3\] in float64"),
        (lambda d: {"neurons": torch.zeros(4)}, "damaged"),
    ],
)
def test_tampered_files(tmp_path, changes, message):
    from tl_toxmem import Deletion, ToxmemError

    file = tmp_path / "d.safetensors"
    deletion = make("low rank")
    deletion.save(file)
    tampered(file, **changes(torch.tensor(deletion.neurons.neurons)))
    with pytest.raises(ToxmemError, match=message) as caught:
        Deletion.load(file)
    assert str(file) in str(caught.value)


def test_loading_for_a_model(gpt2_folder, tmp_path):
    """Checked where it is loaded for one, in whatever precision and from wherever the model is."""
    from conftest import byte_tokenizer
    from test_filebake import other_model
    from tiny import random_model

    from tl_toxmem import Deletion, LensModel, ToxmemError

    file = tmp_path / "d.safetensors"
    model = LensModel.from_pretrained(gpt2_folder)
    make("scale").made_for(model).save(file)
    narrow = LensModel.from_pretrained(gpt2_folder, dtype=torch.bfloat16)
    same = LensModel.from_pretrained(random_model("gpt2"), tokenizer=byte_tokenizer())
    for fitting in (model, narrow, same):
        assert Deletion.load(file, model=fitting).base is not None
    other = LensModel.from_pretrained(other_model(tmp_path / "other"))
    with pytest.raises(
        ToxmemError, match=r"is not the model .*c_proj.weight is another .*\(--force\)"
    ):
        Deletion.load(file, model=other)
    assert Deletion.load(file, model=other, force=True).base.name == gpt2_folder.name


def test_places_that_cannot_be_written(tmp_path):
    from tl_toxmem import Deletion, ToxmemError

    with pytest.raises(ToxmemError, match="is a folder"):
        make("zero").save(tmp_path)
    with pytest.raises(ToxmemError, match="its folder is not there"):
        make("zero").save(tmp_path / "no" / "d.safetensors")
    with pytest.raises(ToxmemError, match="is a folder, not a file"):
        Deletion.load(tmp_path)
    assert not list(tmp_path.iterdir())


def test_headers_that_make_no_sense(tmp_path):
    import json

    from tl_toxmem import Deletion, ToxmemError

    file = tmp_path / "d.safetensors"
    make("zero").save(file)
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = json.loads(opened.metadata()["tl_toxmem"])
    base = {"name": "x", "revision": None, "architecture": "gpt2", "forced": False}
    for change in (
        {"base": "demo"},
        {"base": {**base, "tensors": {"x": "y"}}},
        {"base": {**base, "tensors": {"x": ["float99", "y"]}}},
        {"n_layers": "six"},
        {"d_mlp": 2},
    ):
        save_file(tensors, file, {"tl_toxmem": json.dumps({**header, **change})})
        with pytest.raises(ToxmemError, match="d.safetensors"):
            Deletion.load(file)
