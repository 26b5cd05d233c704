"""The offline judge: a linear model of profanity that comes in a wheel.

The wheel's two files are pickles, which the package opens when it is imported; so they are hashed before that.
"""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.checks import list_of_texts
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import sha256_file

_FILES = ("model.joblib", "vectorizer.joblib")
KNOWN = {
    "1.9.0": (
        "1bf6dab21d246f8347e0ac74fd20b09138c7848454d646a188278cddb35c3e3e",
        "cbdd3755cff64214c95aa808dcc8b8ff787e0a9d401bf5dff1ef94f869f0283e",
    ),
    "1.9.1": (
        "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
        "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
    ),
}
"""SHA-256 of the model and the vectorizer in the published wheels, by version; each is for its own scikit-learn."""


class ProfanityScorer:
    """`alt-profanity-check`: a linear model trained on 200,000 labelled texts, shipped in its wheel."""

    name = "profanity"

    def __init__(self, *, trust_pickle: bool = False) -> None:
        """`trust_pickle` takes files also that are not those of a known wheel.

        Raises:
            ToxmemError: no such package, or files that are not known.
        """
        # `importlib.resources` would import the package, which opens its files.
        spec = find_spec("profanity_check")
        if spec is None or not spec.submodule_search_locations:
            raise ToxmemError('the scorer "profanity" needs: pip install "tl-toxmem[offline]"')
        data = Path(next(iter(spec.submodule_search_locations))) / "data"
        self._version = version("alt-profanity-check")
        self._sha256 = tuple(sha256_file(data / name) for name in _FILES)
        if not trust_pickle:
            self._check(data)

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Probability of profanity of each text."""
        list_of_texts(texts)
        if not texts:
            return torch.zeros(0)
        from profanity_check import predict_prob

        return torch.as_tensor(predict_prob(list(texts)), dtype=torch.float32)

    def provenance(self) -> dict[str, str]:
        """Versions of the package and of scikit-learn, which runs it, and SHA-256 of its weights and vectorizer."""
        packages = {
            "alt-profanity-check": self._version,
            "scikit-learn": version("scikit-learn"),
        }
        hashes = dict(zip(("sha256", "vectorizer_sha256"), self._sha256, strict=True))
        return {"scorer": self.name, "label": "profanity", **packages, **hashes}

    def _check(self, data: Path) -> None:
        """Refuse files that are not those of the wheel.

        Raises:
            ToxmemError: naming the first of them.
        """
        known = KNOWN.get(self._version, ("", ""))
        for name, found, expected in zip(_FILES, self._sha256, known, strict=True):
            if found != expected:
                raise ToxmemError(
                    f"{data / name} is a pickle whose SHA-256 is not known for alt-profanity-check {self._version}, "
                    f"so it is not opened: install {' or '.join(KNOWN)} afresh, or give --trust-pickle if you trust it"
                )
