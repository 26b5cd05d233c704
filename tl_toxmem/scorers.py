"""Judges of toxicity: one protocol, `score(texts) -> [text]` in [0, 1], higher is more toxic.

Two judges: Detoxify (sigmoid of its logit for the label `toxicity`) and an offline profanity model. A Detoxify
checkpoint is a pickle, so the SHA-256 prefix in its file name is checked before it is opened, and a local one
is opened without running pickle code at all.
"""

import pickle
import re
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import sha256_file
from tl_toxmem.progress import in_batches

_PREFIX = "detoxify:"
PUBLISHED = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")
SCORER_NAMES = (
    "profanity",
    *(_PREFIX + which for which in PUBLISHED),
    _PREFIX + "FILE.ckpt[@FOLDER]",
)
_BATCH = 64
_LABEL = "toxicity"
_RENAMED = {"toxic": _LABEL}  # Detoxify's own renaming
_FAMILIES = ("Bert", "Roberta", "Albert", "XLMRoberta")
# In checkpoints of older transformers, and no weights of today's classifiers.
_UNUSED = ("position_ids", ".pooler.")
_VOCABS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


@runtime_checkable
class ToxicityScorer(Protocol):
    """A judge."""

    name: str

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Toxicity of each text in [0, 1]; float32 on the CPU, always [n]."""
        ...

    def provenance(self) -> dict[str, str]:
        """What judged: scorer, package version, SHA-256 of the weights once they are on this machine."""
        ...


def load_scorer(name: str, *, device: str = "cpu") -> ToxicityScorer:
    """A judge by name; a wrong name, file or hash is found here, before any model runs.

    Args:
        name: `profanity`; `detoxify:original`, `:unbiased`, `:multilingual`, `:original-small`,
            `:unbiased-small`; or `detoxify:FILE.ckpt`, with `@FOLDER` for its configuration and tokenizer
            (default: the folder `config` beside the file).
        device: where Detoxify runs.

    Raises:
        ToxmemError: unknown name, missing package, file or folder, or a file whose hash does not fit.
    """
    if name == "profanity":
        return ProfanityScorer()
    which = name.removeprefix(_PREFIX)
    if scorer_needs_network(name):
        if _cache(which)[1].is_file():
            check_checkpoint(_cache(which)[1])
        return DetoxifyScorer(which, device=device)
    # Only the `@` after the file's ending separates: a path may have others.
    match = re.fullmatch(rf"{_PREFIX}(.+?\.ckpt)(?:@(.+))?", name)
    if match is None:
        raise ToxmemError(f"unknown scorer {name!r}: choose from {', '.join(SCORER_NAMES)}")
    checkpoint = Path(match[1]).expanduser().absolute()
    config = Path(match[2]).expanduser().absolute() if match[2] else checkpoint.parent / "config"
    check_checkpoint(checkpoint)
    _check_config_folder(config)
    return DetoxifyScorer(
        checkpoint.name, device=device, checkpoint=checkpoint, config_folder=config
    )


def scorer_needs_network(name: str) -> bool:
    """Whether a judge may have to be downloaded."""
    return name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in PUBLISHED


class ProfanityScorer:
    """`alt-profanity-check`: a linear model trained on 200,000 labelled texts, shipped in its wheel."""

    name = "profanity"

    def __init__(self) -> None:
        if find_spec("profanity_check") is None:
            raise ToxmemError('the scorer "profanity" needs: pip install "tl-toxmem[offline]"')

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Probability of profanity of each text."""
        if not texts:
            return torch.zeros(0)
        from profanity_check import predict_prob

        return torch.as_tensor(predict_prob(list(texts)), dtype=torch.float32)

    def provenance(self) -> dict[str, str]:
        """Versions of the package and of scikit-learn, which runs it, and SHA-256 of its weights."""
        weights = Path(str(resources.files("profanity_check") / "data" / "model.joblib"))
        packages = {name: version(name) for name in ("alt-profanity-check", "scikit-learn")}
        return {"scorer": self.name, **packages, "sha256": sha256_file(weights)}


