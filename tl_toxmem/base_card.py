"""What the base model says of itself that holds for the edited model too: licence and languages.

Its card is somebody else's text, so nothing in it is trusted: what cannot be read or is no valid value is left out, and
a licence is never guessed.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import hf_hub_url
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from tl_toxmem.masking import mask_slurs
from tl_toxmem.model import Source

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]+)*|code|multilingual")
_MOST_LICENCES = 10
_MARKUP = str.maketrans("|`<>*[]", "/'()·()")


class _NoAliases(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without `*name`: aliases of aliases, and merges of them, fill any memory from a few lines."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node, as PyYAML makes it."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def inert(text: str) -> str:
    """Text from elsewhere as it may stand in a Markdown paragraph, a table or between backticks."""
    return mask_slurs(" ".join(text.split())).translate(_MARKUP)


def base_facts(source: Source | None) -> tuple[dict[str, Any], str]:
    """Fields for the front matter of a card, and a sentence on the licence.

    Args:
        source: the base; None for a model of unknown origin.
    """
    said = {} if source is None else _front_matter(source.folder)
    language = said.get("language")
    languages = language if isinstance(language, list) else [language]
    # YAML reads Norwegian, a bare `no`, as false; it is left out with all else that is no code.
    known = [code for code in languages if isinstance(code, str) and _LANGUAGE.fullmatch(code)]
    facts: dict[str, Any] = {"language": known or None}
    licence = said.get("license") or (None if source is None else _configured(source.folder))
    if isinstance(licence, list):
        licence = ", ".join([name for name in licence if isinstance(name, str)][:_MOST_LICENCES])
    if not isinstance(licence, str) or not licence.strip():
        return facts, (
            "**Licence:** none is known. The base's card is missing, cannot be read or names no licence: ask those "
            "who made the base before you use or share this model."
        )
    if not _IDENTIFIER.fullmatch(licence):
        return facts, (
            f"**Licence:** the base calls its licence *{inert(licence)[:100]}*, which is no single identifier of the "
            "hub's; whatever holds for the base holds for this model."
        )
    facts["license"] = licence
    name, link = said.get("license_name"), said.get("license_link")
    if licence == "other":
        if isinstance(name, str) and _IDENTIFIER.fullmatch(name.lower()):
            facts["license_name"] = name
        if source is not None and isinstance(link, str):
            facts["license_link"] = _absolute(link, source)
    return facts, f"**Licence:** that of the base: `{inert(facts.get('license_name', licence))}`."


def _front_matter(folder: Path) -> dict[Any, Any]:
    try:
        found = REGEX_YAML_BLOCK.search((folder / "README.md").read_text(encoding="utf-8-sig"))
        values = None if found is None else _NoAliases(found[2]).get_single_data()
    # For odd values PyYAML lets a constructor's own error through: `!!int ""` is an IndexError.
    except (OSError, ValueError, LookupError, AttributeError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _configured(folder: Path) -> object:
    """The licence that a base without a card may have in its configuration."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("license") if isinstance(config, dict) else None


def _absolute(link: str, source: Source) -> str | None:
    """A link to a licence that also holds in another repository, if there is one."""
    if re.fullmatch(r"https://\S+", link):
        return link
    if link in ("LICENSE", "LICENSE.md") and (source.folder / link).is_file():
        return link  # it is exported with the weights
    if source.revision is None or not re.fullmatch(r"[\w-][\w./-]*", link):
        return None
    return hf_hub_url(source.name, link, revision=source.revision)
