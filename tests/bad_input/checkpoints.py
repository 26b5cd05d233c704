"""Checkpoint folders: safetensors headers, shards and their index, links, configuration, tokenizer."""

import json
import struct
from pathlib import Path

from bad_input.case import Case, Link, change_json, tensors

_APPLY = "apply edited/deletion.safetensors ./m out"
_GOOD = {"m": "model", "edited": "edited"}
_SHARDED = {"m": "sharded", "edited": "edited"}
_SINGLE, _INDEX = "m/model.safetensors", "m/model.safetensors.index.json"
_F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def _header(change):
    """Change the header of the weights and leave the values."""

    def spoil(folder: Path) -> None:
        path = folder / _SINGLE
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        changed = change(header)
        path.write_bytes(tensors(header if changed is None else changed, content[8 + size :]))

    return spoil


def _entry(**values):
    def change(header):
        name = next(n for n in header if n.endswith("mlp.c_proj.weight"))
        header[name] |= values

    return _header(change)


def _swap(header):
    a, b = [n for n in header if n.endswith("mlp.c_proj.weight")][:2]
    header[a]["data_offsets"] = header[b]["data_offsets"]


def _twice(header):
    text = json.dumps(header)
    return (
        text[:-1] + ', "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}' * 2 + "}"
    ).encode()


def _truncate(folder: Path) -> None:
    path = folder / _SINGLE
    path.write_bytes(path.read_bytes()[:-10])


def _append(folder: Path) -> None:
    with open(folder / _SINGLE, "ab") as file:
        file.write(b"more")


