"""File to file: the same bits as in memory, back to the very same files, and nothing written where it cannot be."""

import json
import shutil

import pytest
import torch
from laws import SHIFTING, SINGLE, make
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import GATED, TINY, random_model

TEXTS = ["Bob is a", "the town"]


def tensors_of(folder):
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def weights_of(folder):
    return {file.name: file.read_bytes() for file in folder.glob("model*")}


def in_memory(folder, deletion, out):
    """What `bake` and transformers' own saving make of it."""
    from transformers import AutoModelForCausalLM

    from tl_toxmem import bake

    hf = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    bake(hf, deletion)
    hf.save_pretrained(out)
    return tensors_of(out)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


EVERY_LAW = [*SINGLE, ("scale", "low rank"), ("input gain", "zero")]
CASES = [(arch, law, torch.float32) for arch in TINY for law in EVERY_LAW]
CASES += [
    (arch, law, stored)
    for arch in ("gpt2", "llama")
    for law in EVERY_LAW[2:]
    for stored in (torch.bfloat16, torch.float16)
]


@pytest.mark.parametrize(("arch", "law", "stored"), CASES, ids=str)
def test_bitwise_as_in_memory_and_back(tiny_folder, arch, law, stored, tmp_path):
    from tl_toxmem import bake_checkpoint, revert_checkpoint

    if arch in GATED and law in SHIFTING:
        pytest.skip("no output bias")
    base, out, back = tiny_folder(arch, stored), tmp_path / "out", tmp_path / "back"
    applied = bake_checkpoint(base, out, make(law))
    expected = in_memory(base, make(law), tmp_path / "memory")
    assert same(tensors_of(out), expected)
    assert not same(tensors_of(out), tensors_of(base))
    assert applied.keeps_originals and not applied.deletion.forced
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    revert_checkpoint(out / "deletion.safetensors", out, back)
    assert weights_of(back) == weights_of(base)
    assert not (back / "deletion.safetensors").exists()


