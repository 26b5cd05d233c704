"""Where a model may come from, and what is refused with what words."""

import shutil

import pytest
import torch
from conftest import byte_tokenizer
from laws import make
from test_filebake import cut, shard
from tiny import random_model

pytestmark = pytest.mark.host
TEXTS = ["Bob is a", "the town", "x"]


def logits_of(model):
    return model.forward(*model.pad([model.encode(text) for text in TEXTS]))


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gpt_neox"])
def test_a_model_object_is_taken_and_left_as_it_was(host, arch, tmp_path):
    from tl_toxmem import LensModel, export_checkpoint

    theirs = random_model(arch).train()
    theirs.get_input_embeddings().weight.requires_grad_(False)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    flags = {name: p.requires_grad for name, p in theirs.named_parameters()}
    attention = theirs.config._attn_implementation
    model = LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer(), host=host)
    assert model.source is None and model.name == "unknown"
    storage = {p.untyped_storage().data_ptr() for p in theirs.parameters()}
    ours = {p.untyped_storage().data_ptr() for p in model.clean_hf().parameters()}
    assert ours == storage, "weights are shared"
    done = export_checkpoint(model, make("scale"), tmp_path / "out", prompts=TEXTS)
    assert done.certificate.passed
    assert theirs.training and theirs.config._attn_implementation == attention
    assert {name: p.requires_grad for name, p in theirs.named_parameters()} == flags
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    theirs.save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    again = LensModel.from_pretrained(tmp_path / "saved", host=host)
    assert torch.equal(logits_of(again), logits_of(model))
    theirs.eval()(torch.tensor([[1, 2]])).logits.sum().backward()


def test_an_exported_object_reverts(host, tmp_path):
    from transformers import AutoModelForCausalLM

    from tl_toxmem import LensModel, export_checkpoint, revert_checkpoint

    theirs = random_model("gpt2")
    model = LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer(), host=host)
    out = tmp_path / "out"
    export_checkpoint(model, make(("scale", "input gain")), out, prompts=TEXTS)
    revert_checkpoint(out / "deletion.safetensors", out, tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(value, back[name]) for name, value in theirs.state_dict().items())


def test_an_object_keeps_its_precision(host):
    from tl_toxmem import LensModel, ToxmemError

    theirs = random_model("gpt2").double()
    assert (
        LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer(), host=host).dtype
        == theirs.dtype
    )
    with pytest.raises(
        ToxmemError, match="is in torch.float64 on cpu, not torch.float32 on cpu: convert"
    ):
        LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer(), dtype=torch.float32)
    with pytest.raises(ToxmemError, match="needs its tokenizer: give tokenizer="):
        LensModel.from_pretrained(theirs)


def test_objects_that_are_no_plain_model(host):
    from transformers import GPT2Model

    from tl_toxmem import LensModel, ToxmemError

    def refused(model, message):
        with pytest.raises(ToxmemError, match=message):
            LensModel.from_pretrained(model, tokenizer=byte_tokenizer(), host=host)

    plain = random_model("gpt2")
    refused(GPT2Model(plain.config), "is a GPT2Model: give the GPT2LMHeadModel")
    refused(
        torch.nn.Linear(1, 1), "cannot load a Linear: give a folder, a hub id or a Hugging Face"
    )
    adapted = random_model("gpt2")
    adapted.transformer.h[0].mlp.adapter = torch.nn.Linear(2, 2)
    refused(adapted, "no plain GPT2LMHeadModel: transformer.h.0.mlp.adapter.bias is in only one")
    untied = random_model("gpt2")
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.clone() + 1)
    refused(untied, "is a tensor of its own, though the model's configuration ties it")
    mixed = random_model("gpt2")
    mixed.transformer.h[0].half()
    refused(mixed, "has tensors in torch.float16 on cpu, torch.float32 on cpu: convert it to one")


def test_a_revision_is_of_a_hub_id(gpt2_folder, host):
    from tl_toxmem import LensModel, ToxmemError

    message = "revision 'main': only a hub id has revisions"
    with pytest.raises(ToxmemError, match=message):
        LensModel.from_pretrained(gpt2_folder, host=host, revision="main")
    options = {"tokenizer": byte_tokenizer(), "host": host, "revision": "main"}
    with pytest.raises(ToxmemError, match=message):
        LensModel.from_pretrained(random_model("gpt2"), **options)


def test_an_object_on_a_device_that_is_not_there_or_another(host):
    from tl_toxmem import LensModel, ToxmemError

    theirs, options = random_model("gpt2"), {"tokenizer": byte_tokenizer(), "host": host}
    with pytest.raises(ToxmemError, match="device 'nonsense' cannot be used here"):
        LensModel.from_pretrained(theirs, device="nonsense", **options)
    assert LensModel.from_pretrained(theirs, device="cpu", **options).device.type == "cpu"


def test_a_tokenizer_that_was_given_is_exported(gpt2_folder, host, tmp_path):
    from transformers import AutoTokenizer

    from tl_toxmem import LensModel, export_checkpoint, verify_checkpoint

    without = shutil.copytree(gpt2_folder, tmp_path / "without")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (without / name).unlink()
    model = LensModel.from_pretrained(without, tokenizer=byte_tokenizer(), host=host)
    export_checkpoint(model, make("zero"), tmp_path / "out", prompts=TEXTS)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.get_vocab() == byte_tokenizer().get_vocab()
    assert verify_checkpoint(tmp_path / "out", base=without).passed


