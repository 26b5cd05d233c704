"""What a certificate must not pass, what it must, and that nothing is left changed or doubled on the way."""

import json
import shutil

import pytest
import torch
from conftest import byte_tokenizer
from laws import make
from tiny import random_model

TEXTS = ["Bob is a", "the town", "x", "a longer text than those"]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def exported(request, tiny_folder, tmp_path):
    from tl_toxmem import LensModel, export_checkpoint

    base, out = tmp_path / "base", tmp_path / "out"
    base.symlink_to(tiny_folder("gpt2", request.param))
    model = LensModel.from_pretrained(base)
    export_checkpoint(model, make(("scale", "low rank")), out, prompts=TEXTS)
    return out


def recertified(folder, name):
    """As one who hides a change would."""
    from tl_toxmem.files import sha256_file

    certificate = json.loads((folder / "certificate.json").read_text())
    certificate["sha256"][name] = sha256_file(folder / name)
    (folder / "certificate.json").write_text(json.dumps(certificate))


@pytest.mark.parametrize(
    "change", [{"n_layer": 3}, {"activation_function": "relu"}, {"layer_norm_epsilon": 0.1}]
)
def test_another_configuration_does_not_pass_in_any_precision(exported, change):
    from tl_toxmem import verify_checkpoint

    assert verify_checkpoint(exported, base=exported.parent / "base").passed
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**config, **change}))
    recertified(exported, "config.json")
    assert not verify_checkpoint(exported, base=exported.parent / "base").passed


def test_one_other_bit_does_not_pass_in_any_precision(exported):
    from tl_toxmem import verify_checkpoint
    from tl_toxmem.weights import WeightFiles

    files = WeightFiles(exported)
    name = "transformer.h.0.attn.c_attn.bias"
    tensor = files.read(name)
    tensor[3] = torch.nextafter(tensor[3], torch.tensor(9.0, dtype=tensor.dtype))
    files.write(name, tensor)
    recertified(exported, "model.safetensors")
    again = verify_checkpoint(exported, base=exported.parent / "base")
    assert not again.passed and "are not what the deletion makes" in again.problem()


@pytest.mark.parametrize("name", ["attn.c_attn.bias", "mlp.c_proj.weight"])
def test_what_transformers_loaded_is_compared_and_not_the_file_alone(exported, monkeypatch, name):
    """By whatever way it came to load other values: of a tensor that the law leaves alone, and of one it changes."""
    from tl_toxmem import certify, verify_checkpoint

    true = certify._reload

    def other(folder, model):
        loaded = true(folder, model)
        tensor = loaded.get_parameter(f"transformer.h.0.{name}").data.view(-1)
        tensor[3] = torch.nextafter(tensor[3], torch.tensor(9.0, dtype=tensor.dtype))
        return loaded

    monkeypatch.setattr(certify, "_reload", other)
    assert not verify_checkpoint(exported, base=exported.parent / "base").as_computed


