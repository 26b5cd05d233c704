"""From a name to a judge."""

import re
from pathlib import Path

from tl_toxmem.config import is_local
from tl_toxmem.errors import ToxmemError
from tl_toxmem.scorers.checkpoint import check_checkpoint
from tl_toxmem.scorers.detoxify import DetoxifyScorer, check_config_folder
from tl_toxmem.scorers.huggingface import HuggingFaceScorer
from tl_toxmem.scorers.profanity import ProfanityScorer
from tl_toxmem.scorers.protocol import ToxicityScorer
from tl_toxmem.scorers.published import PUBLISHED, published_file

_DETOXIFY, _HF = "detoxify:", "hf:"
SCORER_NAMES = (
    "profanity",
    *(_DETOXIFY + which for which in PUBLISHED),
    _DETOXIFY + "FILE.ckpt[@FOLDER]",
    _HF + "NAME_OR_FOLDER[#LABEL]",
)


def load_scorer(name: str, *, device: str = "cpu", trust_pickle: bool = False) -> ToxicityScorer:
    """A judge by name; a wrong name, file, hash or label is found here, before any model runs.

    Args:
        name: `profanity`; `detoxify:original`, `:unbiased`, `:multilingual`, `:original-small`,
            `:unbiased-small`; `detoxify:FILE.ckpt`, with `@FOLDER` for its configuration and tokenizer
            (default: the folder `config` beside the file); or `hf:NAME_OR_FOLDER` for a sequence classifier of the
            Hugging Face hub or of a folder, with `#LABEL` for the label that counts (default: the one that says toxic).
        device: where a model runs.
        trust_pickle: open pickled files whose hash is not known, which may run any code: a checkpoint without its
            SHA-256 in its name, `.bin` weights, a profanity model of another version; and let checkpoints run theirs.

    Raises:
        ToxmemError: unknown name, missing package, file or folder, a file whose hash does not fit, a label that is
            not there. What is on a hub is found out at the first `score`.
    """
    if name == "profanity":
        return ProfanityScorer(trust_pickle=trust_pickle)
    if name.startswith(_HF) and name != _HF:
        return _hugging_face(name.removeprefix(_HF), device, trust_pickle)
    which = name.removeprefix(_DETOXIFY)
    if scorer_needs_network(name):
        if published_file(which)[1].is_file():
            check_checkpoint(published_file(which)[1])
        return DetoxifyScorer(which, device=device, trust_pickle=trust_pickle)
    # Only the `@` after the file's ending separates: a path may have others.
    match = re.fullmatch(rf"{_DETOXIFY}(.+?\.ckpt)(?:@(.+))?", name)
    if match is None:
        hint = f"write {_DETOXIFY}{name}, or " if name.endswith(".ckpt") else ""
        raise ToxmemError(f"unknown scorer {name!r}: {hint}choose from {', '.join(SCORER_NAMES)}")
    checkpoint = Path(match[1]).expanduser().absolute()
    config = Path(match[2]).expanduser().absolute() if match[2] else checkpoint.parent / "config"
    check_checkpoint(checkpoint, trust_pickle=trust_pickle)
    check_config_folder(config)
    return DetoxifyScorer(
        checkpoint.name,
        device=device,
        checkpoint=checkpoint,
        config_folder=config,
        trust_pickle=trust_pickle,
    )


def scorer_needs_network(name: str) -> bool:
    """Whether a judge may have to be downloaded."""
    if name.startswith(_HF):
        return not is_local(_source_and_label(name.removeprefix(_HF))[0])
    return name.startswith(_DETOXIFY) and name.removeprefix(_DETOXIFY) in PUBLISHED


def _hugging_face(text: str, device: str, trust_pickle: bool) -> HuggingFaceScorer:
    source, label = _source_and_label(text)
    folder = None
    if is_local(source):
        folder = Path(source).expanduser().absolute()
        if not folder.is_dir():
            raise ToxmemError(
                f"no model folder at {source}: give hf:FOLDER with config.json, or a hub id as hf:OWNER/NAME"
            )
    return HuggingFaceScorer(
        source, label=label, folder=folder, device=device, trust_pickle=trust_pickle
    )


def _source_and_label(text: str) -> tuple[str, str | None]:
    """Divided at the last `#`, unless that is part of a folder's name."""
    source, separator, label = text.rpartition("#")
    if not separator or Path(text).expanduser().is_dir():
        return text, None
    if not source or not label:
        raise ToxmemError(f"unknown scorer {_HF + text!r}: write {SCORER_NAMES[-1]}")
    return source, label
