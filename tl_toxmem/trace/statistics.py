"""Averages of a trace over prompts, with intervals and tests that count prompts, not tokens or cells."""

from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.stats import Estimate, max_t, mean_estimate, mean_estimates, ratio_estimate
from tl_toxmem.trace.cells import PART_SITES, parts_of

if TYPE_CHECKING:
    import pandas as pd

    from tl_toxmem.trace.record import Trace

Place = Literal["last_subject", "last"]
PLACES: tuple[Place, ...] = get_args(Place)
TokenClass = Literal[
    "first_subject", "middle_subject", "last_subject", "first_after", "further", "last"
]
CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)


def at(values: Tensor, trace: "Trace", place: Place) -> Tensor:
    """Values [prompt, site, layer, pos] at one token of each prompt, [prompt, site, layer].

    Raises:
        ToxmemError: an unknown place.
    """
    if place not in PLACES:
        raise ToxmemError(f"unknown place {place!r}: choose from {', '.join(PLACES)}")
    ends = [end for _, end in trace.subjects] if place == "last_subject" else map(len, trace.words)
    pos = torch.tensor([end - 1 for end in ends])
    return values[torch.arange(len(pos)), :, :, pos]


def by_layer(trace: "Trace", place: Place) -> "pd.DataFrame":
    """Mean effects at one token of each prompt by site and layer, with 95 % intervals over prompts.

    `measured` is the share of the cells behind a mean that were measured and not only estimated by a screening. Sites
    without a cell there are left out.
    """
    import pandas as pd

    effects, exact = at(trace.effect, trace, place), at(trace.exact, trace, place)
    rows = []
    for s, site in enumerate(trace.sites):
        if effects[:, s].isnan().all():  # severed sites are restored at the last subject token only
            continue
        measured = exact[:, s].float().mean(0).tolist()
        estimates = mean_estimates(effects[:, s].numpy(), seed=trace.seed)
        for layer, estimate in enumerate(estimates):
            where = {"site": site, "layer": layer, "n_restored": int(trace.n_restored[s, layer])}
            rows.append({**where, **estimate.to_json(), "measured": measured[layer]})
    columns = ["site", "layer", "n_restored", "value", "low", "high", "n", "measured"]
    return pd.DataFrame(rows, columns=columns)


def mediating_layers(trace: "Trace") -> tuple[int, ...]:
    """Layers whose MLP output, restored alone where that was traced, has an effect above zero with its whole interval.

    Looked at are the last corrupted token and the prompt's last, in the direction in which the target comes back.

    Raises:
        ToxmemError: a trace without MLP outputs.
    """
    sites = [site for site in ("mlp_out_single", "mlp_out") if site in trace.sites]
    if not sites:
        raise ToxmemError(
            f"the trace has no MLP outputs, only {', '.join(trace.sites)}: trace the site mlp_out"
        )
    found = set()
    for place in PLACES:
        frame = by_layer(trace, place)
        for row in frame[frame.site == sites[0]].to_dict("records"):
            edge = row["value"] if row["low"] is None else row["low"]
            found |= {int(row["layer"])} if edge > 0 else set()
    return tuple(sorted(found))


def classes(
    trace: "Trace", values: Float[Tensor, "prompt site layer pos"]
) -> Float[Tensor, "prompt token_class site layer"]:
    """Values by class of token (`CLASSES`), mean over a prompt's tokens of a class; NaN where it has none.

    A subject of one token counts as `last_subject`; a prompt that ends with its subject counts its last token as
    `last_subject` and as `last`.
    """
    found = torch.full((len(values), len(CLASSES), *values.shape[1:3]), torch.nan)
    for p, (start, end) in enumerate(trace.subjects):
        last = len(trace.words[p]) - 1
        members = {
            "first_subject": range(start, min(start + 1, end - 1)),
            "middle_subject": range(start + 1, end - 1),
            "last_subject": range(end - 1, end),
            "first_after": range(end, min(end + 1, last)),
            "further": range(end + 1, last),
            "last": range(last, last + 1),
        }
        for c, name in enumerate(CLASSES):
            if len(members[name]):
                found[p, c] = values[p, :, :, list(members[name])].mean(-1)
    return found


def by_class(trace: "Trace") -> "pd.DataFrame":
    """Average indirect effects by site, layer and class of token.

    With 95 % intervals over prompts and, for each site, a max-T test over all its layers and classes: `t`, and `p`
    corrected for looking at all of them (see `stats.max_t`). `measured` is as in `by_layer`.
    """
    import pandas as pd

    effects, exact = classes(trace, trace.effect), classes(trace, trace.exact.float())
    n_layers = effects.shape[3]
    rows = []
    for s, site in enumerate(trace.sites):
        grid = effects[:, :, s].flatten(1).numpy()
        t, p = max_t(grid, seed=trace.seed)
        for i, estimate in enumerate(mean_estimates(grid, seed=trace.seed)):
            c, layer = divmod(i, n_layers)
            if estimate.n:
                place = {"site": site, "layer": layer, "token_class": CLASSES[c]}
                place["n_restored"] = int(trace.n_restored[s, layer])
                measured = float(exact[:, c, s, layer].nanmean())
                test = {"t": t[i], "p": p[i], "measured": measured}
                rows.append({**place, **estimate.to_json(), **test})
    return pd.DataFrame(rows)


def shares(trace: "Trace") -> "pd.DataFrame":
    """Mean effect over mean total effect of the early, middle and late thirds of the layers, and of all of them.

    Each is restored as a whole, at all tokens from the first corrupted one on. Shares need not add up to one: what one
    third gives back, another may give back too. With 95 % intervals over prompts; NaN where corruption takes nothing
    away for sure.
    """
    import pandas as pd

    rows = []
    total = trace.total_effect.numpy()
    taken = mean_estimate(total, seed=trace.seed)
    sure = taken.value > 0 and (taken.low is None or taken.low > 0)
    for s, site in enumerate(PART_SITES):
        for i, (part, layers) in enumerate(parts_of(trace.restored.shape[3]).items()):
            share = Estimate(float("nan"), None, None, len(total))
            if sure:
                share = ratio_estimate(trace.part_effect[:, s, i].numpy(), total, seed=trace.seed)
            places = {"first_layer": layers.start, "last_layer": layers.stop - 1}
            rows.append({"site": site, "part": part, **places, **share.to_json()})
    return pd.DataFrame(rows)