def test_a_model_inside_a_bridge_is_to_be_wrapped():
    from tl_toxmem import LensModel, ToxmemError
    from tl_toxmem.model.bridge import BridgeHost

    theirs = random_model("gpt2")
    BridgeHost.from_hf(theirs)
    with pytest.raises(
        ToxmemError, match="inside a TransformerBridge: give that to LensModel.wrap"
    ):
        LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer())


def test_a_generation_configuration_is_kept(host, tmp_path):
    from tl_toxmem import LensModel

    theirs = random_model("gpt2")
    theirs.generation_config.repetition_penalty = 1.25
    model = LensModel.from_pretrained(theirs, tokenizer=byte_tokenizer(), host=host)
    assert model.clean_hf().generation_config.repetition_penalty == 1.25


def test_a_wrapped_models_checkpoint_of_another_vocabulary(load, tmp_path):
    from conftest import HAS_HOOKED

    from tl_toxmem import LensModel, ToxmemError

    if not HAS_HOOKED:
        pytest.skip("the Bridge bakes its own weights")
    other = random_model("gpt2")
    other.resize_token_embeddings(200)
    other.save_pretrained(tmp_path)
    raw = load("hooked").host.raw
    wrapped = LensModel.wrap(raw, tokenizer=byte_tokenizer(), checkpoint=tmp_path)
    with pytest.raises(ToxmemError, match="it has a vocabulary of 200, not 257"):
        wrapped.clean_hf()


def test_another_kind_of_object(host):
    from transformers import BertConfig, BertForMaskedLM

    from tl_toxmem import LensModel, ToxmemError

    small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 257}
    bert = BertForMaskedLM(BertConfig(intermediate_size=8, **small))
    with pytest.raises(ToxmemError, match="is a 'bert' model; supported architectures: gpt2"):
        LensModel.from_pretrained(bert, tokenizer=byte_tokenizer(), host=host)


@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["prefix", "published names"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_published_names_and_shards(load, gpt2_folder, host, prefix, sharded, tmp_path):
    from safetensors.torch import save_file
    from test_filebake import tensors_of

    from tl_toxmem import LensModel, export_checkpoint, verify_checkpoint

    folder = shard(gpt2_folder, tmp_path / "base", prefix=prefix)
    if not sharded:
        tensors = tensors_of(folder)
        for file in folder.glob("model*"):
            file.unlink()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = LensModel.from_pretrained(folder, host=host)
    assert torch.equal(logits_of(model), logits_of(load(host)))
    done = export_checkpoint(model, make("mean"), tmp_path / "out", prompts=TEXTS)
    assert done.certificate.passed
    assert tensors_of(tmp_path / "out").keys() == tensors_of(folder).keys()
    assert verify_checkpoint(tmp_path / "out", base=folder).passed


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_checkpoints_in_any_precision(tiny_folder, host, stored):
    from tl_toxmem import LensModel

    folder = tiny_folder("gpt2", stored)
    wide = LensModel.from_pretrained(folder, host=host)
    own = LensModel.from_pretrained(folder, host=host, dtype=stored)
    assert wide.dtype == torch.float32 and own.dtype == stored
    a, b = logits_of(wide).log_softmax(-1), logits_of(own).float().log_softmax(-1)
    assert 0 < (a - b).abs().max() < 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: (f / "tokenizer.json").unlink(),
            "has no tokenizer files .*: save the tokenizer",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{"), "the tokenizer cannot be read"),
        (lambda f: (f / "config.json").unlink(), "is no model folder: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "has no .safetensors weights"),
        (lambda f: cut(f / "model.safetensors", -1000), "its last tensor is cut off"),
    ],
    ids=[
        "tokenizer",
        "damaged tokenizer",
        "config",
        "damaged config",
        "weights",
        "damaged weights",
    ],
)
def test_damaged_folders(host, gpt2_folder, tmp_path, harm, message):
    from tl_toxmem import LensModel, ToxmemError

    folder = shutil.copytree(gpt2_folder, tmp_path / "folder")
    harm(folder)
    with pytest.raises(ToxmemError, match=message) as caught:
        LensModel.from_pretrained(folder, host=host)
    assert "\n" not in str(caught.value)


def test_a_missing_shard(host, gpt2_folder, tmp_path):
    from tl_toxmem import LensModel, ToxmemError

    folder = shard(gpt2_folder, tmp_path / "base")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ToxmemError, match="model-00002-of-00003.safetensors is missing, though"):
        LensModel.from_pretrained(folder, host=host)


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    from tl_toxmem import LensModel, ToxmemError

    def refuse(*args, **options):
        raise LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    message = r"'gpt2-xl' is no local folder and cannot be had from the Hugging Face hub \(no connection\)"
    with pytest.raises(ToxmemError, match=message):
        LensModel.from_pretrained("gpt2-xl")


def test_an_unknown_host(gpt2_folder):
    from tl_toxmem import LensModel, ToxmemError

    with pytest.raises(ToxmemError, match="unknown host 'hook': choose from auto, hooked, bridge"):
        LensModel.from_pretrained(gpt2_folder, host="hook")
