"""Detoxify's models: published ones by name, and local checkpoints in its format.

Detoxify asks transformers for the configuration of the checkpoint's `model_type`, a hub id or a relative path, before
it looks at the folder it is given; and it leaves weights that are missing at random. Here a local checkpoint needs
nothing but its own folder, from any working directory, and has to be complete.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tl_toxmem.contained import check_contained, readable
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import sha256_file
from tl_toxmem.scorers.built_late import BuiltLate
from tl_toxmem.scorers.checkpoint import check_checkpoint, fill, open_checkpoint
from tl_toxmem.scorers.classifier import Classifier, fit_tokenizer
from tl_toxmem.scorers.hashes import config_sha256
from tl_toxmem.scorers.published import download, published_file

_LABEL = "toxicity"
_RENAMED = {"toxic": _LABEL}  # Detoxify's own renaming
_FAMILIES = ("Bert", "Roberta", "Albert", "XLMRoberta")
_VOCABS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


class DetoxifyScorer(BuiltLate):
    """A Detoxify model, built at the first `score`: published (downloaded once), or a local checkpoint."""

    def __init__(
        self,
        which: str,
        *,
        device: str = "cpu",
        checkpoint: Path | None = None,
        config_folder: Path | None = None,
        trust_pickle: bool = False,
    ) -> None:
        self.name = f"detoxify:{which}"
        self._which, self._device, self._trust = which, device, trust_pickle
        self._published = checkpoint is None
        self._checkpoint = published_file(which)[1] if checkpoint is None else checkpoint
        self._config_folder = config_folder
        self._sha256: str | None = None

    def provenance(self) -> dict[str, str]:
        """Label, versions of Detoxify and transformers, SHA-256 of the weights and of a local configuration."""
        packages = {name: version(name) for name in ("detoxify", "transformers")}
        facts = {"scorer": self.name, "label": _LABEL, **packages}
        if self._sha256 is None and self._checkpoint.is_file():
            self._sha256 = sha256_file(self._checkpoint)
        if self._sha256 is not None:
            facts["sha256"] = self._sha256
        if self._config_folder is not None:
            facts["config_sha256"] = config_sha256(self._config_folder)
        return facts

    def _build(self) -> Classifier:
        if self._published:
            download(self._which)
        self._sha256 = check_checkpoint(self._checkpoint, trust_pickle=self._trust)
        content = open_checkpoint(self._checkpoint, run_code=self._trust)
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
        fill(model, state, self._checkpoint)
        fit_tokenizer(tokenizer, model, where=str(source))
        model = model.to(self._device).eval()
        return Classifier(self.name, model, tokenizer, labels.index(_LABEL), "sigmoid")

    def _model_and_tokenizer(
        self, model_name: str, tokenizer_name: str, n_classes: int, source: str | Path
    ) -> tuple[Any, Any]:
        """As Detoxify's `get_model_and_tokenizer`, without weights."""
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
        with readable(f"{self.name}: the configuration or tokenizer in {source}"):
            # `num_classes` may exceed the labels: `unbiased` has 9 identities after its 7.
            config = model_class.config_class.from_pretrained(
                source, num_labels=n_classes, local_files_only=local
            )
            tokenizer = tokenizer_class.from_pretrained(source, local_files_only=local)
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
            return model_class(config), tokenizer


def check_config_folder(folder: Path) -> None:
    """Refuse a folder without configuration or vocabulary.

    Raises:
        ToxmemError: saying how to name another.
    """
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if "config.json" not in names or names.isdisjoint(_VOCABS):
        raise ToxmemError(
            f"{folder} lacks config.json or a tokenizer file: give the checkpoint's configuration and "
            f"tokenizer folder as detoxify:FILE.ckpt@FOLDER"
        )
    check_contained(folder)
