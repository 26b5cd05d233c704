"""The offline judge: a linear model of profanity that comes in a wheel."""

from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.checks import list_of_texts
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import sha256_file


class ProfanityScorer:
    """`alt-profanity-check`: a linear model trained on 200,000 labelled texts, shipped in its wheel."""

    name = "profanity"

    def __init__(self) -> None:
        if find_spec("profanity_check") is None:
            raise ToxmemError('the scorer "profanity" needs: pip install "tl-toxmem[offline]"')

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Probability of profanity of each text."""
        list_of_texts(texts)
        if not texts:
            return torch.zeros(0)
        from profanity_check import predict_prob

        return torch.as_tensor(predict_prob(list(texts)), dtype=torch.float32)

    def provenance(self) -> dict[str, str]:
        """Versions of the package and of scikit-learn, which runs it, and SHA-256 of its weights."""
        weights = Path(str(resources.files("profanity_check") / "data" / "model.joblib"))
        packages = {name: version(name) for name in ("alt-profanity-check", "scikit-learn")}
        digest = sha256_file(weights)
        return {"scorer": self.name, "label": "profanity", **packages, "sha256": digest}
