"""The good things that cases begin with, made once: small, and without a forward pass where that can be."""

import json
from pathlib import Path

PROMPTS = "".join(
    json.dumps({"prompt": f"Bob {i} is a", "target": " fool", "subject": "Bob"}) + "\n"
    for i in range(12)
)


def make(folder: Path, model: Path) -> dict[str, Path]:
    """By name: a model, the same in shards, an edited one with its delta, a certified one, a run that has
    begun, one that is finished, and a mining folder.

    Args:
        folder: where they go.
        model: a tiny checkpoint.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from tl_toxmem import Deletion, LensModel, NeuronSet, export_checkpoint
    from tl_toxmem.certify import library_versions
    from tl_toxmem.config import make_config
    from tl_toxmem.filebake import bake_checkpoint
    from tl_toxmem.pipeline.inputs import read_inputs
    from tl_toxmem.pipeline.opening import open_folder

    sharded = folder / "sharded"
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(sharded, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (sharded / name).write_bytes((model / name).read_bytes())
    law = Deletion.zero(NeuronSet(((0, 1), (1, 2)), *_shape(model)))
    bake_checkpoint(model, folder / "edited", law)
    lens = LensModel.from_pretrained(model, dtype=torch.float32)
    export_checkpoint(lens, law, folder / "certified", prompts=["Bob is a"])
    cfg = make_config({"model": "demo", "out": str(folder / "run")})
    inputs = read_inputs(cfg)
    (folder / "run").mkdir()
    run = open_folder(cfg, inputs.hashes, versions=library_versions(), done=())
    with run.making("prompts") as aside:
        aside.artefact("prompts").write_text(inputs.prompts.to_jsonl(), encoding="utf-8")
        run.commit("prompts", cfg, inputs.hashes, ["prompts"])
    _whole(folder / "whole")
    mined = folder / "mined"
    mined.mkdir()
    (mined / "settings.json").write_text(json.dumps({"format_version": 1, "model": {}}))
    return {"model": model, **{path.name: path for path in folder.iterdir()}}


def _whole(out: Path) -> None:
    """A finished run folder as its hashes say; of what no command that makes nothing reads, any content will do."""
    from reader_seeds import certificate, deletion, evaluation, scores, selected, trace

    from tl_toxmem.certify import library_versions
    from tl_toxmem.config import STAGES, make_config
    from tl_toxmem.pipeline.inputs import read_inputs
    from tl_toxmem.pipeline.opening import open_folder

    cfg = make_config({"model": "demo", "out": str(out)})
    inputs = read_inputs(cfg)
    out.mkdir()
    run = open_folder(cfg, inputs.hashes, versions=library_versions(), done=())
    writers = {
        "prompts": inputs.prompts.write,
        "trace": trace().save,
        "attribute": scores().save,
        "select": selected().save,
        "delete": deletion().save,
        "evaluate": evaluation().save,
        "export": lambda path: (path.mkdir(), certificate().write(path)),
    }
    for stage, write in writers.items():
        with run.making(stage) as aside:
            write(aside.artefact(stage))
            run.commit(stage, cfg, inputs.hashes, STAGES[STAGES.index(stage) :])


def _shape(model: Path) -> tuple[int, int]:
    config = json.loads((model / "config.json").read_text())
    return config["n_layer"], config["n_inner"] or 4 * config["n_embd"]
