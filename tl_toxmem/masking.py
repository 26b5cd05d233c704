"""Slurs and insults masked for reading: `idiot` becomes `i****`.

The list below is what we mask in anything printed, plotted or written for people; artefacts for machines keep
the text as it is. A word counts with its plural and common endings. Masking is for the reader's comfort and no
judge of toxicity.
"""

import re

# Roots, spelt so that this file is no wall of slurs to read: matched case-insensitively at a word's start.
_ROOTS = (
    "arse ass asshat asshole bastard bitch bloody bollock bugger bullshit chink cock cocksucker coon crap "
    "cretin cum cunt damn dick dickhead dimwit douche dumb dumbass dyke fag faggot fool fuck fuckwit goddamn "
    "gook halfwit hell ho hooker idiot imbecile jackass jerk kike kill loser lunatic moron motherfuck nazi "
    "negro nigga nigger paki pig piss porn prick pussy queer raghead rape rapist retard scum sex shit skank "
    "slag slut spastic spic stupid suck tit tosser tranny trash turd twat ugly vermin wank wanker wetback "
    "whore worthless"
)
_ENDINGS = (
    r"(?:s|es|ed|er|ers|ing|ings|y|ty|ies|ish|ic|head|heads|face|tard|tards|bag|bags|hole|holes|ly|ness)?"
    r"(?:_\w+)?"
)
_PATTERN = re.compile(
    r"\b(" + "|".join(sorted(_ROOTS.split(), key=len, reverse=True)) + ")" + _ENDINGS + r"\b",
    re.IGNORECASE,
)
# Words that only look like one of these with an ending.
_HARMLESS = frozenset(("cocker", "cockers", "holy", "spiced", "spicer", "spices", "spicy"))


def mask_slurs(text: str) -> str:
    """The text with every listed word reduced to its first letter and stars."""
    return _PATTERN.sub(_stars, text)


def _stars(match: re.Match[str]) -> str:
    word = match[0]
    return word if word.lower() in _HARMLESS else word[0] + "*" * (len(word) - 1)


_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def mask_quoted(line: str) -> str:
    """The line of an error with slurs masked in what it quotes, word by word, but not in paths.

    People's texts are quoted there; names of files and folders are not, or have a slash.
    """
    return _QUOTED.sub(lambda match: _mask_words(match[0]), line)


def _mask_words(text: str) -> str:
    words = re.split(r"(\s+)", text)
    return "".join(word if "/" in word else mask_slurs(word) for word in words)
