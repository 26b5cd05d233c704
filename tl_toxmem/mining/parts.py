"""What is done of a mining, kept by the text that it is of, so that a killed one goes on where it stopped.

One small file for every batch, whole or absent. Entries belong to one model, judge and sampling (`settings.json` says
which); what is chosen from them may change until `mining.json` says that it is done.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import TEMPORARY, read_json, write_json
from tl_toxmem.locking import LOCK, check_out
from tl_toxmem.mining.screening import text_hash
from tl_toxmem.resume import read_part, write_part

SETTINGS = "settings.json"
DONE = "mining.json"
_PARTS = "parts"


class Parts:
    """Entries of one kind by text; in memory only where there is no folder."""

    def __init__(self, folder: Path | None, kind: str) -> None:
        self._folder = None if folder is None else folder / _PARTS
        self._kind = kind
        self._entries: dict[str, Any] = {}
        if self._folder is not None:
            for file in sorted(self._folder.glob(f"{kind}-*.json")):
                self._entries.update((read_part(file) or {"entries": {}})["entries"])

    def __contains__(self, text: str) -> bool:
        return text_hash(text) in self._entries

    def __getitem__(self, text: str) -> Any:
        return self._entries[text_hash(text)]

    def add(self, entries: Mapping[str, Any]) -> None:
        """Keep the entries of some texts, as one file."""
        found = {text_hash(text): value for text, value in entries.items()}
        self._entries.update(found)
        if self._folder is not None and found:
            self._folder.mkdir(exist_ok=True)
            name = text_hash(" ".join(sorted(found)))[:16]
            write_part(self._folder / f"{self._kind}-{name}.json", {"entries": found})


def check_folder(folder: Path) -> None:
    """Refuse, before anything is written, what is no folder of mining.

    Raises:
        ToxmemError: see `check_out`; or a folder with something else in it.
    """
    check_out(folder)
    inside = [p.name for p in folder.iterdir()] if folder.exists() else []
    if SETTINGS not in inside and any(
        name != LOCK and not name.endswith(TEMPORARY) for name in inside
    ):
        raise ToxmemError(f"{folder} is not empty and is no folder of mining: give another --out")


def check_place(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The settings that a folder was begun with, and those that it is done with; None where there are none.

    Raises:
        ToxmemError: a file, a folder with something else in it, or damaged settings.
    """
    check_folder(folder)
    begun = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else None
    is_done = (folder / DONE).exists()
    done = read_json(folder / DONE).get("settings") if is_done else None
    if is_done and not isinstance(done, dict):
        raise ToxmemError(f"{folder / DONE} is damaged: it has no settings")
    return begun, done


def open_folder(folder: Path, settings: Mapping[str, Any], everything: Mapping[str, Any]) -> bool:
    """Begin a folder that is there, or go on with one; whether it is already done.

    Args:
        folder: of the outputs and the parts.
        settings: what the parts depend on.
        everything: what the outputs depend on.

    Raises:
        ToxmemError: see `check_folder`; or a folder of other settings.
    """
    begun, done = check_place(folder)
    if begun is not None:
        _refuse_other(folder, begun, settings, "was begun with")
    if done is not None:
        hint = f"give another --out, or remove {DONE} to choose anew from the same samples"
        _refuse_other(folder, done, everything, "is done with", hint)
        return True
    for leftover in folder.rglob(f"*{TEMPORARY}"):
        leftover.unlink()
    write_json(folder / SETTINGS, settings)
    return False


def _refuse_other(
    folder: Path,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    verb: str,
    hint: str = "give another --out",
) -> None:
    ours = json.loads(json.dumps(ours))  # as it is read back
    names = [name for name in ours if _content(theirs.get(name)) != _content(ours[name])]
    if names:
        raise ToxmemError(f"{folder} {verb} another {', '.join(names)}: {hint}")


def _content(setting: Any) -> Any:
    """A setting without names of files and folders: a model is known by its hash, wherever it lies."""
    if isinstance(setting, dict) and "sha256" in setting:
        return {name: value for name, value in setting.items() if name != "name"}
    return setting
