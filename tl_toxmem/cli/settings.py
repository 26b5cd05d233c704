"""What `--set KEY=VALUE` says, put into plain values."""

import tomllib
from collections.abc import Sequence
from typing import Any

from tl_toxmem.errors import ToxmemError


def put_settings(values: dict[str, Any], settings: Sequence[str], *, example: str) -> None:
    """Change values by settings; later ones win.

    Args:
        values: tables within tables; changed.
        settings: `TABLE.KEY=VALUE`, the value as in TOML or a bare word; `default` removes what was set.
        example: of a setting, for who writes one without a value.

    Raises:
        ToxmemError: a setting without a value, or within one that is no table.
    """
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ToxmemError(f"--set {setting!r}: write KEY=VALUE, such as --set {example}")
        *tables, name = key.strip().split(".")
        place = values
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ToxmemError(
                    f"--set {setting!r}: {table} is a value, and has no settings in it"
                )
        if text.strip() == "default":
            place.pop(name, None)
        else:
            place[name] = _value(text)


def is_set(name: str, settings: Sequence[str]) -> bool:
    """Whether some setting is of this name."""
    return any(setting.partition("=")[0].strip() == name for setting in settings)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # then it is a word
        return text
