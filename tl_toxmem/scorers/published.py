"""Detoxify's five published models: where they are fetched from and kept, both as Detoxify does.

The file's name in Detoxify's `MODEL_URLS` ends in the beginning of its SHA-256, which is what is checked.
"""

import sys
from pathlib import Path

import torch

from tl_toxmem.errors import ToxmemError, brief
from tl_toxmem.progress import is_silent

PUBLISHED = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")


def published_file(which: str) -> tuple[str, Path]:
    """Detoxify's URL of a published model, and where it keeps its file: torch.hub's cache."""
    from detoxify.detoxify import MODEL_URLS

    url: str = MODEL_URLS[which]
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def download(which: str) -> None:
    """Fetch Detoxify's own file into the place where Detoxify keeps it, unless it is there.

    Raises:
        ToxmemError: it cannot be had, or what came has another hash; nothing is left behind then.
    """
    from http.client import HTTPException

    url, path = published_file(which)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            url,
            str(path),
            hash_prefix=path.stem.rsplit("-", 1)[1],
            progress=sys.stderr.isatty() and not is_silent(),
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise ToxmemError(
            f"cannot download detoxify:{which} from {url} ({brief(error)}): go online once, put the file "
            f"into {path.parent}, or use a local detoxify:FILE.ckpt"
        ) from None
