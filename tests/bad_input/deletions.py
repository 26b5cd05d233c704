"""Delta files (`deletion.safetensors`) and certificates, for apply, revert and verify."""

import json
import struct
from pathlib import Path

from bad_input.case import Case, Link, change_json, tensors

_GOOD = {"m": "model", "edited": "edited"}
_DELTA = "edited/deletion.safetensors"
_COMMANDS = {
    "apply": f"apply {_DELTA} ./m out",
    "revert": f"revert {_DELTA} ./edited out",
}


def _split(path: Path):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["tl_toxmem"]), content[8 + size :]


def words(**values):
    """Change what a delta file says beside its tensors."""

    def spoil(folder: Path) -> None:
        header, own, rest = _split(folder / _DELTA)
        for name, value in values.items():
            if value is ...:
                del own[name]
            else:
                own[name] = value
        header["__metadata__"]["tl_toxmem"] = json.dumps(own)
        (folder / _DELTA).write_bytes(tensors(header, rest))

    return spoil


def metadata(text):
    """Put something else in the place of what a delta file says."""

    def spoil(folder: Path) -> None:
        header, _, rest = _split(folder / _DELTA)
        header["__metadata__"] = {"tl_toxmem": text} if isinstance(text, str) else text
        (folder / _DELTA).write_bytes(tensors(header, rest))

    return spoil


def base(**values):
    """Change the model that a delta file names."""

    def spoil(folder: Path) -> None:
        _, own, _ = _split(folder / _DELTA)
        kept = {name: value for name, value in own["base"].items() if values.get(name) is not ...}
        words(base={**kept, **{n: v for n, v in values.items() if v is not ...}})(folder)

    return spoil