def shard(folder, out, *, prefix="transformer."):
    """The checkpoint in several files, with the names that published GPT-2 files have if `prefix` is empty."""
    shutil.copytree(folder, out)
    tensors = {name.replace("transformer.", prefix): t for name, t in tensors_of(folder).items()}
    (out / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for i in range(3):  # a layer's matrix and its bias come to lie in different files
        file = f"model-{i + 1:05}-of-00003.safetensors"
        part = {name: tensors[name].clone() for name in names[i::3]}
        save_file(part, out / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    return out


@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["prefix", "no prefix"])
@pytest.mark.parametrize("law", [*SINGLE, ("mean", "low rank")], ids=str)
def test_sharded_and_published_names(gpt2_folder, law, prefix, tmp_path):
    from tl_toxmem import bake_checkpoint, revert_checkpoint

    base = shard(gpt2_folder, tmp_path / "base", prefix=prefix)
    bake_checkpoint(base, tmp_path / "out", make(law))
    expected = in_memory(gpt2_folder, make(law), tmp_path / "memory")
    found = tensors_of(tmp_path / "out")
    assert same({name.replace("transformer.", prefix): t for name, t in expected.items()}, found)
    revert_checkpoint(tmp_path / "out" / "deletion.safetensors", tmp_path / "out", tmp_path / "b")
    assert weights_of(tmp_path / "b") == weights_of(base)


def test_only_what_belongs_to_the_model_is_copied(gpt2_folder, tmp_path):
    from tl_toxmem import bake_checkpoint

    base = shutil.copytree(gpt2_folder, tmp_path / "base")
    for name in (
        "pytorch_model.bin",
        "README.md",
        "certificate.json",
        "model.safetensors.index.json",
    ):
        (base / name).write_text("{}")
    (base / "LICENSE").write_text("words")
    bake_checkpoint(base, tmp_path / "out", make("zero"))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    ours = {"LICENSE", "deletion.safetensors"}
    assert names == {file.name for file in gpt2_folder.iterdir()} | ours


def test_a_large_edit_leaves_the_originals_to_the_base(gpt2_folder, tmp_path, monkeypatch):
    from tl_toxmem import ToxmemError, bake_checkpoint, filebake, revert_checkpoint

    monkeypatch.setattr(filebake, "MAX_ORIGINALS", 1000)
    out, back = tmp_path / "out", tmp_path / "back"
    applied = bake_checkpoint(gpt2_folder, out, make("zero"))
    assert not applied.keeps_originals
    assert applied.original_bytes == len(make("zero").neurons) * 32 * 4
    delta = out / "deletion.safetensors"
    with pytest.raises(ToxmemError, match="name the unedited model .* with --base"):
        revert_checkpoint(delta, out, back)
    assert not back.exists()
    revert_checkpoint(delta, out, back, base=gpt2_folder)
    assert weights_of(back) == weights_of(gpt2_folder)


def other_model(folder):
    from conftest import byte_tokenizer

    random_model("gpt2", seed=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_another_model_is_refused_by_hash_unless_forced(gpt2_folder, tmp_path):
    from tl_toxmem import (
        Deletion,
        LensModel,
        ToxmemError,
        bake_checkpoint,
        export_checkpoint,
        verify_checkpoint,
    )

    bake_checkpoint(gpt2_folder, tmp_path / "out", make("scale"))
    deletion = Deletion.load(tmp_path / "out" / "deletion.safetensors")
    other = other_model(tmp_path / "other")
    message = r"other is not the model that this deletion was made for \(.*c_proj.weight is another"
    with pytest.raises(ToxmemError, match=message):
        bake_checkpoint(other, tmp_path / "no", deletion)
    model = LensModel.from_pretrained(other)
    with pytest.raises(ToxmemError, match=message):
        export_checkpoint(model, deletion, tmp_path / "no", prompts=TEXTS)
    assert not (tmp_path / "no").exists()
    assert bake_checkpoint(other, tmp_path / "forced", deletion, force=True).deletion.forced
    done = export_checkpoint(model, deletion, tmp_path / "exp", prompts=TEXTS, force=True)
    assert done.certificate.forced
    assert verify_checkpoint(tmp_path / "exp", base=other).forced
    again = export_checkpoint(
        LensModel.from_pretrained(gpt2_folder),
        deletion,
        tmp_path / "own",
        prompts=TEXTS,
        force=True,
    )
    assert not again.certificate.forced, "it is the model that it was made for"


def test_in_memory_too(gpt2_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    from tl_toxmem import Deletion, ToxmemError, bake, bake_checkpoint

    bake_checkpoint(gpt2_folder, tmp_path / "out", make("scale"))
    deletion = Deletion.load(tmp_path / "out" / "deletion.safetensors")
    for dtype in (torch.float32, torch.float64):  # wider is the same model
        bake(AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=dtype), deletion).restore()
    narrow = AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.bfloat16)
    with pytest.raises(ToxmemError, match="less than the float32 .* use it in float32"):
        bake(narrow, deletion)
    with pytest.raises(ToxmemError, match="is another"):
        bake(random_model("gpt2", seed=1), deletion)
    bake(random_model("gpt2", seed=1), deletion, force=True)


def test_an_edited_checkpoint_is_not_edited_twice(gpt2_folder, tmp_path):
    from tl_toxmem import Deletion, ToxmemError, bake_checkpoint

    bake_checkpoint(gpt2_folder, tmp_path / "out", make("scale"))
    deletion = Deletion.load(tmp_path / "out" / "deletion.safetensors")
    with pytest.raises(ToxmemError, match="is another"):
        bake_checkpoint(tmp_path / "out", tmp_path / "twice", deletion)


def test_only_the_edited_checkpoint_is_reverted(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError, bake_checkpoint, revert_checkpoint

    bake_checkpoint(gpt2_folder, tmp_path / "out", make("scale"))
    delta = tmp_path / "out" / "deletion.safetensors"
    other = other_model(tmp_path / "other")
    with pytest.raises(ToxmemError, match="other, reverted, is not the model"):
        revert_checkpoint(delta, other, tmp_path / "back")
    with pytest.raises(ToxmemError, match="is not the model"):
        revert_checkpoint(delta, tmp_path / "out", tmp_path / "back", base=other)
    make("scale").save(tmp_path / "law.safetensors")
    with pytest.raises(ToxmemError, match="does not say what it was applied to"):
        revert_checkpoint(tmp_path / "law.safetensors", tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights: neither model.safetensors"),
        (lambda f: cut(f / "model.safetensors", 1000), "is damaged: its header is cut off"),
        (lambda f: cut(f / "model.safetensors", -1000), "is damaged: .* is cut off"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0[]"), "is damaged"),
        (lambda f: without(f, "transformer.h.2.mlp.c_proj.weight"), "no tensor transformer.h.2"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), None),
    ],
    ids=["config", "weights", "header", "cut", "no header", "tensor", "stray index"],
)
def test_damaged_checkpoints(gpt2_folder, tmp_path, harm, message):
    from tl_toxmem import ToxmemError, bake_checkpoint

    base = shutil.copytree(gpt2_folder, tmp_path / "base")
    harm(base)
    if message is None:
        bake_checkpoint(base, tmp_path / "out", make("zero"))
        return
    with pytest.raises(ToxmemError, match=message):
        bake_checkpoint(base, tmp_path / "out", make("zero"))
    assert {file.name for file in tmp_path.iterdir()} == {"base"}


def cut(file, size):
    content = file.read_bytes()
    file.write_bytes(content[:size])


def without(folder, name):
    tensors = tensors_of(folder)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_damaged_shards(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError, bake_checkpoint

    base = shard(gpt2_folder, tmp_path / "base")
    (base / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ToxmemError, match="model-00002-of-00003.safetensors is missing, though"):
        bake_checkpoint(base, tmp_path / "out", make("zero"))
    (base / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(ToxmemError, match="is damaged: it has no weight_map"):
        bake_checkpoint(base, tmp_path / "out", make("zero"))


def test_quantised_weights_are_refused(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError, bake_checkpoint

    base = shutil.copytree(gpt2_folder, tmp_path / "base")
    tensors = tensors_of(base)
    name = "transformer.h.0.mlp.c_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ToxmemError, match="is in F8_E4M3; only F64, F32, F16, BF16 can be edited"):
        bake_checkpoint(base, tmp_path / "out", make("zero"))


def test_a_folder_that_exists_is_left_alone(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError, bake_checkpoint, revert_checkpoint

    out = tmp_path / "out"
    bake_checkpoint(gpt2_folder, out, make("zero"))
    before = weights_of(out)
    with pytest.raises(ToxmemError, match="exists: choose a folder that does not"):
        bake_checkpoint(gpt2_folder, out, make("scale"))
    with pytest.raises(ToxmemError, match="exists: choose a folder that does not"):
        revert_checkpoint(out / "deletion.safetensors", out, out)
    assert weights_of(out) == before


def test_a_law_of_another_shape(tiny_folder, tmp_path):
    from tl_toxmem import Deletion, NeuronSet, ToxmemError, bake_checkpoint

    base = tiny_folder("gpt2")
    with pytest.raises(ToxmemError, match="for a model of 5 x 128 neurons, not 4 x 128"):
        bake_checkpoint(base, tmp_path / "o", Deletion.zero(NeuronSet((), 5, 128)))
    wide = {0: (torch.ones(128, 1), torch.ones(1, 33))}
    with pytest.raises(ToxmemError, match="for a model of d_model 33, not 32"):
        bake_checkpoint(base, tmp_path / "o", Deletion.low_rank(wide, n_layers=4))


def test_values_that_overflow_are_refused(tiny_folder, tmp_path):
    from tl_toxmem import Deletion, ToxmemError, bake_checkpoint

    huge = Deletion.scale(make("zero").neurons, 1e9)
    with pytest.raises(ToxmemError, match="not finite in float16: check the deletion"):
        bake_checkpoint(tiny_folder("gpt2", torch.float16), tmp_path / "out", huge)
    assert not list(tmp_path.iterdir())


def test_force_leaves_its_trace_wherever_the_deletion_goes(gpt2_folder, tmp_path):
    from tl_toxmem import Deletion, LensModel, bake_checkpoint, export_checkpoint

    bake_checkpoint(gpt2_folder, tmp_path / "out", make("scale"))
    deletion = Deletion.load(tmp_path / "out" / "deletion.safetensors")
    other = other_model(tmp_path / "other")
    bake_checkpoint(other, tmp_path / "forced", deletion, force=True)
    forced = Deletion.load(tmp_path / "forced" / "deletion.safetensors")
    assert forced.base.forced
    done = export_checkpoint(
        LensModel.from_pretrained(other), forced, tmp_path / "e", prompts=TEXTS
    )
    assert done.certificate.forced
    assert "forced" in (tmp_path / "e" / "README.md").read_text()


def test_a_wider_model_that_is_another_is_refused(tiny_folder, tmp_path):
    """Rounded to the precision of the deletion's model it would be the same."""
    from transformers import AutoModelForCausalLM

    from tl_toxmem import Deletion, ToxmemError, bake, bake_checkpoint

    folder = tiny_folder("gpt2", torch.bfloat16)
    bake_checkpoint(folder, tmp_path / "out", make("scale"))
    deletion = Deletion.load(tmp_path / "out" / "deletion.safetensors")
    wide = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bake(wide, deletion).restore()
    wide.transformer.h[0].mlp.c_proj.weight.data[0, 0] *= 1 + 1e-5
    with pytest.raises(ToxmemError, match="is another"):
        bake(wide, deletion)


def test_reverting_what_is_of_another_kind(gpt2_folder, tiny_folder, tmp_path):
    from transformers import GPT2LMHeadModel

    from tl_toxmem import ToxmemError, bake_checkpoint, revert_checkpoint

    out, back = tmp_path / "out", tmp_path / "back"
    bake_checkpoint(gpt2_folder, out, make("scale"))
    delta = out / "deletion.safetensors"

    def refused(message, src=out, **options):
        with pytest.raises(ToxmemError, match=message):
            revert_checkpoint(delta, src, back, **options)
        assert not back.exists()

    refused(
        "is a llama model; this deletion was applied to .*, which is gpt2", tiny_folder("llama")
    )
    half = tiny_folder("gpt2", torch.bfloat16)
    refused("in bfloat16; this deletion was applied to float32", half)
    refused("in bfloat16; this deletion was applied to float32", base=half)
    config = random_model("gpt2").config
    config.n_layer = 5
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "deep")
    refused("for a model of 4 x 128 neurons, not 5 x 128", tmp_path / "deep")


def test_with_the_base_all_is_compared(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError, bake_checkpoint, revert_checkpoint
    from tl_toxmem.weights import WeightFiles

    out = tmp_path / "out"
    bake_checkpoint(gpt2_folder, out, make("scale"))
    files = WeightFiles(out)
    files.write("transformer.wpe.weight", files.read("transformer.wpe.weight") + 1)
    with pytest.raises(ToxmemError, match="wpe.weight differs, which the deletion did not touch"):
        revert_checkpoint(out / "deletion.safetensors", out, tmp_path / "b", base=gpt2_folder)
    assert not (tmp_path / "b").exists()


def test_applying_takes_little_memory(tmp_path):
    """A model of 250 MB whose every output matrix is changed; see benchmarks/bake.py for GPT-2-XL."""
    import subprocess
    import sys

    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=12, n_embd=640, n_head=10, vocab_size=257)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    code = """
import resource, sys, torch
import tl_toxmem.filebake
from tl_toxmem import Deletion, bake_checkpoint
updates = {i: (torch.randn(2560, 4), torch.randn(4, 640)) for i in range(12)}
law = Deletion.low_rank(updates, n_layers=12)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bake_checkpoint(sys.argv[1], sys.argv[2], law)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", code, tmp_path / "base", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights = (tmp_path / "base" / "model.safetensors").stat().st_size / 2**20
    # What is kept for reverting (75 MB here) and two matrices of 6.5 MB, not the 230 MB of the model.
    assert weights > 220
    assert int(done.stdout) < 130


def test_a_folder_of_the_users_is_never_taken_for_a_left_over(gpt2_folder, tmp_path):
    from tl_toxmem import bake_checkpoint

    mine = tmp_path / "out.partial"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    base = shutil.copytree(gpt2_folder, tmp_path / "ck.partial")
    dead = tmp_path / "out.partial-4194304"  # no process has so large a number
    dead.mkdir()
    bake_checkpoint(base, tmp_path / "out", make("zero"))
    bake_checkpoint(base, tmp_path / "ck", make("zero"))
    assert (mine / "notes.txt").read_text() == "mine" and (base / "config.json").is_file()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"out.partial", "ck.partial", "out", "ck"}, "what a killed process left is gone"
