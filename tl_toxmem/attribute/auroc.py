"""A unit's highest activation over a text's tokens, read as a score of the text, and the AUROC of that score."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_toxmem.attribute.texts import Labelled
from tl_toxmem.careful import Careful
from tl_toxmem.checks import is_text
from tl_toxmem.errors import ToxmemError
from tl_toxmem.memory import ACTIVATION_BYTES
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched, track
from tl_toxmem.sites import Site

_MAX_TOKENS = 128
_BATCH, _BATCH_TOKENS = 64, 2048
_AT_ONCE = 512
"""Units whose texts are ranked at once."""

Place = tuple[Site, int]


def aurocs(
    model: LensModel, labelled: Sequence[Labelled], places: Sequence[Place]
) -> dict[Place, Float[Tensor, " unit"]]:
    """How well every unit at each place tells toxic from other texts: 0.5 is chance, 1 is perfect.

    Args:
        model: any host.
        labelled: with texts of both classes; the first 128 tokens of each are read.
        places: sites and layers.

    Raises:
        ToxmemError: a text without tokens.
    """
    toxic = np.array([one.toxic for one in labelled])
    peaks: dict[Place, Tensor] = {}
    for rows, mask, found in passes(model, labelled, places):
        for place in places:
            states = found[place].float().masked_fill(~mask[..., None], -torch.inf)
            if place not in peaks:
                peaks[place] = torch.empty(len(labelled), states.shape[-1])
            peaks[place][rows] = states.max(1).values.cpu()
    return {place: auroc(peaks[place], toxic) for place in places}


def labelled_tokens(model: LensModel, labelled: Sequence[Labelled]) -> list[list[int]]:
    """The texts in tokens, cut to what is read of them.

    Raises:
        ToxmemError: one without tokens, or with half of a surrogate pair.
    """
    for number, one in enumerate(labelled, start=1):
        if not is_text(one.text):
            raise ToxmemError(f"labelled text {number} has half of a surrogate pair: remove it")
    rows = [model.encode(one.text)[: min(_MAX_TOKENS, model.n_ctx)] for one in labelled]
    if not all(rows):
        raise ToxmemError(f"labelled text {rows.index([]) + 1} has no tokens: remove it")
    return rows


def passes(
    model: LensModel, labelled: Sequence[Labelled], places: Sequence[Place]
) -> Iterator[tuple[slice, Bool[Tensor, "batch pos"], dict[Place, Tensor]]]:
    """Rows of the texts, their mask and their states, batch by batch."""
    batches = batches_of_texts(model, labelled, len(places))
    start = 0

    def of(some: Sequence[list[int]]) -> tuple[Tensor, dict[Place, Tensor]]:
        tokens, mask = model.pad(some)
        _, found = model.capture(tokens, mask, sites=places, keep=1)
        return mask, found

    run = Careful(of, what="states", model=model, name=lambda row: f"a text of {len(row)} tokens")
    for batch in track(batches, "labelled text", total=len(batches)):
        for mask, found in run(batch):
            yield slice(start, start + len(mask)), mask.bool(), found
            start += len(mask)


def batches_of_texts(
    model: LensModel, labelled: Sequence[Labelled], n_places: int
) -> list[list[list[int]]]:
    """The texts in tokens, as many together as their states at so many places allow."""
    most = min(_BATCH_TOKENS, max(1, ACTIVATION_BYTES // (4 * n_places * model.d_mlp)))
    return batched(labelled_tokens(model, labelled), _BATCH, length=len, most=most)


def auroc(
    values: Float[Tensor, "text unit"], toxic: Bool[np.ndarray, " text"]
) -> Float[Tensor, " unit"]:
    """The share of (toxic, other) pairs that each column orders rightly, ties counting half: from mean ranks."""
    from scipy.stats import rankdata

    n_toxic, n_other = int(toxic.sum()), int((~toxic).sum())
    found = []
    for some in torch.split(values, _AT_ONCE, dim=1):
        ranks = rankdata(some.numpy(), axis=0)[toxic].sum(0)
        found.append((ranks - n_toxic * (n_toxic + 1) / 2) / (n_toxic * n_other))
    return torch.from_numpy(np.concatenate(found)).float()
