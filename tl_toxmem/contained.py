"""A checkpoint folder may be somebody else's: what its files name must lie in it.

Plain transformers follows an index to its shards, a tokenizer's configuration to its files, an adapter to its model and
a configuration to other configurations, weights or kernels, wherever they are; a link may stand for a file that is
nobody's business, and would be copied into an export.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from tl_toxmem.errors import ToxmemError
from tl_toxmem.reading import parse_json
from tl_toxmem.weights import INDEX, SINGLE, model_files

_PLAIN = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*")
_OF_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    AssertionError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises of damaged files, by where it stumbles: it checks little of what it reads."""
_LEADS_ON = {
    "transformers_weights": f"names its weights (transformers_weights): save them as {SINGLE}",
    "configuration_files": "names other configurations (configuration_files): keep the one you mean, as config.json",
    "attribute_map": "renames its values (attribute_map): call them by the names that transformers has",
}
"""Keys of a config.json by which transformers comes to read something else than what stands there."""
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
"""Transformers takes such a value with a slash in it for a kernel of a hub: code to be fetched and run."""
_COMMIT = re.compile("[0-9a-f]{40}")


def check_contained(folder: Path) -> None:
    """Refuse a folder whose files lead out of it.

    Links to weights are left alone: people keep large files elsewhere, and only tensors are ever read from them.

    Raises:
        ToxmemError: naming the file that does.
    """
    if (folder / "adapter_config.json").exists():
        raise ToxmemError(
            f"{folder} has an adapter (adapter_config.json): merge it into its model first"
        )
    for path in folder.glob("shard-*-model-*.safetensors"):
        raise ToxmemError(
            f"{path} is of a distributed checkpoint, for which transformers would take the whole folder: remove it"
        )
    _check_configuration(folder / "config.json")
    for key, value in read_object(folder / "tokenizer_config.json").items():
        if key.endswith(("_file", "_files")):
            for name in value if isinstance(value, list) else [value]:
                _check_named(folder, str(name))
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        model_files(folder)
    home = folder.resolve()
    within = [home, *_blobs(home)]
    for pattern in _PLAIN:
        for path in folder.glob(pattern):
            if not path.is_symlink() or not path.exists():
                continue
            if not any(path.resolve().is_relative_to(place) for place in within):
                raise ToxmemError(f"{path} is a link out of its folder: put the file itself there")


def _blobs(home: Path) -> list[Path]:
    """Where the files of a commit in the hub's cache lie (models--OWNER--NAME/snapshots/COMMIT has links to them)."""
    snapshots, repo = home.parent, home.parent.parent
    if not repo.name.startswith("models--") or snapshots.name != "snapshots":
        return []
    return [repo / "blobs"] if _COMMIT.fullmatch(home.name) else []


def _check_configuration(path: Path) -> None:
    """Refuse a configuration that leads transformers to other files, or to code."""
    left: list[Any] = [read_object(path)]
    for key in left[0]:
        if key in _LEADS_ON:
            raise ToxmemError(f"{path} {_LEADS_ON[key]}")
    while left:  # no recursion: brackets may be nested as deep as Python can
        match left.pop():
            case dict() as values:
                for key in _ATTENTION:
                    if "/" in str(values.get(key, "")):
                        raise ToxmemError(f"{path} names code of a hub ({key}): take it out")
                left += values.values()
            case list() as values:
                left += values


def _check_named(folder: Path, name: str) -> None:
    """A name of a file elsewhere that is not there can do no harm, and published tokenizers have such."""
    if "\0" in name:
        return
    named = Path(name)
    if named.is_absolute() or ".." in named.parts:
        found = folder / named
        if found.exists() and found.resolve().parent != folder.resolve():
            raise ToxmemError(
                f"{folder / 'tokenizer_config.json'} names {name!r}, which lies outside of the folder: take it out"
            )


def read_object(path: Path) -> dict[str, Any]:
    """The values of a JSON file of a checkpoint; empty where there is none.

    Raises:
        ToxmemError: no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ToxmemError(f"{path.name} cannot be read ({path}: {error})") from None
    if not isinstance(values, dict):
        raise ToxmemError(f"{path.name} cannot be read ({path}: no JSON object)")
    return values


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say in one line that files of a checkpoint cannot be read by transformers.

    Args:
        what: such as `the tokenizer`, to be named.

    Raises:
        ToxmemError: in place of what transformers raised.
    """
    try:
        yield
    except ToxmemError:
        raise
    except _OF_DAMAGE as error:
        raise ToxmemError(f"{what} cannot be read ({_brief(error)})") from None
    except Exception as error:
        if (
            type(error) is not Exception
        ):  # the tokenizers library has no class of its own for a damaged file
            raise
        raise ToxmemError(f"{what} cannot be read ({_brief(error)})") from None


def _brief(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
