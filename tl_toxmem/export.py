"""Export: bake, save, reload, compare, certify; a folder that plain transformers loads, or no folder at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tl_toxmem.baking import bake
from tl_toxmem.card import model_card
from tl_toxmem.certificate import FILE, Certificate, certify
from tl_toxmem.config import ExportConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import Evaluation
from tl_toxmem.files import TEMPORARY, sha256_file
from tl_toxmem.model import LensModel
from tl_toxmem.model.load import TOKENIZER_FILES

DELETION_FILE = "deletion.safetensors"
EXPORTABLE = ("float32", "float64")


@dataclass(frozen=True)
class Checkpoint:
    """An exported folder and its certificate."""

    folder: Path
    certificate: Certificate


def export_checkpoint(
    model: LensModel,
    deletion: Deletion,
    folder: str | Path,
    *,
    prompts: Sequence[str],
    evaluation: Evaluation | None = None,
    cfg: ExportConfig | None = None,
) -> Checkpoint:
    """Bake the deletion into Hugging Face weights and prove that the folder is the hooked model.

    The model itself is bit-identical afterwards.

    Args:
        model: raw weights in float32 or float64.
        deletion: what to bake.
        folder: must not exist yet.
        prompts: held-out texts that the comparison is made on; `cfg.n_prompts` of them.
        evaluation: results for the model card.
        cfg: bounds and sizes.

    Raises:
        ToxmemError: the folder exists, the weights cannot be baked, or the certificate does not pass; then
            nothing is left behind.
    """
    cfg = cfg or ExportConfig()
    folder = Path(folder)
    if folder.exists():
        raise ToxmemError(f"{folder} exists: export to a folder that does not")
    if str(model.dtype).removeprefix("torch.") not in EXPORTABLE:
        raise ToxmemError(
            f"export is certified in float32: load the model with dtype float32, not {model.dtype}"
        )
    texts = list(prompts)[: cfg.n_prompts]
    if not texts:
        raise ToxmemError("export needs at least one held-out prompt to compare on")
    base_model = model.source.name if model.source else "unknown"
    partial = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _save_baked(model, deletion, partial)
        _save_tokenizer(model, partial)
        deletion.save(partial / DELETION_FILE)
        card = model_card(model, deletion, base_model=base_model, evaluation=evaluation)
        (partial / "README.md").write_text(card, encoding="utf-8")
        certificate = certify(
            model, deletion, partial, prompts=texts, base_model=base_model, cfg=cfg
        )
        if not certificate.passed:
            raise ToxmemError(f"nothing exported: {certificate.problem()}")
        certificate.write(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Checkpoint(folder, certificate)


def _save_baked(model: LensModel, deletion: Deletion, folder: Path) -> None:
    hf = model.clean_hf()
    undo = bake(hf, deletion)
    try:
        hf.save_pretrained(folder)
    finally:
        undo.restore()


def _save_tokenizer(model: LensModel, folder: Path) -> None:
    """The base's own files byte for byte where they are at hand."""
    source = model.source.folder if model.source else None
    found = (
        [source / name for name in TOKENIZER_FILES if (source / name).is_file()] if source else []
    )
    for file in found:
        shutil.copyfile(file, folder / file.name)
    if not found:
        model.tokenizer.save_pretrained(folder)


def verify_checkpoint(folder: str | Path, *, base: str | Path | None = None) -> Certificate:
    """Repeat the comparison that an exported folder was certified by.

    Args:
        folder: made by `export_checkpoint`.
        base: the unedited model, if it is no longer where the certificate says.

    Returns:
        A fresh certificate; its `passed` says how it went.

    Raises:
        ToxmemError: no such checkpoint, a file that is missing, was changed or added since, or no base model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ToxmemError(f"no checkpoint folder at {folder}")
    old = Certificate.read(folder)
    for name, expected in old.sha256.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ToxmemError(f"{path} is missing, though {FILE} lists it")
        if sha256_file(path) != expected:
            raise ToxmemError(f"{path} was changed after it was certified (SHA-256 differs)")
    unlisted = sorted(p.name for p in folder.iterdir() if p.name not in (FILE, *old.sha256))
    if unlisted:
        raise ToxmemError(f"{folder / unlisted[0]} is not listed in {FILE}: it was added later")
    deletion = Deletion.load(folder / DELETION_FILE)
    try:
        model = LensModel.from_pretrained(
            base or old.base_model,
            revision=old.base_revision if base is None else None,
            prepend_bos=old.prepend_bos,
        )
    except ToxmemError as error:
        raise ToxmemError(
            f"the unedited model is needed to verify: {error}; name it with --base"
        ) from None
    default = ExportConfig()  # a certificate does not set its own standard
    cfg = ExportConfig(
        bound=min(old.bound, default.bound),
        min_effect=max(old.min_effect, default.min_effect),
        max_new_tokens=old.max_new_tokens,
        n_prompts=len(old.prompts),
    )
    return certify(model, deletion, folder, prompts=old.prompts, base_model=old.base_model, cfg=cfg)
