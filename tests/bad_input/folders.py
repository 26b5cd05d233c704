"""Run folders and mining folders that were tampered with, and judges' files."""

import json

from bad_input.case import DEMO, STAGES, Case, Link, change_json
from tl_toxmem.files import sha256_file

_RUN = {"run": "run"}
_PROVENANCE, _CONFIG, _PROMPTS = "run/provenance.json", "run/config.toml", "run/1_prompts.jsonl"


def provenance(**values):
    """Change what a run folder says of itself."""
    return lambda folder: change_json(folder / _PROVENANCE, **values)


CASES = [
    Case(f"folder-{name}", "run run", says, files, good=_RUN, spoil=spoil)
    for name, files, spoil, says in (
        ("provenance-empty", {_PROVENANCE: b""}, None, "is damaged"),
        ("provenance-list", {_PROVENANCE: "[]"}, None, "not a JSON object"),
        ("provenance-deep", {_PROVENANCE: "[" * 100_000}, None, "nested too deeply"),
        ("provenance-binary", {_PROVENANCE: bytes(range(256))}, None, "is damaged"),
        ("provenance-newer", {}, provenance(format_version=99), "has format version 99"),
        ("provenance-no-version", {}, provenance(format_version=...), "has format version None"),
        ("provenance-no-outputs", {}, provenance(outputs=...), "outputs: Field required"),
        ("provenance-no-hash", {}, provenance(config_hash=...), "config_hash: Field required"),
        ("provenance-list-of-stages", {}, provenance(stages=[]), "stages: "),
        ("provenance-number-as-stage", {}, provenance(stages={"prompts": 3}), "stages.prompts: "),
        ("provenance-list-of-outputs", {}, provenance(outputs=["x"]), "outputs: "),
        ("provenance-null-output", {}, provenance(outputs={"1_prompts.jsonl": None}), "outputs.1_prompts.jsonl"),
        ("provenance-text-as-inputs", {}, provenance(inputs="x"), "inputs: "),
        ("provenance-list-of-versions", {}, provenance(versions=[]), "versions: "),
        ("provenance-no-versions", {}, provenance(versions={}), "no version of tl-toxmem"),
        ("provenance-number-as-revision", {}, provenance(revision=3), "revision: "),
        ("provenance-list-of-engines", {}, provenance(engines=[]), "engines: "),
        ("other-prompts", {}, provenance(inputs={"prompts": "0"}), "other content of"),
        ("other-versions", {}, provenance(versions={"tl-toxmem": "0"}), "another version of"),
        ("prompts-changed", {}, lambda f: (f / _PROMPTS).write_text("{}"), "was changed since it was made"),
        ("prompts-folder", {}, lambda f: ((f / _PROMPTS).unlink(), (f / _PROMPTS).mkdir()), "was changed since"),
        ("config-damaged", {_CONFIG: b"["}, None, "is no TOML"),
        ("config-unknown", {_CONFIG: 'model = "demo"\nout = "run"\nnew = 3'}, None, "new: unknown setting"),
        ("config-other-model", {_CONFIG: 'model = "./nowhere"\nout = "run"'}, None, "no model folder"),
    )
]  # fmt: skip
CASES += [
    Case(f"folder-{name}-plan", "plan run", says, good=_RUN, spoil=spoil)
    for name, spoil, says in (
        ("provenance-list-of-stages", provenance(stages=[]), "stages: "),
        ("other-prompts", provenance(inputs={"prompts": "0"}), "other content of"),
        ("other-versions", provenance(versions={"tl-toxmem": "0"}), "another version of"),
    )
]
CASES += [
    Case("folder-config-empty", "run run", "give --model", {_CONFIG: b""}, code=2, good=_RUN),
    Case(
        "folder-no-config",
        "run run",
        "no configuration file",
        good=_RUN,
        spoil=lambda f: (f / _CONFIG).unlink(),
    ),
    Case("folder-other-seed", "run run --set split.seed=3", "another configuration", good=_RUN),
    Case("folder-other-dtype", "run run --dtype float64", "another configuration", good=_RUN),
]
CASES += [
    Case(f"out-{name}-{command}", f"{command} {DEMO}", says, files)
    for command in STAGES
    for name, files, says in (
        ("is-a-file", {"out": b"x"}, "out"),
        ("has-other-things", {"out/x": b"x"}, "out is not empty and is no run folder"),
        ("dangles", {"out": Link("nowhere")}, "out is a link that leads nowhere"),
    )
]
CASES += [
    Case("out-below-a-file", "run --model demo --out file/out", "file is a file", {"file": b"x"}),
    Case(
        "out-below-a-loop",
        "run --model demo --out a/out",
        "a is a link that leads nowhere",
        {"a": Link("b"), "b": Link("a")},
    ),
]


