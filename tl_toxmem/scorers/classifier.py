"""A sequence classifier as a judge: texts in batches of like length, one of its outputs as a number in [0, 1].

A text is cut where the tokenizer or the model ends, whichever is earlier. A score does not depend on the batch, up to
the rounding of float32 sums that padding puts in another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tl_toxmem.careful import Careful
from tl_toxmem.errors import ToxmemError
from tl_toxmem.progress import in_batches

_ON_CPU, _ELSEWHERE, _TOKENS = 16, 64, 4096
"""Most texts, and most tokens with padding, that are run at once; a longer text is run alone.

A processor gains nothing by more than 16 texts, and pads less: of 32 texts as they come, two sorted halves took 0.8 of
the time of one batch.
"""
_MAX_PADDING, _MIN_PADDING = 0.1, 512  # rows that an embedding may have beyond its tokens

Output = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class Classifier:
    """A model ready to judge.

    Attributes:
        name: of the judge.
        model: a `...ForSequenceClassification` in eval mode, float32.
        tokenizer: its own.
        column: which of its outputs counts.
        output: what makes a probability of the outputs: sigmoid of this one, or softmax over all.
    """

    name: str
    model: Any
    tokenizer: Any
    column: int
    output: Output

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """The probability of the label, text by text, in the order given."""
        result = torch.zeros(len(texts))
        if not texts:
            return result
        encoded = self._encode(texts)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)  # so that batches pad little

        def values(some: Sequence[int]) -> Tensor:
            inputs = {
                name: self._pad(name, [rows[i] for i in some]) for name, rows in encoded.items()
            }
            logits = self.model(**inputs).logits.float()
            every: Tensor = logits.sigmoid() if self.output == "sigmoid" else logits.softmax(-1)
            return every[:, self.column].cpu()

        run = Careful(values, what=f"scores by {self.name}", name=lambda i: f"text {i}")
        for batch in in_batches(
            order,
            self._batch_size(),
            f"score: {self.name}",
            length=lengths.__getitem__,
            most=_TOKENS,
        ):
            result[batch] = torch.cat(run(batch))
        return result

    def _encode(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """Tokens of each text, cut to the limit and not yet padded."""
        found = self.tokenizer(list(texts), truncation=self.tokenizer.model_max_length < 10**9)
        encoded = {name: list(rows) for name, rows in found.items()}
        for i, ids in enumerate(encoded["input_ids"]):
            if not ids:  # an empty text, to a tokenizer that adds no tokens of its own
                encoded["input_ids"][i] = [self._start()]
                encoded["attention_mask"][i] = [1]
        return encoded

    def _start(self) -> int:
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ToxmemError(
            f"{self.name} has no token for an empty text: give texts that are not empty, or a tokenizer with one"
        )

    def _batch_size(self) -> int:
        """One, where model and tokenizer know no common padding: some models find their last token by it."""
        own = self.tokenizer.pad_token_id
        if own is None or own != self.model.config.pad_token_id:
            return 1
        return _ON_CPU if self.model.device.type == "cpu" else _ELSEWHERE

    def _pad(self, name: str, rows: list[list[int]]) -> Tensor:
        value = {
            "input_ids": self.tokenizer.pad_token_id,
            "token_type_ids": self.tokenizer.pad_token_type_id,
        }
        padded: Tensor = pad_sequence(
            [torch.tensor(row) for row in rows],
            batch_first=True,
            padding_value=value.get(name) or 0,
            padding_side=self.tokenizer.padding_side,
        )
        return padded.to(self.model.device)


def fit_tokenizer(tokenizer: Any, model: Any, *, where: str) -> None:
    """Make a tokenizer cut where the model ends, once it is known to be the model's own.

    Raises:
        ToxmemError: it has no vocabulary, or one that is not the model's.
    """
    vocabulary = tokenizer.get_vocab()
    n, rows = 1 + max(vocabulary.values(), default=-1), model.config.vocab_size
    # transformers makes an empty tokenizer where it finds no vocabulary of its kind.
    empty = set(vocabulary) <= set(tokenizer.all_special_tokens)
    if empty or not rows - max(_MIN_PADDING, int(_MAX_PADDING * rows)) <= n <= rows:
        raise ToxmemError(
            f"the {type(tokenizer).__name__} in {where} has {len(vocabulary)} tokens, the model {rows}: give the "
            "checkpoint's own tokenizer files"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    for path, module in model.named_modules():
        # RoBERTa and its kin count positions from after their padding index.
        if (
            path.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            limit = module.num_embeddings - module.padding_idx - 1
    if limit is not None and limit > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
