"""Any Hugging Face sequence classifier as a judge: a folder or a hub id, and which of its labels is toxicity.

Its weights are safetensors; pickled ones are opened only if they are trusted. No code of a repository is run. A model
whose classification head is not in the file is refused: transformers would make up a random one.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tl_toxmem.contained import check_contained, readable
from tl_toxmem.errors import ToxmemError, brief
from tl_toxmem.scorers.built_late import BuiltLate
from tl_toxmem.scorers.checkpoint import check_keys
from tl_toxmem.scorers.classifier import Classifier, fit_tokenizer
from tl_toxmem.scorers.hashes import config_sha256, files_sha256
from tl_toxmem.scorers.labels import output_of, pick_label

_CONFIG_FILES = ("*.json", "*.txt", "*.model")
_SAFE, _PICKLED = "model*.safetensors", "pytorch_model*.bin"


class HuggingFaceScorer(BuiltLate):
    """A sequence classifier; of a folder, all but the weights is checked at once, the rest at the first `score`."""

    def __init__(
        self,
        source: str,
        *,
        label: str | None = None,
        folder: Path | None = None,
        device: str = "cpu",
        trust_pickle: bool = False,
    ) -> None:
        """`folder` is where the model lies; None fetches `source` from the hub at the first `score`.

        Raises:
            ToxmemError: a folder that lacks something, or has no such label.
        """
        shown = source if folder is None else folder.name
        self.name = f"hf:{shown}" + (f"#{label}" if label else "")
        self._source, self._label, self._folder = source, label, folder
        self._device, self._trust = device, trust_pickle
        self._facts: dict[str, str] | None = None
        if folder is not None:
            self._facts = self._inspect(folder)

    def provenance(self) -> dict[str, str]:
        """Label, version of transformers, the hub's commit, SHA-256 of weights and of configuration and tokenizer.

        Label, commit and hashes of a hub model are known once it is on this machine.
        """
        return {
            "scorer": self.name,
            "transformers": version("transformers"),
            **(self._facts or {}),
        }

    def _build(self) -> Classifier:
        if self._folder is None:
            self._folder = self._fetch()
        folder, where = self._folder, self.name
        self._facts = self._inspect(folder)
        config = self._config(folder)
        import transformers

        loader: Any = transformers.AutoModelForSequenceClassification
        tokenizers: Any = transformers.AutoTokenizer
        with readable(f"{where} in {folder}"), torch.random.fork_rng(devices=[]):
            model, info = loader.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=bool(list(folder.glob(_SAFE))),
                output_loading_info=True,
            )
            tokenizer = tokenizers.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        check_keys(info["missing_keys"], info["unexpected_keys"], where=where)
        fit_tokenizer(tokenizer, model, where=str(folder))
        column = pick_label(_labels(config), self._label, where=where)
        output = output_of(config, where=where)
        return Classifier(where, model.to(self._device).eval(), tokenizer, column, output)

    def _inspect(self, folder: Path) -> dict[str, str]:
        """What the files say of themselves, with everything refused that can be without loading the model."""
        if not (folder / "config.json").is_file():
            raise ToxmemError(f"{self.name}: {folder} is no model folder: it has no config.json")
        config = self._config(folder)
        labels = _labels(config)
        column = pick_label(labels, self._label, where=self.name)
        output_of(config, where=self.name)
        weights = list(folder.glob(_SAFE))
        if not weights and not (weights := list(folder.glob(_PICKLED))):
            raise ToxmemError(f"{self.name}: {folder} has no weights ({_SAFE})")
        if weights[0].suffix == ".bin" and not self._trust:
            raise ToxmemError(_no_pickle(self.name))
        facts = {"label": labels[column], "sha256": files_sha256(weights)}
        facts["config_sha256"] = config_sha256(folder)
        if (
            folder.parent.name == "snapshots"
        ):  # of the hub's cache, where a folder is named by its commit
            facts["revision"] = folder.name
        return facts

    def _config(self, folder: Path) -> Any:
        import transformers

        configs: Any = transformers.AutoConfig
        check_contained(folder)
        with readable(f"{self.name}: config.json"):
            return configs.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    def _fetch(self) -> Path:
        """The hub's files in its cache: safetensors, or what is pickled if there are none and it is trusted."""
        import huggingface_hub as hub
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            # Safetensors alone, no code is run, and the commit is told in the provenance.
            patterns = [*_CONFIG_FILES, _SAFE]
            found = hub.snapshot_download(self._source, allow_patterns=patterns)  # nosec B615
            folder = Path(found)
            if not list(folder.glob(_SAFE)):
                if not self._trust:
                    raise ToxmemError(_no_pickle(self.name))
                patterns = [*_CONFIG_FILES, _PICKLED]
                folder = Path(
                    hub.snapshot_download(
                        self._source, revision=folder.name, allow_patterns=patterns
                    )
                )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ToxmemError(
                f"{self._source!r} is no local folder and cannot be had from the Hugging Face hub ({brief(error)}): "
                "give hf:FOLDER with a sequence classifier, or a hub id as hf:OWNER/NAME"
            ) from None
        return folder


def _labels(config: Any) -> list[str]:
    return [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]


def _no_pickle(name: str) -> str:
    return (
        f"{name} has no .safetensors weights, and pickled .bin files are not opened: save it as safetensors, or give "
        "--trust-pickle if you trust who made them"
    )