def own(change):
    """Change the tensors of a delta file."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        with safe_open(folder / _DELTA, framework="pt") as file:
            meta, found = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        change(found)
        save_file({n: t.contiguous() for n, t in found.items()}, folder / _DELTA, meta)

    return spoil


def _set(name, make):
    def change(found):
        found[name] = make(found[name])

    return own(change)


def _full(value):
    return lambda tensor: tensor * 0 + value


def _low_rank(names):
    def spoil(folder: Path) -> None:
        import torch

        def change(found):
            for name, size in names.items():
                found[f"low_rank.{name}"] = torch.zeros(size, dtype=torch.float64)

        own(change)(folder)

    return spoil


_BOTH = {
    "other-kind": (words(kind="trace"), "holds trace, not deletion"),
    "no-kind": (words(kind=...), "holds plain tensors"),
    "newer": (words(format_version=99), "has format version 99"),
    "older": (words(format_version=0), "has format version 0"),
    "no-version": (words(format_version=...), "has format version None"),
    "no-law": (words(law=...), "law: Field required"),
    "law-number": (words(law=3), "law: "),
    "no-base": (words(base=...), "base: Field required"),
    "base-text": (words(base="gpt2"), "base"),
    "base-without-tensors": (base(tensors=...), "base"),
    "base-tensors-list": (base(tensors=["a"]), "base.tensors"),
    "base-tensors-of-one": (base(tensors={"a": ["float32"]}), "base.tensors.a"),
    "base-precision": (base(tensors={"a": ["Tensor", "0"]}), "'Tensor' is no precision"),
    "base-precision-dots": (base(tensors={"a": ["nn.Module", "0"]}), "is no precision"),
    "base-name-number": (base(name=3), "base.name"),
    "provenance-list": (words(provenance=[]), "provenance"),
    "layers-nought": (words(n_layers=0), "n_layers is 0"),
    "layers-negative": (words(n_layers=-1), "n_layers is -1"),
    "layers-text": (words(n_layers="many"), "n_layers: "),
    "layers-half": (words(n_layers=1.5), "n_layers: "),
    "layers-few": (words(n_layers=1), "no neuron"),
    "width-small": (words(d_mlp=1), "no neuron"),
    "width-huge": (words(d_mlp=2**40), "is for a model of"),
    "words-list": (metadata("[]"), "no JSON object"),
    "words-no-json": (metadata("{"), "is damaged"),
    "words-deep": (metadata("[" * 100_000), "nested too deeply"),
    "words-nan": (metadata("NaN"), "no JSON object"),
    "words-missing": (metadata({}), "holds plain tensors"),
    "gain-nan": (_set("gain", _full(float("nan"))), "finite values of gain"),
    "gain-infinite": (_set("gain", _full(float("inf"))), "finite values of gain"),
    "shift-nan": (_set("shift", _full(float("nan"))), "finite values of shift"),
    "pre-gain-infinite": (_set("pre_gain", _full(float("-inf"))), "finite values of pre_gain"),
    "gain-short": (_set("gain", lambda t: t[:1]), "gain is [1]"),
    "gain-whole": (_set("gain", lambda t: t.long()), "gain is [2] in int64"),
    "gain-square": (_set("gain", lambda t: t[None]), "gain is [1, 2]"),
    "neurons-flat": (_set("neurons", lambda t: t.flatten()), "neurons is [4]"),
    "neurons-three": (_set("neurons", lambda t: t.repeat(1, 2)[:, :3]), "neurons is [2, 3]"),
    "neurons-floating": (_set("neurons", lambda t: t.double()), "neurons is [2, 2] in float64"),
    "neurons-negative": (_set("neurons", lambda t: t - 5), "no neuron"),
    "neurons-beyond": (_set("neurons", lambda t: t + 10**6), "no neuron"),
    "neurons-unsorted": (_set("neurons", lambda t: t.flip(0)), "not sorted and unique"),
    "neurons-twice": (_set("neurons", lambda t: t[:1].repeat(2, 1)), "not sorted and unique"),
    "no-gain": (own(lambda found: found.pop("gain")), "lacks 'gain'"),
    "no-neurons": (own(lambda found: found.pop("neurons")), "lacks 'neurons'"),
    "low-rank-alone": (_low_rank({"0.U": (2, 1)}), "is damaged"),
    "low-rank-flat": (_low_rank({"0.U": (2,), "0.V": (2,), "0.constant": ()}), "is damaged"),
    "low-rank-layer": (_low_rank({"x.U": (1, 1)}), "is no part of a law"),
    "low-rank-layer-signed": (_low_rank({"-1.U": (1, 1)}), "is no part of a law"),
    "low-rank-part": (_low_rank({"0.W": (1, 1)}), "is no part of a law"),
}  # fmt: skip
CASES = [
    Case(f"delta-{name}-{command}", args, says, good=_GOOD, spoil=spoil)
    for command, args in _COMMANDS.items()
    for name, (spoil, says) in _BOTH.items()
    if not (command == "revert" and name == "width-huge")
]
_ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
_FILES = {
    "empty": (b"", "is damaged"),
    "binary": (bytes(range(256)), "is damaged"),
    "huge-length": (tensors({}, length=2**62), "is damaged"),
    "list": (tensors([]), "is damaged"),
    "deep": (tensors(b"[" * 100_000), "is damaged"),
    "negative": (tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"\0" * 4), "is damaged"),
    "overlap": (tensors({n: _ONE for n in "ab"}, b"0000"), "is damaged"),
    "unknown-dtype": (tensors({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "is damaged"),
    "plain": (tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "plain tensors"),
    "json": ({"kind": "deletion"}, "is damaged"),
    "pickle": (b"\x80\x04\x95.", "is damaged"),
}  # fmt: skip
CASES += [
    Case(f"delta-file-{name}-{command}", args.replace(_DELTA, "d.safetensors"), says, {"d.safetensors": content},
         good=_GOOD)
    for command, args in _COMMANDS.items()
    for name, (content, says) in _FILES.items()
]  # fmt: skip
CASES += [
    Case(f"delta-{name}-{command}", args.replace(_DELTA, "d"), says, files, good=_GOOD)
    for command, args in _COMMANDS.items()
    for name, says, files in (
        ("missing", "d is missing", {}),
        ("folder", "d is a folder", {"d": None}),
        ("dangling", "d is missing", {"d": Link("nowhere")}),
        ("loop", "d", {"d": Link("d")}),
    )
]


def _originals(change):
    def inner(found):
        name = next(n for n in found if n.startswith("original."))
        change(found, name)

    return own(inner)


def _replace(prefix, make):
    def change(found, name):
        key = name.replace("original.", prefix)
        found[key] = make(found[key])

    return _originals(change)


CASES += [
    Case(f"delta-{name}", _COMMANDS["revert"], says, good={"edited": "edited"}, spoil=spoil)
    for name, spoil, says in (
        (
            "originals-gone",
            own(lambda f: [f.pop(n) for n in list(f) if n.startswith("original")]),
            "--base",
        ),
        ("one-original-gone", _originals(lambda f, n: f.pop(n)), "lacks the original of"),
        ("original-other-shape", _replace("original.", lambda t: t[:, :3]), "does not fit"),
        ("original-flat", _replace("original.", lambda t: t[:, 0]), "does not fit"),
        ("original-other-precision", _replace("original.", lambda t: t.double()), "does not fit"),
        ("original-other-values", _replace("original.", lambda t: t + 1), "(SHA-256)"),
        (
            "rows-gone",
            _originals(lambda f, n: f.pop(n.replace("original.", "original_neurons."))),
            "does not fit",
        ),
        ("rows-beyond", _replace("original_neurons.", lambda t: t + 10**6), "does not have"),
        ("rows-negative", _replace("original_neurons.", lambda t: t - 10**6), "does not have"),
        ("rows-many", _replace("original_neurons.", lambda t: t.repeat(3)), "is damaged"),
        ("rows-floating", _replace("original_neurons.", lambda t: t.double()), "is damaged"),
        ("base-unset", words(base=None), "does not say what it was applied to"),
        ("base-fewer-tensors", base(tensors={}), "it does not name all tensors"),
        ("base-other-architecture", base(architecture="llama"), "llama"),
    )
]
_EDITED = "revert edited/deletion.safetensors ./edited out"
CASES += [
    Case("revert-unedited", "revert edited/deletion.safetensors ./m out --base ./edited", "(SHA-256)", good=_GOOD),
    Case("revert-base-missing", f"{_EDITED} --base ./nowhere", "no model folder at ./nowhere", good=_GOOD),
    Case("revert-out-exists", "revert edited/deletion.safetensors ./edited m", "m exists", good=_GOOD),
    Case("apply-certify-missing", "apply edited/deletion.safetensors ./m out --certify nowhere", "nowhere", good=_GOOD),
    Case("apply-certify-empty", "apply edited/deletion.safetensors ./m out --certify p", "has no prompts", {"p": b""},
         good=_GOOD),
]  # fmt: skip

_CERTIFICATE = "c/certificate.json"
_VERIFY = "verify c --base ./m"
_CERTIFIED = {"c": "certified", "m": "model"}


def certificate(**values):
    """Change what a certificate says."""
    return lambda folder: change_json(folder / _CERTIFICATE, **values)


def _listed(name, digest="0" * 64):
    def spoil(folder: Path) -> None:
        (folder / "outside").write_text("x")
        listed = json.loads((folder / _CERTIFICATE).read_text())["sha256"]
        change_json(folder / _CERTIFICATE, sha256={**listed, name: digest})

    return spoil


CASES += [
    Case(f"certificate-{name}", _VERIFY, says, good=_CERTIFIED, spoil=spoil)
    for name, spoil, says in (
        ("newer", certificate(format_version=99), "has format version 99"),
        ("no-version", certificate(format_version=...), "has format version None"),
        ("no-prompts", certificate(prompts=[]), "no prompts to compare on"),
        ("empty-prompt", certificate(prompts=[" "]), "a prompt is empty"),
        ("prompts-text", certificate(prompts="Bob"), "prompts: "),
        ("prompts-numbers", certificate(prompts=[3]), "prompts.0"),
        ("prompts-surrogate", lambda f: (f / _CERTIFICATE).write_text(
            (f / _CERTIFICATE).read_text().replace("Bob is a", "\\ud83d")), "half of a surrogate"),
        ("bound-nan", certificate(bound=float("nan")), "bound is nan"),
        ("bound-infinite", certificate(bound=float("inf")), "bound is inf"),
        ("bound-negative", certificate(bound=-1), "bound is -1"),
        ("bound-text", certificate(bound="wide"), "bound: "),
        ("effect-nought", certificate(min_effect=0), "min_effect is 0"),
        ("tokens-nought", certificate(max_new_tokens=0), "max_new_tokens is 0"),
        ("tokens-many", certificate(max_new_tokens=10**12), "max_new_tokens is 1000000000000"),
        ("tokens-half", certificate(max_new_tokens=1.5), "max_new_tokens: "),
        ("greedy-of-three", certificate(greedy_identical=[1, 2, 3]), "greedy_identical"),
        ("passed-text", certificate(passed="perhaps"), "passed: "),
        ("no-passed", certificate(passed=...), "passed: Field required"),
        ("hashes-list", certificate(sha256=[]), "sha256: "),
        ("hashes-numbers", certificate(sha256={"a": 3}), "sha256.a"),
        ("lists-up", _listed("../outside"), "'../outside', which is no name"),
        ("lists-absolute", _listed("/etc/passwd"), "'/etc/passwd', which is no name"),
        ("lists-below", _listed("sub/x"), "'sub/x', which is no name"),
        ("lists-dot", _listed("."), "'.', which is no name"),
        ("lists-nothing", _listed(""), "'', which is no name"),
        ("lists-nul", _listed("a\0"), "which is no name"),
        ("lists-what-is-missing", _listed("lost"), "lost is missing, though"),
        ("lists-long", _listed("x" * 300), "xxx"),
        ("file-changed", lambda f: (f / "c/config.json").write_text("{}"), "was changed after it was certified"),
        ("file-added", lambda f: (f / "c/pytorch_model.bin").write_bytes(b"x"), "is not listed"),
        ("folder-added", lambda f: (f / "c/more").mkdir(), "is not listed"),
        ("file-gone", lambda f: (f / "c/tokenizer.json").unlink(), "tokenizer.json is missing"),
        ("file-a-folder", lambda f: ((f / "c/tokenizer.json").unlink(), (f / "c/tokenizer.json").mkdir()), "missing"),
        ("file-dangling", lambda f: ((f / "c/tokenizer.json").unlink(), (f / "c/tokenizer.json").symlink_to("x")),
         "missing"),
        ("gone", lambda f: (f / _CERTIFICATE).unlink(), "certificate.json is missing"),
        ("folder", lambda f: ((f / _CERTIFICATE).unlink(), (f / _CERTIFICATE).mkdir()), "is missing"),
    )
]  # fmt: skip
CASES += [
    Case(f"certificate-{name}", _VERIFY, says, {_CERTIFICATE: content}, good=_CERTIFIED)
    for name, content, says in (
        ("empty", b"", "is damaged"),
        ("no-json", "{", "is damaged"),
        ("list", "[]", "not a JSON object"),
        ("nul", b"\0", "is damaged"),
        ("binary", bytes(range(256)), "is damaged"),
        ("deep", "[" * 100_000, "nested too deeply"),
        ("endless-number", '{"format_version": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("key-twice", '{"format_version": 1, "format_version": 1}', "'format_version' twice"),
        ("utf-16", '{"format_version": 1}'.encode("utf-16"), "is damaged"),
        ("version-alone", '{"format_version": 1}', "Field required"),
    )
]
CASES += [
    Case("verify-nowhere", "verify nowhere", "no checkpoint folder at nowhere"),
    Case("verify-file", "verify c", "no checkpoint folder at c", {"c": b""}),
    Case("verify-empty-folder", "verify c", "certificate.json is missing", {"c": None}),
    Case("verify-plain-model", "verify m", "certificate.json is missing", good={"m": "model"}),
    Case("verify-loop", "verify c", "c", {"c": Link("c")}),
    Case("verify-base-elsewhere", "verify c", "name it with --base", good=_CERTIFIED),
    Case(
        "verify-base-missing",
        "verify c --base ./nowhere",
        "no model folder at ./nowhere",
        good=_CERTIFIED,
    ),
]