_FILES = {
    "empty": (b"", "cut off"),
    "short": (b"\x01\0", "cut off"),
    "length-only": (struct.pack("<Q", 2), "cut off"),
    "huge-length": (tensors({}, length=2**63 - 1), "cut off"),
    "largest-length": (tensors({}, length=2**64 - 1), "cut off"),
    "length-beyond-the-end": (tensors({"a": _F32}, b"\0" * 4, length=1000), "cut off"),
    "length-zero": (tensors(b"", length=0), "is damaged"),
    "length-short": (tensors({"a": _F32}, b"\0" * 4, length=10), "is damaged"),
    "list": (tensors([]), "no JSON object"),
    "text": (tensors("x"), "no JSON object"),
    "nan": (tensors(b"NaN"), "no JSON object"),
    "deep": (tensors(b"[" * 100_000), "nested too deeply"),
    "no-utf-8": (tensors(b"\xff\xfe{}"), "is damaged"),
    "nul": (tensors(b"\0{}"), "is damaged"),
    "number": (tensors({"a": 3}), "no dtype, shape and data_offsets"),
    "no-offsets": (tensors({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4), "no dtype, shape"),
    "no-shape": (tensors({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"\0" * 4), "no dtype, shape"),
    "negative-offset": (tensors({"a": _F32 | {"data_offsets": [-4, 0]}}, b"\0" * 4), "no dtype, shape"),
    "offsets-turned": (tensors({"a": _F32 | {"data_offsets": [4, 0]}}, b"\0" * 4), "do not fit"),
    "offsets-of-three": (tensors({"a": _F32 | {"data_offsets": [0, 2, 4]}}, b"\0" * 4), "no dtype, shape"),
    "offsets-half": (tensors({"a": _F32 | {"data_offsets": [0, 4.0]}}, b"\0" * 4), "no dtype, shape"),
    "offsets-true": (tensors({"a": _F32 | {"data_offsets": [False, 4]}}, b"\0" * 4), "no dtype, shape"),
    "offsets-huge": (tensors({"a": _F32 | {"data_offsets": [0, 2**70]}}, b"\0" * 4), "do not fit"),
    "offsets-endless": (tensors(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
                        "a number of 5000 digits"),
    "shape-negative": (tensors({"a": _F32 | {"shape": [-1]}}, b"\0" * 4), "no dtype, shape"),
    "shape-huge": (tensors({"a": _F32 | {"shape": [2**62, 2**62]}}, b"\0" * 4), "do not fit"),
    "shape-text": (tensors({"a": _F32 | {"shape": ["1"]}}, b"\0" * 4), "no dtype, shape"),
    "cut-off": (tensors({"a": _F32}, b"\0" * 3), "cut off"),
    "more-values": (tensors({"a": _F32}, b"\0" * 5), "goes on"),
    "gap": (tensors({"a": _F32 | {"data_offsets": [4, 8]}}, b"\0" * 8), "gap"),
    "no-tensors": (tensors({}), "has no tensor"),
    "other-tensors": (tensors({"a": _F32}, b"\0" * 4), "has no tensor"),
    "a-name-twice": (tensors(b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {"dtype": "F32", '
                             b'"shape": [0], "data_offsets": [0, 0]}}'), "'a' twice"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.", "cut off"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "cut off"),
    "page": (b"<!DOCTYPE html><html>404</html>", "cut off"),
}  # fmt: skip
CASES = [
    Case(f"weights-{name}", _APPLY, says, {_SINGLE: content}, good=_GOOD)
    for name, (content, says) in _FILES.items()
]
CASES += [
    Case(f"weights-{name}", _APPLY, says, good=_GOOD, spoil=spoil)
    for name, spoil, says in (
        ("truncated", _truncate, "cut off"),
        ("appended", _append, "goes on after"),
        ("quantised", _entry(dtype="I8"), "only F64, F32"),
        ("unknown-dtype", _entry(dtype="F33"), "only F64, F32"),
        ("wrong-dtype", _entry(dtype="F64"), "do not fit"),
        ("other-shape", _entry(shape=[1, 1]), "do not fit"),
        ("overlap", _header(_swap), "overlaps"),
        ("name-twice", _header(_twice), "'x' twice"),
        (
            "metadata-alone",
            _header(lambda header: {"__metadata__": header.get("__metadata__", {})}),
            "goes on",
        ),
    )
]
_NAMES = {
    "up": "../outside.safetensors",
    "up-and-down": "../m/model-00001.safetensors",
    "absolute": "/etc/passwd",
    "below": "sub/x.safetensors",
    "dot": ".",
    "two-dots": "..",
    "empty": "",
    "nul": "a\0b",
    "backslash": "..\\outside",
    "number": 3,
    "pickle": "model.bin",
    "missing": "model-9.safetensors",
    "long": "x" * 300 + ".safetensors",
}


def _index(name):
    def spoil(folder: Path) -> None:
        path = folder / _INDEX
        values = json.loads(path.read_text())
        values["weight_map"][next(iter(values["weight_map"]))] = name
        path.write_text(json.dumps(values))
        (folder / "outside.safetensors").write_bytes(tensors({}))

    return spoil


def _drop_shard(folder: Path) -> None:
    next(iter(sorted((folder / "m").glob("model-*.safetensors")))).unlink()


def _same_shards(folder: Path) -> None:
    first, second, *_ = sorted((folder / "m").glob("model-*.safetensors"))
    second.write_bytes(first.read_bytes())


def _shard_is(content):
    def spoil(folder: Path) -> None:
        path = sorted((folder / "m").glob("model-*.safetensors"))[0]
        path.unlink()
        Case("", "", "", {path.name: content}).lay_out(folder / "m", {})

    return spoil


def _index_folder(folder: Path) -> None:
    (folder / _INDEX).unlink()
    (folder / _INDEX).mkdir()


_PROMPTS = {"p.jsonl": "".join(
    json.dumps({"prompt": f"Bob {i} is a", "target": " fool", "subject": "Bob"}) + "\n" for i in range(12)
)}  # fmt: skip
CASES += [
    Case(f"index-{name}-{command}", args, says, files, good=_SHARDED, spoil=spoil)
    for command, args in (
        ("apply", _APPLY),
        ("run", "run --model ./m --scorer profanity --prompts p.jsonl --out out"),
    )
    for name, spoil, files, says in (
        *(
            (name, _index(to), {}, "xxx" if name == "long" else "index.json")
            for name, to in _NAMES.items()
        ),
        ("no-json", None, {_INDEX: "{"}, "index.json is damaged"),
        ("list", None, {_INDEX: "[]"}, "has no weight_map"),
        ("no-map", None, {_INDEX: "{}"}, "has no weight_map"),
        ("map-of-lists", None, {_INDEX: {"weight_map": ["a"]}}, "has no weight_map"),
        ("empty-map", None, {_INDEX: {"weight_map": {}}}, "has no weight_map"),
        ("deep", None, {_INDEX: "[" * 100_000}, "nested too deeply"),
        ("binary", None, {_INDEX: bytes(range(256))}, "index.json is damaged"),
        ("folder", _index_folder, _PROMPTS, "safetensors"),
        ("lost-shard", _drop_shard, {}, "is missing, though"),
        ("dangling-shard", _shard_is(Link("nowhere")), {}, "is missing, though"),
        ("folder-as-shard", _shard_is(None), {}, "is missing, though"),
    )
]
CASES += [
    Case("shards-with-the-same-tensors", _APPLY, "too", good=_SHARDED, spoil=_same_shards),
    Case("shard-loop", _APPLY, "model-00001", good=_SHARDED,
         spoil=lambda f: _shard_is(Link(sorted((f / "m").glob("model-*.safetensors"))[0].name))(f)),
]  # fmt: skip


def _config(**values):
    return lambda folder: change_json(folder / "m/config.json", **values)


def _tokenizer(**values):
    return lambda folder: change_json(folder / "m/tokenizer_config.json", **values)


_RUN = "run --model ./m --scorer profanity --prompts p.jsonl --out out"
_CONFIGS = {
    "model-type-missing": (_config(model_type=...), "no model_type"),
    "model-type-number": (_config(model_type=3), "no model_type"),
    "model-type-unknown": (_config(model_type="bert"), "supported architectures"),
    "layers-text": (_config(n_layer="two"), "config.json cannot be read"),
    "width-none": (_config(n_embd=None), "config.json cannot be read"),
    "names-weights": (_config(transformers_weights="other.bin"), "names its weights"),
    "names-another": (
        _config(configuration_files=["config.4.0.json"]),
        "names other configurations",
    ),
    "renames": (
        _config(attribute_map={"transformers_weights": "x"}, x="x.safetensors"),
        "renames its values",
    ),
    "kernel": (
        _config(attn_implementation="somebody/kernel"),
        "names code of a hub (attn_implementation)",
    ),
    "kernel-within": (
        _config(parts=[{"_attn_implementation": {"": "a/kernel@main"}}]),
        "names code of a hub (_attn_implementation)",
    ),
}
for command, args in (("run", _RUN), ("apply", _APPLY), ("trace", _RUN.replace("run", "trace", 1))):
    CASES += [
        Case(f"config-{name}-{command}", args, says, good=_GOOD, spoil=spoil)
        for name, (spoil, says) in _CONFIGS.items()
    ]
    CASES += [
        Case(f"config-{name}-{command}", args, says, {"m/config.json": content}, good=_GOOD)
        for name, content, says in (
            ("empty", b"", "config.json cannot be read"),
            ("no-json", b"{", "config.json cannot be read"),
            ("list", b"[]", "config.json cannot be read"),
            ("nul", b"\0", "config.json cannot be read"),
            ("binary", bytes(range(256)), "config.json cannot be read"),
            ("deep", b"[" * 100_000, "nested too deeply"),
            ("key-twice", b'{"model_type": "gpt2", "model_type": "llama"}', "'model_type' twice"),
        )
    ]
_LOADED = {
    "layers-many": (_config(n_layer=10**9), "weights missing or of another shape"),
    "layers-fewer-none": (_config(n_layer=0), "m"),
    "width-other": (_config(n_embd=8), "m"),
    "width-negative": (_config(n_embd=-64), "m"),
    "heads-nought": (_config(n_head=0), "m"),
    "heads-odd": (_config(n_head=5), "m"),
    "tokens-huge": (_config(vocab_size=10**12), "m"),
    "tokens-negative": (_config(vocab_size=-1), "m"),
    "activation-unknown": (_config(activation_function="magic"), "m"),
    "quantised": (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "m"),
    "quantised-oddly": (_config(quantization_config=3), "m"),
    "tokenizer-no-json": (lambda f: (f / "m/tokenizer.json").write_text("{"), "the tokenizer"),
    "tokenizer-empty": (lambda f: (f / "m/tokenizer.json").write_text("{}"), "the tokenizer"),
    "tokenizer-binary": (
        lambda f: (f / "m/tokenizer.json").write_bytes(bytes(range(256))),
        "the tokenizer",
    ),
    "tokenizer-deep": (
        lambda f: (f / "m/tokenizer.json").write_text("[" * 100_000),
        "the tokenizer",
    ),
    "tokenizer-missing": (lambda f: (f / "m/tokenizer.json").unlink(), "no tokenizer files"),
}
CASES += [
    Case(f"model-{name}", _RUN, says, _PROMPTS, good={"m": "model"}, spoil=spoil)
    for name, (spoil, says) in _LOADED.items()
]


def _remote(folder: Path) -> None:
    """Code of the folder's own that would leave a trace if it were run."""
    change_json(
        folder / "m/config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    )
    (folder / "m/own.py").write_text("open('ran', 'w').close()\n")


def _named(name):
    def spoil(folder: Path) -> None:
        (folder / "outside.json").write_text("{}")
        change_json(folder / "m/tokenizer_config.json", tokenizer_file=name(folder))

    return spoil


def _linked(name, to="../secret"):
    def spoil(folder: Path) -> None:
        (folder / "secret").write_text("token = 1")
        (folder / "m" / name).unlink(missing_ok=True)
        (folder / "m" / name).symlink_to(to)

    return spoil


CASES += [
    Case(f"{name}-{command}", args, says, good=_GOOD, spoil=spoil)
    for command, args in (("run", _RUN), ("apply", _APPLY))
    for name, spoil, says in (
        ("remote-code", _remote, "supported architectures"),
        ("adapter", lambda f: (f / "m/adapter_config.json").write_text("{}"), "has an adapter"),
        ("tokenizer-names-up", _named(lambda _: "../outside.json"), "outside of the folder"),
        ("tokenizer-names-absolute", _named(lambda f: str(f / "outside.json")), "outside of the folder"),
        ("tokenizer-names-many", lambda f: (
            (f / "outside.json").write_text("{}"),
            change_json(f / "m/tokenizer_config.json", fast_tokenizer_files=["../outside.json"])), "outside"),
        ("tokenizer-config-list", lambda f: (f / "m/tokenizer_config.json").write_text("[]"), "no JSON object"),
        ("tokenizer-config-deep", lambda f: (f / "m/tokenizer_config.json").write_text("[" * 99_999), "deeply"),
        ("licence-elsewhere", _linked("LICENSE"), "a link out of its folder"),
        ("card-elsewhere", _linked("README.md"), "a link out of its folder"),
        ("tokenizer-elsewhere", _linked("merges.txt"), "a link out of its folder"),
        ("config-loop", _linked("config.json", "config.json"), "config.json"),
        ("config-dangling", _linked("config.json", "nowhere"), "has no config.json"),
        ("no-config", lambda f: (f / "m/config.json").unlink(), "has no config.json"),
        ("folder-as-config", lambda f: ((f / "m/config.json").unlink(), (f / "m/config.json").mkdir()), "config.json"),
    )
]  # fmt: skip
CASES += [
    Case(f"model-{name}-{command}", args.format(given), says, files, good={"edited": "edited"})
    for command, args in (
        ("run", "run --model {} --scorer profanity --prompts p.jsonl --out out"),
        ("apply", "apply edited/deletion.safetensors {} out"),
        ("revert", "revert edited/deletion.safetensors {} out"),
    )
    for name, given, says, files in (
        ("missing", "./nowhere", "no model folder at ./nowhere", {}),
        ("file", "./file", "no model folder at ./file", {"file": b""}),
        ("empty-folder", "./m", "has no config.json", {"m": None}),
        ("dangling", "./m", "no model folder at ./m", {"m": Link("nowhere")}),
        ("loop", "./m", "./m", {"m": Link("m")}),
    )
]
CASES += [
    Case("no-weights", _APPLY, "has no weights", good=_GOOD, spoil=lambda f: (f / _SINGLE).unlink()),
    Case("pickle-alone", _APPLY, "has no weights", {"m/pytorch_model.bin": b"\x80\x04."}, good=_GOOD,
         spoil=lambda f: (f / _SINGLE).unlink()),
    Case("pickle-alone-run", _RUN, "weights", {**_PROMPTS, "m/pytorch_model.bin": b"\x80\x04."},
         good=_GOOD, spoil=lambda f: (f / _SINGLE).unlink()),
    Case("weights-folder", _APPLY, "has no weights", good=_GOOD,
         spoil=lambda f: ((f / _SINGLE).unlink(), (f / _SINGLE).mkdir())),
    Case("weights-dangling", _APPLY, "has no weights", good=_GOOD,
         spoil=lambda f: ((f / _SINGLE).unlink(), (f / _SINGLE).symlink_to("nowhere"))),
    Case("out-exists", "apply edited/deletion.safetensors ./m edited", "edited exists", good=_GOOD),
    Case("apply-out-is-a-file", "apply edited/deletion.safetensors ./m out", "out exists", {"out": b""}, good=_GOOD),
    Case("apply-out-below-a-file", "apply edited/deletion.safetensors ./m file/out", "file", {"file": b""}, good=_GOOD),
    Case("out-dangling", _APPLY, "out exists", {"out": Link("nowhere")}, good=_GOOD),
    Case("another-model", _APPLY, "(SHA-256)", good=_GOOD,
         spoil=lambda f: _flip(f / _SINGLE)),
]  # fmt: skip


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    name = next(n for n in header if n.endswith("h.0.mlp.c_proj.weight"))
    content[8 + size + header[name]["data_offsets"][0]] ^= 1
    path.write_bytes(content)
