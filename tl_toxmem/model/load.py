"""From a name to a Hugging Face model and its tokenizer, with the hub asked only for a hub id."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tl_toxmem.config import DEMO, is_local
from tl_toxmem.contained import check_contained, read_object, readable
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import sha256_file
from tl_toxmem.model.shell import shell
from tl_toxmem.precision import check_device
from tl_toxmem.sites import Architecture, architecture
from tl_toxmem.weights import WeightFiles

HUB_FILES = (
    "*.json",
    "model*.safetensors",
    "*.txt",
    "*.model",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    "README.md",
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


# Embeddings are often padded beyond the tokens, to a multiple of up to 512 or with rows to spare: Pythia 12B has
# 50,277 tokens and 50,688 rows, Qwen2 151,646 and 152,064, DeepSeek LLM (a Llama) 100,015 and 102,400: 3 % at most.
MAX_PADDING, MIN_PADDING = 0.1, 512


@dataclass(frozen=True)
class Source:
    """Where a model came from: the name as given, the folder it lies in, the hub's commit if any."""

    name: str
    folder: Path
    revision: str | None = None


def demo_folder() -> Path:
    """The embedded demo model."""
    return Path(str(resources.files("tl_toxmem") / "assets" / "demo"))


def find_source(name: str | Path, *, revision: str | None = None) -> Source:
    """Resolve `demo`, a local folder or a hub id (downloaded or found in the cache) to a folder.

    Raises:
        ToxmemError: no such folder, or a hub id that cannot be had.
    """
    text = str(name)
    if revision is not None and is_local(text):
        raise ToxmemError(f"revision {revision!r}: only a hub id has revisions")
    if text == DEMO:
        return Source(DEMO, demo_folder())
    if is_local(text):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise ToxmemError(
                f"no model folder at {text}: give a folder with config.json, a hub id, or 'demo'"
            )
        # With its ./ it is a path wherever it is read again, and never a hub id.
        return Source(text if text.startswith((".", "/", "~")) else f"./{text}", folder)
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            hub.snapshot_download(text, revision=revision, allow_patterns=list(HUB_FILES))
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ToxmemError(
            f"model {text!r} is no local folder and cannot be had from the Hugging Face hub ({reason}); "
            "give a folder with config.json, a hub id, or 'demo'"
        ) from None
    return Source(text, folder, folder.name)


def fingerprint(source: Source) -> str:
    """What a checkpoint is: the hub's commit, or the SHA-256 over its local configurations, weights and tokenizer."""
    if source.revision is not None:
        return f"{source.name}@{source.revision}"
    total = hashlib.sha256()
    names = {"config.json", "generation_config.json", *TOKENIZER_FILES}
    for file in sorted(source.folder.iterdir()):
        if file.name in names or file.name.endswith((".safetensors", ".safetensors.index.json")):
            total.update(f"{file.name} {sha256_file(file)}\n".encode())
    return total.hexdigest()


def read_architecture(source: Source) -> Architecture:
    """The architecture of a checkpoint folder, from its config.json alone.

    Raises:
        ToxmemError: no config.json, or an architecture that is not supported.
    """
    return architecture(read_config(source).model_type, where=source.name)


def read_config(source: Source) -> Any:
    """The configuration of a checkpoint folder whose files do not lead out of it.

    Raises:
        ToxmemError: none, damaged, of an architecture that is not supported, or a folder that leads elsewhere.
    """
    folder = source.folder
    if not (folder / "config.json").is_file():
        inside = folder / "7_checkpoint"
        hint = f"; of a run folder, give {inside}" if inside.is_dir() else ""
        raise ToxmemError(f"{source.name} is no model folder: it has no config.json{hint}")
    check_contained(folder)
    kind = read_object(folder / "config.json").get("model_type")
    if not isinstance(kind, str):
        raise ToxmemError(f"{source.name}: config.json cannot be read (it has no model_type)")
    architecture(kind, where=source.name)
    with readable(f"{source.name}: config.json"):
        return AutoConfig.from_pretrained(  # nosec B615 # a folder, never the hub
            folder, local_files_only=True, trust_remote_code=False
        )


