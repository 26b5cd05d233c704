"""Judges whose model is built when it first scores: what is loaded once is not loaded for nothing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.checks import list_of_texts
from tl_toxmem.scorers.classifier import Classifier


class BuiltLate(ABC):
    """A judge with a sequence classifier that is built at the first text."""

    _loaded: Classifier | None = None

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """The label's probability for each text, cut to the model's context.

        Raises:
            ToxmemError: one text in place of several, or what building the model raises.
        """
        list_of_texts(texts)
        if not texts:
            return torch.zeros(0)
        if self._loaded is None:
            self._loaded = self._build()
        return self._loaded.score(texts)

    @abstractmethod
    def _build(self) -> Classifier: ...