def test_a_second_name_of_a_tensor_does_not_pass(exported):
    """Transformers takes a GPT-2 tensor by either name, and of two of them not the one that we read."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from tl_toxmem import ToxmemError, verify_checkpoint

    name, weights = "h.0.attn.c_attn.bias", exported / "model.safetensors"
    tensors = load_file(weights)
    tensors[name] = tensors[f"transformer.{name}"] + 1
    save_file(tensors, weights, {"format": "pt"})
    recertified(exported, weights.name)
    loaded = AutoModelForCausalLM.from_pretrained(exported).get_parameter(f"transformer.{name}")
    assert torch.equal(loaded.data, tensors[name]), "which is how it would have passed"
    with pytest.raises(ToxmemError, match=f"has both transformer.{name} and {name}"):
        verify_checkpoint(exported, base=exported.parent / "base")


def test_a_distributed_checkpoint_beside_the_weights_does_not_pass(exported):
    """Transformers then reads every file there, and whose value of a tensor it takes is a matter of their order."""
    from tl_toxmem import ToxmemError, verify_checkpoint

    first = "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(exported / "model.safetensors", exported / first)
    recertified(exported, first)
    with pytest.raises(ToxmemError, match="shard-00001.* is of a distributed checkpoint"):
        verify_checkpoint(exported, base=exported.parent / "base")


def test_the_folder_does_not_judge_its_own_rounding(tiny_folder, tmp_path, monkeypatch):
    """In 16 bits the gap is allowed what rounding does, and that is found without the folder."""
    from tl_toxmem import LensModel, ToxmemError, certify, export_checkpoint

    model = LensModel.from_pretrained(tiny_folder("gpt2", torch.bfloat16))
    true = certify._reload

    def wrong(folder, model):
        loaded = true(folder, model)
        loaded.transformer.h[1].mlp.act = torch.nn.ReLU()
        return loaded

    monkeypatch.setattr(certify, "_reload", wrong)
    with pytest.raises(ToxmemError, match="more than the bound"):
        export_checkpoint(model, make("scale"), tmp_path / "out", prompts=TEXTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 1}, {"do_sample": True}]
)
def test_settings_for_generation_do_not_decide(gpt2_folder, tmp_path, settings):
    """Many chat models bring a repetition penalty; it is kept, and greedy decoding is compared without it."""
    from tl_toxmem import LensModel, export_checkpoint

    base = shutil.copytree(gpt2_folder, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, **settings}))
    model = LensModel.from_pretrained(base)
    done = export_checkpoint(model, make("scale"), tmp_path / "out", prompts=TEXTS)
    assert done.certificate.greedy_identical == (len(TEXTS), len(TEXTS))
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert kept == {"eos_token_id": 256, **settings}


def test_every_end_token_ends(gpt2_folder, tmp_path):
    """Llama-3 has several; ours and transformers' texts end at the same token."""
    from transformers import AutoModelForCausalLM

    from tl_toxmem import LensModel

    plain = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    model = LensModel.from_pretrained(gpt2_folder)
    tokens, mask = model.pad([model.encode(text) for text in TEXTS])
    whole = model.generate(tokens, mask, max_new_tokens=6)[:, tokens.shape[1] :]
    ends = sorted({int(whole[0, 2]), int(whole[1, 1]), 256})
    base = shutil.copytree(gpt2_folder, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    model = LensModel.from_pretrained(base)
    assert model.eos_ids == tuple(ends)
    plain = AutoModelForCausalLM.from_pretrained(base)
    theirs = plain.generate(
        tokens, attention_mask=mask, max_new_tokens=6, pad_token_id=model.pad_id
    )
    ours = model.generate(tokens, mask, max_new_tokens=6)
    assert torch.equal(ours, theirs)
    assert not torch.equal(
        ours[:, tokens.shape[1] :][:, :6], whole[:, : ours.shape[1] - tokens.shape[1]]
    )


@pytest.mark.parametrize("where", ["bake", "certify"])
def test_an_interrupt_leaves_the_users_weights_as_they_were(where, tmp_path, monkeypatch):
    from tl_toxmem import LensModel, bake, baking, certify, export_checkpoint

    theirs = random_model("gpt2")
    before = {name: value.clone() for name, value in theirs.state_dict().items()}

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    if where == "bake":
        true, calls = baking.put, []

        def third(*args):
            calls.append(1)
            interrupt() if len(calls) == 3 else true(*args)

        monkeypatch.setattr(baking, "put", third)
        with pytest.raises(KeyboardInterrupt):
            bake(theirs, make("scale"))
    else:
        monkeypatch.setattr(certify, "same_bits", interrupt)
        model = LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer())
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(model, make("scale"), tmp_path / "out", prompts=TEXTS)
        assert not list(tmp_path.iterdir())
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_the_reloaded_folder_takes_no_second_copy(tiny_folder, tmp_path, monkeypatch, stored):
    from tl_toxmem import LensModel, certify, export_checkpoint

    model = LensModel.from_pretrained(tiny_folder("gpt2", stored))
    seen = []
    true = certify._compare

    def look(model, deletion, reloaded, **options):
        own = {p.data_ptr() for p in model.clean_hf().parameters()}
        seen.append([name for name, p in reloaded.named_parameters() if p.data_ptr() not in own])
        return true(model, deletion, reloaded, **options)

    monkeypatch.setattr(certify, "_compare", look)
    export_checkpoint(model, make("scale"), tmp_path / "out", prompts=TEXTS)
    assert seen[0] == [f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(4)]
