"""What docs/security.md claims: no foreign code, no way out of a folder, nothing private in what is published."""

import ast
import json
import shutil
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tl_toxmem"
PLAIN_CLASSES = {"LensModel", "config_class", "tokenizer_class"}
"""Receivers of `from_pretrained` that are our own, or transformers' own classes by name, which know no remote code."""
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}


def calls():
    """Every call in the package: the file, the call, the name that is called and what it is called on."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name, on = getattr(node.func, "id", ""), ""
                if isinstance(node.func, ast.Attribute):
                    name, on = node.func.attr, ast.unparse(node.func.value)
                yield path.relative_to(PACKAGE).as_posix(), node, name, on


def keyword(node, name):
    found = [k.value for k in node.keywords if k.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else (found or None)


def test_remote_code_is_never_trusted():
    asked = 0
    for file, node, name, on in calls():
        assert keyword(node, "trust_remote_code") in (None, False), file
        if name == "from_pretrained" and on.rpartition(".")[2] not in PLAIN_CLASSES:
            assert keyword(node, "trust_remote_code") is False, f"{file}, line {node.lineno}: {on}"
            asked += 1
    assert asked >= 6


def test_datasets_are_asked_for_by_a_version_that_runs_no_script():
    """Before 4, `load_dataset` could run a repository's script; since then there is no code for that."""
    import tomllib
    from importlib.metadata import version

    from packaging.requirements import Requirement

    assert [file for file, _, name, _ in calls() if name == "load_dataset"] == [
        "mining/candidates.py"
    ]
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}["datasets"]
    assert not wanted.contains("3.6.0") and wanted.contains(version("datasets"))
    for file in (root / "constraints").glob("*.txt"):
        pins = dict(line.split("==") for line in file.read_text().split() if "==" in line)
        assert wanted.contains(pins["datasets"]), file.name


def test_pickles_are_opened_in_one_place_and_only_there_unsafely():
    loads = [
        (file, keyword(node, "weights_only"))
        for file, node, name, on in calls()
        if (on, name) == ("torch", "load")
    ]
    assert loads == [("scorers/checkpoint.py", True), ("scorers/checkpoint.py", False)]
    for file, node, name, on in calls():
        assert not (
            on in ("pickle", "joblib", "dill", "yaml", "shelve", "marshal") and "load" in name
        ), file
        assert f"{on}.{name}".lstrip(".") not in NEVER, f"{file}, line {node.lineno}: {name}"
        assert on != "subprocess", file


def test_models_are_safetensors_alone():
    for file, node, name, on in calls():
        if name == "from_pretrained" and ("AutoModel" in on or on == "loader"):
            assert keyword(node, "use_safetensors") is not None, f"{file}, line {node.lineno}"


@pytest.fixture
def no_pickle(monkeypatch):
    import torch

    def opened(*args, **kwargs):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)


