"""Precisions and devices: those that work, and one clear line for those that do not."""

import pytest
import torch

pytestmark = pytest.mark.host
TEXTS = ["Bob is a", "the town", "x", "a longer text than those"]
VALID = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def refused(message, *args, **options):
    from tl_toxmem import LensModel, ToxmemError

    with pytest.raises(ToxmemError, match=message) as caught:
        LensModel.from_pretrained(*args, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", VALID, ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_every_precision_from_every_checkpoint(tiny_folder, host, arch, dtype, stored):
    from transformers import AutoModelForCausalLM

    from tl_toxmem import LensModel

    folder = tiny_folder(arch, stored)
    model = LensModel.from_pretrained(folder, host=host, dtype=dtype)
    assert model.dtype == dtype
    assert {p.dtype for p in model.host.raw.parameters()} == {dtype}
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    ours = dict(model.clean_hf().named_parameters())
    assert all(torch.equal(p, ours[name]) for name, p in plain.named_parameters())
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    grown = model.generate(tokens, mask, max_new_tokens=3)
    assert grown.shape[1] == tokens.shape[1] + 3
    assert model.forward(tokens, mask)[mask.bool()].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn, torch.complex64], ids=str)
def test_other_precisions_are_refused(host, gpt2_folder, dtype):
    from conftest import byte_tokenizer
    from tiny import random_model

    names = "choose from float32, float64, bfloat16, float16"
    name = str(dtype).removeprefix("torch.")
    refused(f"dtype {name} .*: {names}", gpt2_folder, host=host, dtype=dtype)
    if dtype.is_floating_point:
        hf = random_model("gpt2").to(dtype)
        refused(f"{name}.*{names}", hf, tokenizer=byte_tokenizer(), host=host)


@pytest.mark.parametrize("device", ["cuda:7", "nonsense", "cpu:x", ""])
def test_devices_that_are_not_here(host, gpt2_folder, device):
    refused(f"device '{device}' cannot be used here .*try 'cpu'", gpt2_folder, device=device)


def test_a_precision_that_the_device_has_not(host, gpt2_folder, monkeypatch):
    """As float64 on Apple's devices: found by trying."""
    true = torch.ones

    def no_doubles(*args, **options):
        if options["dtype"] in (torch.float64, torch.bfloat16):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype\nas the framework says")
        return true(*args, **options)

    monkeypatch.setattr(torch, "ones", no_doubles)
    message = r"device 'cpu' cannot compute in float64 .*: choose from float32, float16"
    refused(message, gpt2_folder, host=host, dtype=torch.float64)


def test_a_model_that_overflows_half_precision_is_refused(host, tmp_path):
    from conftest import byte_tokenizer
    from tiny import random_model

    hf = random_model("gpt2")
    hf.transformer.h[1].mlp.c_proj.weight.data *= 1e5
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    refused("not finite in float16: .*bfloat16", tmp_path, dtype=torch.float16)


def test_half_precision_in_a_run():
    from tl_toxmem import RunConfig

    assert RunConfig(model="demo", out="runs/x", dtype="float16").dtype == "float16"