def load_hf(source: Source, *, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The checkpoint as plain transformers loads it, in eval mode, gradients off.

    Raises:
        ToxmemError: missing or damaged weights, or weights that do not fit the configuration.
    """
    place = check_device(device, dtype)
    config = read_config(source)
    arch, n_layers = architecture(config.model_type, where=source.name), config.num_hidden_layers
    if not list(source.folder.glob("*.safetensors")):
        raise ToxmemError(
            f"{source.name} has no .safetensors weights (pickled .bin files are not opened)"
        )
    last = arch.w_out.format(layer=n_layers - 1)
    if last not in WeightFiles(source.folder):
        raise ToxmemError(f"{source.name}: weights missing or of another shape: {last}")
    with readable(f"{source.name}: the weights"):
        loader: Any = AutoModelForCausalLM  # its return type depends on output_loading_info
        hf, info = loader.from_pretrained(
            source.folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        bad = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
        raise ToxmemError(
            f"{source.name}: weights missing or of another shape: {', '.join(bad[:3])}"
        )
    hf.requires_grad_(False)
    model: PreTrainedModel = hf.to(place).eval()
    return model


def load_tokenizer(source: Source, *, d_vocab: int) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer; a fast one, since subjects are found by character offsets.

    Raises:
        ToxmemError: no tokenizer files, a slow tokenizer, or more tokens than the model has.
    """
    if not any((source.folder / name).is_file() for name in VOCABULARIES):
        names = ", ".join(VOCABULARIES)
        raise ToxmemError(
            f"{source.name} has no tokenizer files ({names}): save the tokenizer there, or give tokenizer="
        )
    tokenizer = read_tokenizer(source.folder, where=source.name)
    return check_tokenizer(tokenizer, d_vocab=d_vocab, where=f"the tokenizer of {source.name}")


def read_tokenizer(folder: Path, *, where: str) -> Any:
    """The tokenizer of a folder, as plain transformers reads it.

    Raises:
        ToxmemError: damaged.
    """
    with readable(f"{where}: the tokenizer"):
        return AutoTokenizer.from_pretrained(  # nosec B615 # a folder, never the hub
            folder, local_files_only=True, trust_remote_code=False
        )


def check_tokenizer(tokenizer: Any, *, d_vocab: int, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer itself, once it is known to fit.

    It has at most as many tokens as the embedding has rows, and fewer only as far as embeddings are padded: by a
    tenth of the rows, or by 512.

    Raises:
        ToxmemError: a slow tokenizer, or one with more tokens or many fewer than the model.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ToxmemError(
            f"{where} is a slow tokenizer without character offsets: give a fast one (tokenizer.json)"
        )
    n = 1 + max(tokenizer.get_vocab().values())  # ids may have gaps
    padding = max(MIN_PADDING, int(MAX_PADDING * d_vocab))
    if not d_vocab - padding <= n <= d_vocab:
        raise ToxmemError(
            f"{where} has {n} tokens but the model has rows for {d_vocab}: not its tokenizer"
        )
    checked: PreTrainedTokenizerBase = tokenizer
    return checked


def vocabulary_size(hf: PreTrainedModel) -> int:
    """Rows of the embedding."""
    embedding: Any = hf.get_input_embeddings().weight
    return int(embedding.shape[0])


def from_object(
    model: PreTrainedModel, *, dtype: torch.dtype | None, device: str | None
) -> PreTrainedModel:
    """A model object as one of our own around the same tensors, so that the given one stays as it is.

    Raises:
        ToxmemError: a class without logits, adapters, tensors of several precisions or on several devices, or
            another precision or device than is asked for.
    """
    kind = type(model).__name__
    wanted = architecture(model.config.model_type, where=f"the model object ({kind})").hf_class
    if kind != wanted:
        raise ToxmemError(
            f"the model object is a {kind}: give the {wanted}, without adapters around it"
        )
    kinds = {(p.dtype, p.device) for p in model.parameters()}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ToxmemError(
            f"the model object has tensors in {found}: convert it to one of them first"
        )
    own = next(iter(kinds))
    place = own[1] if device is None else check_device(device, own[0])
    same_place = place.type == own[1].type and place.index in (None, own[1].index)
    if not same_place or dtype not in (None, own[0]):
        raise ToxmemError(
            f"the model object is in {own[0]} on {own[1]}, not {dtype or own[0]} on {place}: convert it by "
            "model.to(...) first"
        )
    check_device(str(own[1]), own[0])
    state = model.state_dict(keep_vars=True)
    with torch.device("meta"):
        differ = sorted(state.keys() ^ type(model)(model.config).state_dict().keys())
    if any("_original_component" in name for name in differ):
        raise ToxmemError(
            "the model object is inside a TransformerBridge: give that to LensModel.wrap"
        )
    if differ:
        raise ToxmemError(
            f"the model object is no plain {kind}: {differ[0]} is in only one of the two (merge adapters first)"
        )
    return shell(model, state=state, buffers=dict(model.named_buffers()))


def positions_of(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions that begin at 0 with each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def plain_log_probs(
    hf: PreTrainedModel, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """What plain transformers says: next-token log-probabilities of a left-padded batch, float64."""
    positions = positions_of(mask)
    run: Any = hf
    logits: Tensor = run(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
    return logits.double().log_softmax(-1)
