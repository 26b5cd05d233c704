"""Text from prompts and models: shown masked, its plain form kept beside it in base64.

In base64 it is found neither by searching the page nor by reading its source by accident. The page's switch decodes it
into text, never into markup.
"""

from base64 import b64encode
from dataclasses import dataclass

from tl_toxmem.masking import mask_slurs


@dataclass(frozen=True)
class Masked:
    """Text with its slurs masked.

    Attributes:
        shown: masked.
        plain: the text itself, UTF-8 in base64; empty where nothing was masked.
    """

    shown: str
    plain: str

    def __str__(self) -> str:
        return self.shown


def masked(text: str) -> Masked:
    """Mask a text."""
    return pair(mask_slurs(text), text)


def pair(shown: str, text: str) -> Masked:
    """From a text and what its author already masked of it."""
    plain = "" if shown == text else b64encode(text.encode("utf-8", "surrogatepass")).decode()
    return Masked(shown, plain)