@pytest.mark.usefixtures("no_pickle")
def test_a_certified_pickle_is_not_opened(gpt2_folder, tmp_path):
    """A certificate is no signature: whoever makes a folder may list what they like in it."""
    from laws import make

    from tl_toxmem import LensModel, ToxmemError, export_checkpoint, verify_checkpoint
    from tl_toxmem.files import sha256_file

    out = tmp_path / "out"
    export_checkpoint(
        LensModel.from_pretrained(gpt2_folder), make("zero"), out, prompts=["Bob is a"]
    )
    (out / "model.safetensors").unlink()
    (out / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    certificate = json.loads((out / "certificate.json").read_text())
    del certificate["sha256"]["model.safetensors"]
    certificate["sha256"]["pytorch_model.bin"] = sha256_file(out / "pytorch_model.bin")
    (out / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(ToxmemError):
        verify_checkpoint(out, base=gpt2_folder)


def cache(folder: Path, model: Path) -> Path:
    """A model as the hub's cache keeps it: links to blobs beside the snapshots."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in model.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return snapshot


def test_the_hubs_own_links_and_links_to_weights_are_followed(gpt2_folder, tmp_path):
    from tl_toxmem.contained import check_contained

    check_contained(cache(tmp_path / "models--a--b", gpt2_folder))
    own = Path(shutil.copytree(gpt2_folder, tmp_path / "own"))
    shutil.move(own / "model.safetensors", tmp_path / "large.safetensors")
    (own / "model.safetensors").symlink_to(tmp_path / "large.safetensors")
    check_contained(own)


def test_a_link_out_of_the_cache_is_not(gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError
    from tl_toxmem.contained import check_contained

    snapshot = cache(tmp_path / "models--a--b", gpt2_folder)
    (tmp_path / "secret").write_text("x")
    (snapshot / "LICENSE").symlink_to("../../../secret")
    with pytest.raises(ToxmemError, match="LICENSE is a link out of its folder"):
        check_contained(snapshot)


@pytest.mark.parametrize(
    ("folder", "to"),
    [
        ("own/snapshots/x", "../../secret"),  # no cache of the hub's, whatever its parent is called
        ("models--a--b/snapshots/main", "../../blobs/secret"),  # no commit
        ("models--a--b/snapshots/" + "a" * 40, "../../refs/secret"),
        ("models--a--b/snapshots/" + "a" * 40, "../" + "b" * 40 + "/secret"),  # another commit
    ],
)
def test_what_is_called_as_the_hubs_cache_reaches_no_further(folder, to, gpt2_folder, tmp_path):
    from tl_toxmem import ToxmemError
    from tl_toxmem.contained import check_contained

    model = Path(shutil.copytree(gpt2_folder, tmp_path / folder))
    secret = model / to
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("x")
    (model / "LICENSE").symlink_to(to)
    with pytest.raises(ToxmemError, match="LICENSE is a link out of its folder"):
        check_contained(model)


def test_a_tokenizer_may_name_files_that_are_not_there(gpt2_folder, tmp_path):
    """As published ones do: where their maker once had them."""
    from tl_toxmem.contained import check_contained

    own = Path(shutil.copytree(gpt2_folder, tmp_path / "own"))
    values = json.loads((own / "tokenizer_config.json").read_text())
    values |= {
        "special_tokens_map_file": "/home/somebody/special_tokens_map.json",
        "vocab_file": None,
    }
    (own / "tokenizer_config.json").write_text(json.dumps(values))
    check_contained(own)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("gpt2-xl", "gpt2-xl"),
        ("owner/name", "owner/name"),
        ("/home/somebody/models/own", "own"),
        ("./own/", "own"),
        ("~/models/own", "own"),
        ("a/b/own", "own"),
    ],
)
def test_how_models_are_called_in_public(model, name):
    from tl_toxmem.config import shown_name

    assert shown_name(model) == name


def test_a_folder_without_a_name_of_its_own(tmp_path, monkeypatch):
    from tl_toxmem.config import shown_name

    monkeypatch.chdir(tmp_path)
    assert shown_name(".") == tmp_path.name
    assert shown_name("/") == "model"


@pytest.fixture
def with_places(gpt2_folder, tmp_path):
    """A checkpoint whose files say where its maker had it, as published ones do."""
    base = Path(shutil.copytree(gpt2_folder, tmp_path / "base"))
    for name, places in (
        ("config.json", {"_name_or_path": "/home/somebody/own"}),
        (
            "tokenizer_config.json",
            {
                "name_or_path": "./somebody/own",
                "special_tokens_map_file": "~/somebody/special_tokens_map.json",
                "tokenizer_file": "C:\\Users\\somebody\\tokenizer.json",
            },
        ),
    ):
        values = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**values, **places}))
    return base


@pytest.mark.parametrize("as_object", [False, True])
def test_an_export_names_no_folder(as_object, with_places, tmp_path):
    from laws import make
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tl_toxmem import LensModel, export_checkpoint

    given, more = with_places, {}
    if as_object:
        given = AutoModelForCausalLM.from_pretrained(with_places)
        assert given.config.name_or_path == str(with_places)
        more = {"tokenizer": AutoTokenizer.from_pretrained(with_places)}
    out = tmp_path / "out"
    export_checkpoint(
        LensModel.from_pretrained(given, **more), make("zero"), out, prompts=["Bob is a"]
    )
    for file in out.iterdir():
        for place in (str(with_places), str(tmp_path), "somebody"):
            assert place.encode() not in file.read_bytes(), file.name


def test_what_names_no_place_is_copied_as_it_is(with_places, tmp_path):
    from laws import make

    from tl_toxmem import bake_checkpoint

    config, tokenizer = (with_places / n for n in ("config.json", "tokenizer_config.json"))
    values = json.loads(config.read_text())
    values["_name_or_path"] = "openai-community/gpt2"
    config.write_text(json.dumps(values, indent=7))
    before = json.loads(tokenizer.read_text())
    bake_checkpoint(with_places, tmp_path / "out", make("zero"))
    assert (tmp_path / "out" / config.name).read_bytes() == config.read_bytes()
    after = json.loads((tmp_path / "out" / tokenizer.name).read_text())
    gone = {"name_or_path", "special_tokens_map_file", "tokenizer_file"}
    assert after == {key: value for key, value in before.items() if key not in gone}


def test_mining_names_no_folder(gpt2_folder):
    from tl_toxmem import LensModel, load_scorer
    from tl_toxmem.config import MineConfig
    from tl_toxmem.mining import Candidates
    from tl_toxmem.mining.chain import _settings

    model, judge = LensModel.from_pretrained(gpt2_folder), load_scorer("profanity")
    settings = _settings(model, Candidates.of(["the town"]), scorer=judge, cfg=MineConfig())
    assert settings["model"]["name"] == gpt2_folder.name
    assert str(gpt2_folder.parent) not in json.dumps(settings)


def test_a_model_that_was_moved_is_the_same_to_mining(tmp_path):
    from tl_toxmem import ToxmemError
    from tl_toxmem.mining.parts import open_folder

    (tmp_path / "out").mkdir()
    settings = {"model": {"name": "one", "sha256": "0"}}
    assert not open_folder(tmp_path / "out", settings, settings)
    moved = {"model": {"name": "/older/tl-toxmem/one", "sha256": "0"}}
    assert not open_folder(tmp_path / "out", moved, moved)
    with pytest.raises(ToxmemError, match="was begun with another model"):
        open_folder(tmp_path / "out", {"model": {"name": "one", "sha256": "1"}}, moved)