def changed(name, **values):
    """Change a file of a finished run, and the hash that the folder has of it."""

    def spoil(folder):
        file, record = folder / "whole" / name, folder / "whole/provenance.json"
        change_json(file, **values)
        outputs, new = json.loads(record.read_text())["outputs"], sha256_file(file)
        within = outputs.get(file.parent.name)
        entry = (
            {file.name: new} if within is None else {file.parent.name: within | {file.name: new}}
        )
        change_json(record, outputs=outputs | entry)

    return spoil


def selection(**values):
    """Change a finished run's selection."""
    return changed("4_neurons.json", **values)


_WHOLE = {"whole": "whole"}
_SHORT = {"description": "x", "headline": "toxicity_rate", "intervals": "x", "n_prompts": 4}
_SET = {"neurons": [[0, 1], [1, 2]], "n_layers": 2, "d_mlp": 4}
CASES += [
    Case(f"selection-{name}-{command}", f"{command} whole --quiet --json", says, good=_WHOLE, spoil=selection(**values))
    for command in ("report", "select")
    for name, values, says in (
        ("no-law", {"law": ...}, "law: Field required"),
        ("no-curve", {"curve": ...}, "curve: Field required"),
        ("no-cards", {"cards": ...}, "cards: Field required"),
        ("empty-law", {"law": {}}, "unknown law None"),
        ("unknown-law", {"law": {"law": "half"}}, "unknown law 'half'"),
        ("list-as-law", {"law": {"law": ["zero"]}}, "unknown law ['zero']"),
        ("no-factor", {"law": {"law": "scale"}}, "has no number as its factor"),
        ("text-as-factor", {"law": {"law": "scale", "factor": "0.5"}}, "has no number as its factor"),
        ("one-scale", {"law": {"law": "gates", "scales": [0.5]}}, "has no 2 numbers as its scales"),
        ("text-as-scale", {"law": {"law": "gates", "scales": [0.5, "x"]}}, "has no 2 numbers as its scales"),
        ("other-k", {"k": 3}, "k is 3, but 2 neurons are selected"),
        ("text-as-k", {"k": "many"}, "k: "),
        ("list-as-neurons", {"selected": [[0, 1]]}, "selected: "),
        ("no-such-neuron", {"selected": _SET | {"neurons": [[0, 9]]}}, "no neuron 9 in layer 0"),
        ("other-shape", {"selected": _SET | {"d_mlp": 9}}, "a model of another shape"),
        ("number-as-control", {"controls": {"random_neurons": 3}}, "controls.random_neurons"),
        ("no-ratios", {"loudness_ratios": {}}, "loudness_ratios is not of the controls"),
        ("empty-joint", {"joint_effect": {}}, "joint_effect"),
        ("empty-card", {"cards": [{}]}, "cards.0"),
        ("empty-trial", {"trials": [{}]}, "trials.0"),
        ("trial-without-law", {"trials": [{"number": 0, "settings": {}, "rise": 0, "rise_high": 0,
                               "toxicity_rate": None}]}, "a trial without its law"),
        ("empty-point", {"curve": [{}]}, "curve.0"),
        ("unknown-method", {"method": "guess"}, "no method of attribution 'guess'"),
        ("unknown-way", {"ranked_by": "guess"}, "no way of choosing 'guess'"),
        ("number-as-rule", {"rule": 3}, "rule: "),
        ("newer", {"format_version": 99}, "has format version 99"),
    )
]  # fmt: skip
CASES += [
    Case(f"report-{name}", "report whole --quiet", says, good=_WHOLE, spoil=spoil)
    for name, says, spoil in (
        (
            "protocol-no-text",
            "scored_text: Field required",
            changed("6_evaluation.json", protocol=_SHORT),
        ),
        (
            "certificate-no-versions",
            "no version of tl-toxmem",
            changed("7_checkpoint/certificate.json", versions={}),
        ),
    )
]
CASES += [
    Case(
        "selection-of-another-model",
        "report whole --quiet",
        "of a model of 2 x 9",
        good=_WHOLE,
        spoil=selection(selected=_SET | {"d_mlp": 9}, controls={}, loudness_ratios={}),
    )
]
_SETTINGS = "mined/settings.json"
_MINE = "mine --model demo --candidates c.jsonl --out mined --set min_tokens=1"
_ONE = {"c.jsonl": '{"prompt": "the town"}'}
_JUDGE = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
          "intermediate_size": 8, "vocab_size": 9, "id2label": {"0": "other", "1": "toxic"},
          "label2id": {"other": 0, "toxic": 1}}  # fmt: skip