class DetoxifyScorer:
    """A Detoxify model, built at the first `score`: published (downloaded once), or a local checkpoint."""

    def __init__(
        self,
        which: str,
        *,
        device: str = "cpu",
        checkpoint: Path | None = None,
        config_folder: Path | None = None,
    ) -> None:
        self.name = _PREFIX + which
        self._which, self._device = which, device
        self._published = checkpoint is None
        self._checkpoint = _cache(which)[1] if checkpoint is None else checkpoint
        self._config_folder = config_folder
        self._loaded: tuple[Any, Any, int] | None = None

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Detoxify's `toxicity` of each text, cut to the model's context."""
        result = torch.zeros(len(texts))
        if not texts:
            return result
        if self._loaded is None:
            self._loaded = self._build()
        model, tokenizer, column = self._loaded
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that batches pad little
        for batch in in_batches(order, _BATCH, f"score: {self.name}"):
            inputs = tokenizer(
                [texts[i] for i in batch], return_tensors="pt", truncation=True, padding=True
            ).to(self._device)
            result[batch] = model(**inputs).logits[:, column].float().sigmoid().cpu()
        return result

    def provenance(self) -> dict[str, str]:
        """Versions of Detoxify and transformers, and SHA-256 of the weights."""
        packages = {name: version(name) for name in ("detoxify", "transformers")}
        facts = {"scorer": self.name, **packages}
        if self._checkpoint.is_file():
            facts["sha256"] = sha256_file(self._checkpoint)
        return facts

    def _build(self) -> tuple[Any, Any, int]:
        if self._published:
            _download(self._which)
        check_checkpoint(self._checkpoint)
        content = _open(self._checkpoint, published=self._published)
        try:
            config, state = content["config"], dict(content["state_dict"])
            labels = [_RENAMED.get(c, str(c)) for c in config["dataset"]["args"]["classes"]]
            arch = config["arch"]["args"]
            names = str(arch["model_name"]), str(arch["tokenizer_name"])
            n_classes, source = int(arch["num_classes"]), self._config_folder or arch["model_type"]
        except (KeyError, TypeError, ValueError) as error:
            raise ToxmemError(f"{self._checkpoint} is no Detoxify checkpoint: {error!r}") from None
        if _LABEL not in labels[:n_classes]:
            raise ToxmemError(
                f"{self._checkpoint} has no label {_LABEL!r}; it has {', '.join(labels)}"
            )
        model, tokenizer = self._model_and_tokenizer(*names, n_classes, source)
        _fill(model, state, self._checkpoint)
        return model.to(self._device).eval(), tokenizer, labels.index(_LABEL)

    def _model_and_tokenizer(
        self, model_name: str, tokenizer_name: str, n_classes: int, source: str | Path
    ) -> tuple[Any, Any]:
        """As Detoxify's `get_model_and_tokenizer`, which asks the hub and leaves missing weights random."""
        import transformers

        for name, kind in (
            (model_name, "ForSequenceClassification"),
            (tokenizer_name, "Tokenizer"),
        ):
            if name.removesuffix("Fast") not in (known := [family + kind for family in _FAMILIES]):
                raise ToxmemError(
                    f"{self._checkpoint} asks for {name}; choose from {', '.join(known)}"
                )
        model_class: Any = getattr(transformers, model_name)
        tokenizer_class: Any = getattr(transformers, tokenizer_name)
        local = self._config_folder is not None
        try:
            # `num_classes` may exceed the labels: `unbiased` has 9 identities after its 7.
            config = model_class.config_class.from_pretrained(
                source, num_labels=n_classes, local_files_only=local
            )
            tokenizer = tokenizer_class.from_pretrained(source, local_files_only=local)
        except (OSError, ValueError, KeyError) as error:
            raise ToxmemError(
                f"cannot read the configuration and tokenizer of {self.name} in {source}: {_brief(error)}"
            ) from None
        # transformers makes an empty tokenizer where it finds no vocabulary of its kind.
        vocabulary = tokenizer.get_vocab()
        empty = set(vocabulary) <= set(tokenizer.all_special_tokens)
        if empty or max(vocabulary.values()) >= config.vocab_size:
            raise ToxmemError(
                f"the {tokenizer_name} in {source} has {len(vocabulary)} tokens, the model {config.vocab_size}: "
                f"give the checkpoint's own tokenizer files"
            )
        # RoBERTa counts positions from after its padding index.
        first = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        limit = config.max_position_embeddings - first
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
            return model_class(config), tokenizer


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint whose content is not what its name says, without opening it as a pickle.

    Raises:
        ToxmemError: missing, no SHA-256 prefix in the name, or another hash.
    """
    if not path.is_file():
        raise ToxmemError(f"no Detoxify checkpoint at {path}")
    match = re.search(r"-([0-9a-f]{8,64})\.ckpt$", path.name)
    found = sha256_file(path)
    if match is None:
        raise ToxmemError(
            f"{path} does not carry its SHA-256 (as in name-bd4cf006.ckpt), so it is not opened: "
            f"if you trust it, rename it to end in -{found[:8]}.ckpt"
        )
    if not found.startswith(match[1]):
        raise ToxmemError(
            f"{path} is damaged or not what it says: its SHA-256 begins {found[:8]}, not {match[1]}; "
            f"get it again"
        )


def _check_config_folder(folder: Path) -> None:
    """Refuse a folder without configuration or vocabulary."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if "config.json" not in names or names.isdisjoint(_VOCABS):
        raise ToxmemError(
            f"{folder} lacks config.json or a tokenizer file: give the checkpoint's configuration and "
            f"tokenizer folder as {_PREFIX}FILE.ckpt@FOLDER"
        )


def _open(path: Path, *, published: bool) -> Any:
    """The content of a checkpoint whose hash was checked; only a published one may run pickle code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        if published and isinstance(error, pickle.UnpicklingError):
            return torch.load(path, map_location="cpu", weights_only=False)
        raise ToxmemError(
            f"{path} cannot be opened as tensors and plain values: {_brief(error)}"
        ) from None


def _fill(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the weights in, all of them: a judge with random weights left would still answer."""
    try:
        found = model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ToxmemError(f"{path} does not fit its configuration: {_brief(error)}") from None
    extra = [key for key in found.unexpected_keys if not any(part in key for part in _UNUSED)]
    for problem, keys in (("lacks", found.missing_keys), ("has no place for", extra)):
        if keys:
            raise ToxmemError(
                f"{path} does not fit its configuration: it {problem} {', '.join(keys[:3])}"
            )


def _cache(which: str) -> tuple[str, Path]:
    """Detoxify's URL of a published model, and where it keeps its file: torch.hub's cache."""
    from detoxify.detoxify import MODEL_URLS

    url: str = MODEL_URLS[which]
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _download(which: str) -> None:
    """Fetch Detoxify's own file into the place where Detoxify keeps it, unless it is there."""
    url, path = _cache(which)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=False
        )
    except (OSError, RuntimeError) as error:
        raise ToxmemError(
            f"cannot download {_PREFIX}{which} from {url} ({_brief(error)}): go online once, put the file "
            f"into {path.parent}, or use a local {_PREFIX}FILE.ckpt"
        ) from None


def _brief(error: Exception) -> str:
    """An error of another library in one short line."""
    return " ".join(str(error).split())[:200]
