"""Where somebody had a model is no part of it: such paths are left out of what is written for others."""

import json
from pathlib import Path

from tl_toxmem.contained import read_object
from tl_toxmem.files import write_bytes

_FILES = ("config.json", "tokenizer_config.json")
_NAMES = ("_name_or_path", "name_or_path")


def drop_places(folder: Path) -> None:
    """Take values that are paths out of a checkpoint's own files; without any, a file stays as it is, byte for byte.

    Transformers writes them; without them it sets the name anew, and finds a tokenizer's files in the folder. Names of
    the hub stay.

    Raises:
        ToxmemError: a file that is no JSON object.
    """
    for name in _FILES:
        values = read_object(folder / name)
        kept = {key: value for key, value in values.items() if not _is_place(key, value)}
        if len(kept) < len(values):
            text = json.dumps(kept, indent=2, ensure_ascii=False)
            write_bytes(folder / name, (text + "\n").encode())


def _is_place(key: str, value: object) -> bool:
    if not isinstance(value, str) or not (key in _NAMES or key.endswith("_file")):
        return False
    return value.startswith((".", "/", "~")) or "\\" in value or value.count("/") > 1
