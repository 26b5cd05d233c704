"""Export: bake, reload, compare, certify; a folder that plain transformers loads, or no folder at all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tl_toxmem.baking import bake, for_model
from tl_toxmem.card import model_card
from tl_toxmem.certificate import Certificate, check_files
from tl_toxmem.certify import certify
from tl_toxmem.config import DEMO, ExportConfig, read_toml, shown_name
from tl_toxmem.deletion import Deletion
from tl_toxmem.delta import Original, save_deletion
from tl_toxmem.display import Display, Displayed
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import Evaluation
from tl_toxmem.filebake import DELETION_FILE, MAX_ORIGINALS, bake_into
from tl_toxmem.files import new_folder
from tl_toxmem.model import LensModel
from tl_toxmem.model.load import TOKENIZER_FILES, Source, read_config, read_tokenizer
from tl_toxmem.places import drop_places
from tl_toxmem.store import CONFIG
from tl_toxmem.weights import WeightFiles


@dataclass(frozen=True, repr=False)
class Checkpoint(Displayed):
    """An exported folder and its certificate."""

    folder: Path
    certificate: Certificate

    def display(self) -> Display:
        """Where it is, and its certificate."""
        shown = self.certificate.display()
        return replace(shown, headline=f"{self.folder}: {shown.headline}")


def export_checkpoint(
    model: LensModel,
    deletion: Deletion,
    folder: str | Path,
    *,
    prompts: Sequence[str],
    evaluation: Evaluation | None = None,
    datasets: Sequence[str] = (),
    cfg: ExportConfig | None = None,
    force: bool = False,
) -> Checkpoint:
    """Bake the deletion into Hugging Face weights and prove that the folder is the hooked model.

    A model that came from a checkpoint is exported from its files, in their own precision and layout, whatever
    precision it was loaded in. The model itself is bit-identical afterwards.

    Args:
        model: raw weights.
        deletion: what to bake.
        folder: must not exist yet.
        prompts: held-out texts that the comparison is made on; `cfg.n_prompts` of them.
        evaluation: results for the model card.
        datasets: where the prompts are from, for the model card.
        cfg: bounds and sizes.
        force: bake also into another model than the deletion says that it was made for; the certificate says so.

    Raises:
        ToxmemError: the folder exists, the weights cannot be baked, another model than the deletion was made for,
            or the certificate does not pass; then nothing is left behind.
    """
    cfg = cfg or ExportConfig()
    if isinstance(prompts, str):
        raise ToxmemError("export needs a list of prompts, not one text")
    texts = list(prompts)[: cfg.n_prompts]
    if not texts:
        raise ToxmemError("export needs at least one held-out prompt to compare on")
    base_model = shown_name(model.name)
    with new_folder(Path(folder)) as partial:
        deletion = _bake_to(model, deletion, partial, force=force)
        card = model_card(
            model,
            deletion,
            base_model=base_model,
            evaluation=evaluation,
            datasets=datasets,
            forced=deletion.forced,
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
        certificate = certify(
            model, deletion, partial, prompts=texts, base_model=base_model, cfg=cfg
        )
        if not certificate.passed:
            raise ToxmemError(f"nothing exported: {certificate.problem()}")
        certificate.write(partial)
    return Checkpoint(Path(folder), certificate)


def _bake_to(model: LensModel, deletion: Deletion, folder: Path, *, force: bool) -> Deletion:
    """Write the edited weights with their companions and the delta; the deletion with this model as its base."""
    hf = model.clean_hf()  # also where it is only asked whether the model can be baked
    if model.source is not None:
        applied = bake_into(model.source, folder, deletion, force=force)
        if not model.own_tokenizer:
            for name in TOKENIZER_FILES:
                (folder / name).unlink(missing_ok=True)
            model.tokenizer.save_pretrained(folder)
            drop_places(folder)
        return replace(deletion, base=applied.deletion.base)
    parameters = {name: p.data for name, p in hf.named_parameters()}
    deletion = for_model(
        deletion,
        model.arch,
        parameters.get,
        name=model.name,
        revision=None,
        where="the model",
        force=force,
    )
    undo = bake(hf, deletion, force=True)
    try:
        hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    finally:
        undo.restore()
    drop_places(folder)
    originals = {kept.name: Original(kept.neurons, kept.values) for kept in undo.kept}
    small = sum(original.values.nbytes for original in originals.values()) <= MAX_ORIGINALS
    save_deletion(deletion, folder / DELETION_FILE, originals=originals if small else None)
    return deletion


def _base_of(certificate: Certificate, folder: Path) -> str:
    """The unedited model: of the hub, the demo, or the one that the run is of in whose folder the checkpoint lies.

    Raises:
        ToxmemError: none of these; a certificate does not say where somebody's folders are.
    """
    if certificate.base_revision is not None or certificate.base_model == DEMO:
        return certificate.base_model
    run = folder.absolute().parent / CONFIG
    model = read_toml(run).get("model") if run.is_file() else None
    if isinstance(model, str) and shown_name(model) == certificate.base_model:
        return model
    raise ToxmemError(f"{certificate.base_model} is on no hub")


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
    check_files(folder, old)
    read_config(Source(str(folder), folder))
    deletion = Deletion.load(folder / DELETION_FILE)
    if deletion.base is None:
        raise ToxmemError(
            f"{folder / DELETION_FILE} is damaged: it does not say what it was applied to"
        )
    try:
        model = LensModel.from_pretrained(
            base or _base_of(old, folder),
            tokenizer=read_tokenizer(folder, where=str(folder)),
            revision=old.base_revision if base is None else None,
            prepend_bos=old.prepend_bos,
        )
    except ToxmemError as error:
        raise ToxmemError(
            f"the unedited model is needed to verify: {error}; name it with --base"
        ) from None
    if model.source is not None:
        deletion.base.check(
            WeightFiles(model.source.folder).read,
            architecture=model.arch.model_type,
            where=model.source.name,
        )
    default = ExportConfig()  # a certificate does not set its own standard
    cfg = ExportConfig(
        bound=min(old.bound, default.bound),
        min_effect=max(old.min_effect, default.min_effect),
        max_new_tokens=old.max_new_tokens,
        n_prompts=len(old.prompts),
    )
    return certify(
        model,
        deletion,
        folder,
        prompts=old.prompts,
        base_model=old.base_model,
        cfg=cfg,
    )
