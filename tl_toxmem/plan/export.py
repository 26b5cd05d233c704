"""What an export puts through the model: the comparison with the folder that plain transformers reloads.

Plain transformers runs as much as the hooked model does, and is counted as if it were one.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tl_toxmem.certify import FITS, ROWS
from tl_toxmem.config import ExportConfig
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.plan.passes import ENDS, Lengths, batches_of, continued
from tl_toxmem.plan.work import Shape, Tally, Work
from tl_toxmem.precision import can_compute

_DOUBLE = 2.0
"""Times that float64 takes of float32's."""


def count_export(model: LensModel, texts: Sequence[str], *, cfg: ExportConfig) -> Work:
    """The stage of a run.

    Args:
        model: only its shape and its tokenizer are asked.
        texts: report prompts.
        cfg: of the export.
    """
    shape = Shape.of(model)
    tally = Tally(shape)
    lengths = [len(model.encode(text)) for text in texts[: cfg.n_prompts]]
    most = tokens_for_logits(model)
    double = 8 * shape.parameters
    fits = double <= FITS and can_compute(model.device, torch.float64)
    for share in (1.0, _DOUBLE) if fits and model.dtype != torch.float64 else (1.0,):
        found = [*batches_of(shape, "forward", lengths, ROWS, kept=None, most=most, times=4)]
        found += continued(
            shape,
            lengths,
            size=ROWS,
            copies=1,
            new=cfg.max_new_tokens,
            ends=Lengths(),
            times=2,
        )
        tally.add(replace(one, share=share) for one in found)
    if model.eos_ids:
        tally.expect(f"{ENDS}: none before the last token")
    tally.need(4 * shape.parameters + (2 * double if fits else 0))
    return tally.done("export")