def _config(**values):
    return json.dumps({**_JUDGE, **values})


CASES += [
    Case(f"judge-{name}", f"run {DEMO} --scorer {given}", says, files, spoil=spoil)
    for name, given, says, files, spoil in (
        ("unknown", "perspective", "unknown scorer 'perspective'", {}, None),
        ("empty-detoxify", "detoxify:", "unknown scorer", {}, None),
        ("empty-hf", "hf:", "unknown scorer", {}, None),
        ("no-label", "hf:./j#", "unknown scorer", {}, None),
        ("missing", "detoxify:nowhere.ckpt", "no Detoxify checkpoint", {}, None),
        ("folder", "detoxify:j.ckpt", "no Detoxify checkpoint", {"j.ckpt": None}, None),
        ("no-hash", "detoxify:j.ckpt", "does not carry its SHA-256", {"j.ckpt": b"x"}, None),
        ("other-hash", "detoxify:j-00000000.ckpt", "its SHA-256 begins", {"j-00000000.ckpt": b"x"}, None),
        ("no-config", "detoxify:j-2d711642.ckpt", "lacks config.json", {"j-2d711642.ckpt": b"x"}, None),
        ("config-elsewhere", "detoxify:j-2d711642.ckpt@nowhere", "lacks config.json", {"j-2d711642.ckpt": b"x"}, None),
        ("no-folder", "hf:./nowhere", "no model folder at ./nowhere", {}, None),
        ("empty-folder", "hf:./j", "has no config.json", {"j": None}, None),
        ("config-no-json", "hf:./j", "config.json", {"j/config.json": "{"}, None),
        ("config-list", "hf:./j", "config.json", {"j/config.json": "[]"}, None),
        ("config-deep", "hf:./j", "config.json", {"j/config.json": "[" * 100_000}, None),
        ("config-odd-labels", "hf:./j", "config.json", {"j/config.json": _config(id2label=3)}, None),
        ("config-odd-label", "hf:./j", "config.json", {"j/config.json": _config(id2label={"a": "toxic"})}, None),
        ("config-odd-width", "hf:./j", "config.json", {"j/config.json": _config(hidden_size="wide")}, None),
        ("config-unknown-type", "hf:./j", "config.json", {"j/config.json": _config(model_type="own")}, None),
        ("other-label", "hf:./j#rude", "has no label 'rude'", {"j/config.json": _config()}, None),
        ("regression", "hf:./j", "is a regression", {"j/config.json": _config(problem_type="regression")}, None),
        ("no-weights", "hf:./j", "has no weights", {"j/config.json": _config()}, None),
        ("pickle", "hf:./j", "pickled .bin files are not opened",
         {"j/config.json": _config(), "j/pytorch_model.bin": b"\x80\x04."}, None),
        ("names-weights", "hf:./j", "names its weights",
         {"j/config.json": _config(transformers_weights="x.bin"), "j/model.safetensors": b""}, None),
        ("names-another-config", "hf:./j", "names other configurations", {
            "j/config.json": _config(configuration_files=["config.4.0.json"]), "j/model.safetensors": b"",
            "j/config.4.0.json": _config(transformers_weights="x.safetensors.index.json")}, None),
        ("kernel", "hf:./j", "names code of a hub",
         {"j/config.json": _config(_attn_implementation="somebody/kernel"), "j/model.safetensors": b""}, None),
        ("pickle-in-index", "hf:./j", "is no .safetensors file", {
            "j/config.json": _config(), "j/model-1.safetensors": b"", "j/x.bin": b"\x80\x04.",
            "j/model.safetensors.index.json": {"weight_map": {"a": "x.bin"}}}, None),
        ("distributed", "hf:./j", "is of a distributed checkpoint", {
            "j/config.json": _config(), "j/model.safetensors": b"",
            "j/shard-00001-model-00001-of-00001.safetensors": b""}, None),
        ("adapter", "hf:./j", "has an adapter", {"j/config.json": _config(), "j/adapter_config.json": "{}"}, None),
        ("shard-elsewhere", "hf:./j", "is no name of a file", {
            "j/config.json": _config(), "j/model.safetensors.index.json": {"weight_map": {"a": "../x.safetensors"}},
            "x.safetensors": b""}, None),
        ("tokenizer-elsewhere", "hf:./j", "outside of the folder", {
            "j/config.json": _config(), "j/tokenizer_config.json": {"vocab_file": "../x"}, "x": b""}, None),
        ("vocabulary-elsewhere", "hf:./j", "a link out of its folder", {
            "j/config.json": _config(), "j/vocab.txt": Link("../x"), "x": b""}, None),
        ("remote-code", "hf:./j", "config.json", {
            "j/config.json": _config(model_type="own", auto_map={"AutoConfig": "own.Own"}),
            "j/own.py": "open('ran', 'w').close()"}, None),
        ("not-there-on-the-hub", "hf:a/b/c/d", "no model folder", {}, None),
        ("loop", "hf:./j", "./j", {"j": Link("j")}, None),
    )
]  # fmt: skip
CASES += [
    Case(f"mined-{name}", f"{_MINE}", says, {**_ONE, **files}, good={"mined": "mined"})
    for name, files, says in (
        ("settings-empty", {_SETTINGS: b""}, "is damaged"),
        ("settings-deep", {_SETTINGS: "[" * 100_000}, "nested too deeply"),
        ("settings-newer", {_SETTINGS: {"format_version": 9}}, "has format version 9"),
        ("done-without-settings", {"mined/mining.json": {"format_version": 1}}, "mined"),
    )
]
CASES += [
    Case("prompts-csv", "run --model demo --prompts p.csv --out out", "only mine takes CSV",
         {"p.csv": "prompt,target\nThe man is,a liar\n"}),
    Case("scorer-without-kind", "run --model demo --scorer x.ckpt --out out", "write detoxify:x.ckpt", {}),
    Case("verify-a-run", "verify whole", "whole/7_checkpoint", good={"whole": "whole"},
         spoil=lambda folder: (folder / "whole/7_checkpoint").mkdir(exist_ok=True)),
]  # fmt: skip
