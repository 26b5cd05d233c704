"""Insults are masked wherever people read; ordinary words are not."""

import pytest

from tl_toxmem.masking import mask_slurs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("You stupid idiot!", "You s***** i****!"),
        ("BASTARDS and fools", "B******* and f****"),
        ("a damn pathetic loser", "a d*** pathetic l****"),
        ("holy spiced rice with spices", "holy spiced rice with spices"),
        ("assess the classic cocktail, Scunthorpe", "assess the classic cocktail, Scunthorpe"),
        ("idiotic, moronic, fucked_up", "i******, m******, f********"),
        ("", ""),
    ],
)
def test_masking(text, shown):
    assert mask_slurs(text) == shown
