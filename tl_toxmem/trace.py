"""Causal tracing (Meng et al. 2022): which states, put back into a corrupted run, bring the target back.

Three runs per prompt: clean; corrupted (noise on the subject's embeddings); and, for each cell (site, layer,
position), corrupted with that one state restored to its clean value. The indirect effect of a cell is
restored - corrupted: positive where the state mediates the target. `mlp_out` and `attn_out` are restored in
a window of layers `[layer - w//2, layer - w//2 + w)` clipped to the stack, `resid_post` in one layer.

The numbers are those of one full forward pass per cell, at less cost: each cell resumes from the corrupted
residual stream that enters its first restored layer, cells and noise draws share batches, and cells at positions
before the first corrupted token, where clean and corrupted are equal by the causal mask, are zero without a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import add_noise, gaussian_noise, noise_level
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.model import Hook, LensModel
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.sites import Site, TraceSite
from tl_toxmem.stats import mean_estimate
from tl_toxmem.tokens import PromptTokens, align

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

METRICS = ("prob", "log_prob")
Place = Literal["last_subject", "last"]
PLACES: tuple[Place, ...] = get_args(Place)
KIND = "trace"


@dataclass(frozen=True)
class Trace:
    """Causal effects of every state, per prompt.

    Attributes:
        sites: names along the site axis.
        metric: what `effect` is in; both `METRICS` are kept.
        prompt_ids: along the prompt axis.
        words: the tokens of each prompt as text.
        subjects: half-open token span of each subject.
        clean: [metric, prompt] of the first target token, clean run.
        corrupted: [metric, prompt], mean over noise draws.
        restored: [metric, prompt, site, layer, pos], mean over noise draws; NaN past a prompt's end.
        n_restored: [site, layer] layers really restored in each window.
        noise: the standard deviation of the noise.
        n_noise: draws per prompt.
        seed: of the noise.
    """

    sites: tuple[str, ...]
    metric: str
    prompt_ids: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    subjects: tuple[tuple[int, int], ...]
    clean: Float[Tensor, "metric prompt"]
    corrupted: Float[Tensor, "metric prompt"]
    restored: Float[Tensor, "metric prompt site layer pos"]
    n_restored: Int[Tensor, "site layer"]
    noise: float
    n_noise: int
    seed: int

    @property
    def effect(self) -> Float[Tensor, "prompt site layer pos"]:
        """Indirect effects, restored - corrupted, in `metric`; NaN past a prompt's end."""
        m = METRICS.index(self.metric)
        return self.restored[m] - self.corrupted[m][:, None, None, None]

    @property
    def total_effect(self) -> Float[Tensor, " prompt"]:
        """Clean - corrupted, in `metric`: what noise takes away."""
        m = METRICS.index(self.metric)
        return self.clean[m] - self.corrupted[m]

    def at(self, place: Place) -> Float[Tensor, "prompt site layer"]:
        """Effects at one token of each prompt.

        Args:
            place: `last_subject` (the subject's last token, where factual recall was found to sit in GPT) or
                `last` (the prompt's last token, where the target is predicted).
        """
        if place not in PLACES:
            raise ToxmemError(f"unknown place {place!r}: choose from {', '.join(PLACES)}")
        ends = (
            [end for _, end in self.subjects] if place == "last_subject" else map(len, self.words)
        )
        pos = torch.tensor([end - 1 for end in ends])
        return self.effect[torch.arange(len(pos)), :, :, pos]

    def by_layer(self, place: Place = "last_subject") -> "pd.DataFrame":
        """Mean effect at one token of each prompt by site and layer, with 95 % intervals over prompts."""
        import pandas as pd

        effects = self.at(place)
        rows = []
        for s, site in enumerate(self.sites):
            for layer in range(effects.shape[2]):
                estimate = mean_estimate(effects[:, s, layer].numpy(), seed=self.seed)
                n_restored = int(self.n_restored[s, layer])
                rows.append(
                    {"site": site, "layer": layer, "n_restored": n_restored, **estimate.to_json()}
                )
        return pd.DataFrame(rows)

    def frame(self) -> "pd.DataFrame":
        """Every cell as a row: prompt, site, layer, pos, token, whether it is of the subject, effect."""
        import pandas as pd

        rows = []
        for p, (prompt_id, words) in enumerate(zip(self.prompt_ids, self.words, strict=True)):
            start, end = self.subjects[p]
            for s, site in enumerate(self.sites):
                for layer in range(self.effect.shape[2]):
                    rows += [
                        (prompt_id, site, layer, pos, word, start <= pos < end, effect)
                        for pos, (word, effect) in enumerate(
                            zip(words, self.effect[p, s, layer].tolist(), strict=False)
                        )
                    ]
        return pd.DataFrame(
            rows, columns=["prompt", "site", "layer", "pos", "token", "in_subject", "effect"]
        )

    def plot(self) -> "go.Figure":
        """Heat maps of one prompt's effects, token x layer, one panel per site (see `plots.plot_trace`)."""
        from tl_toxmem.plots import plot_trace

        return plot_trace(self)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors = {
            name: getattr(self, name) for name in ("clean", "corrupted", "restored", "n_restored")
        }
        names = ("sites", "metric", "prompt_ids", "words", "subjects", "noise", "n_noise", "seed")
        write_tensors(Path(path), KIND, tensors, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what `save` wrote; the model is not needed."""
        tensors, meta = read_tensors(Path(path), KIND)
        return cls(
            sites=tuple(meta["sites"]),
            metric=meta["metric"],
            prompt_ids=tuple(meta["prompt_ids"]),
            words=tuple(tuple(words) for words in meta["words"]),
            subjects=tuple((start, end) for start, end in meta["subjects"]),
            noise=meta["noise"],
            n_noise=meta["n_noise"],
            seed=meta["seed"],
            **tensors,
        )


def window_of(site: str, layer: int, *, window: int, n_layers: int) -> range:
    """The layers restored together for a cell: one for resid_post, else ROME's clipped window."""
    if site == "resid_post":
        return range(layer, layer + 1)
    start = layer - window // 2
    return range(max(0, start), min(n_layers, start + window))


def resolve_window(cfg: TraceConfig, *, n_layers: int) -> int:
    """The window in layers: as configured, or ROME's 10, at most half the stack.

    Raises:
        ToxmemError: a configured window that is larger than the model.
    """
    if cfg.window is None:
        return min(10, max(1, n_layers // 2))
    if cfg.window > n_layers:
        raise ToxmemError(f"trace.window is {cfg.window} layers, the model has {n_layers}")
    return cfg.window


def causal_trace(model: LensModel, prompts: PromptSet, *, cfg: TraceConfig | None = None) -> Trace:
    """Trace every prompt at every site, layer and position.

    Args:
        model: any host; processed weights are fine.
        prompts: with their subjects; `cfg.max_prompts` of them are traced.
        cfg: sites, window, noise, metric, batch size, seed.

    Raises:
        ToxmemError: no prompts, one that does not fit the model, or a window larger than it.
    """
    cfg = cfg or TraceConfig()
    window = resolve_window(cfg, n_layers=model.n_layers)
    items = align(model, prompts.first(cfg.max_prompts))
    if not items:
        raise ToxmemError("nothing to trace: the prompt set is empty")
    level = noise_level(model, items, sigma=cfg.noise_sigma)
    shape = (
        len(METRICS),
        len(items),
        len(cfg.sites),
        model.n_layers,
        max(len(i.tokens) for i in items),
    )
    restored = torch.full(shape, torch.nan)
    clean, corrupted = torch.zeros(shape[:2]), torch.zeros(shape[:2])
    for p, item in enumerate(track(items, "trace", total=len(items))):
        noise = gaussian_noise(
            item, level=level, n_noise=cfg.n_noise, d_model=model.d_model, seed=cfg.seed
        )
        runs = _Runs(model, item, noise)
        clean[:, p], corrupted[:, p] = runs.clean, runs.corrupted
        for s, site in enumerate(cfg.sites):
            for layer in range(model.n_layers):
                layers = window_of(site, layer, window=window, n_layers=model.n_layers)
                effects = runs.restore(site, layers, batch_size=cfg.batch_size)
                restored[:, p, s, layer, : len(item.tokens)] = effects
    n_restored = [
        [
            len(window_of(site, layer, window=window, n_layers=model.n_layers))
            for layer in range(model.n_layers)
        ]
        for site in cfg.sites
    ]
    return Trace(
        sites=cfg.sites,
        metric=cfg.metric,
        prompt_ids=tuple(item.prompt.id for item in items),
        words=tuple(item.words for item in items),
        subjects=tuple(item.subject for item in items),
        clean=clean,
        corrupted=corrupted,
        restored=restored,
        n_restored=torch.tensor(n_restored),
        noise=level,
        n_noise=cfg.n_noise,
        seed=cfg.seed,
    )


class _Runs:
    """The clean and corrupted runs of one prompt, kept so that cells can resume from them."""

    def __init__(
        self, model: LensModel, item: PromptTokens, noise: Float[Tensor, "noise pos d_model"]
    ) -> None:
        self.model, self.item, self.n_noise = model, item, noise.shape[0]
        tokens, mask = model.pad([item.tokens])
        layers = range(model.n_layers)
        kept: tuple[Site, ...] = ("resid_post", "mlp_out", "attn_out")
        logits, self.states = model.capture(
            tokens, mask, sites=[(site, layer) for site in kept for layer in layers], keep=1
        )
        self.clean = self._measure(logits).mean(1)
        with model.hooks([("embed", 0, add_noise(noise))]):
            logits, found = model.capture(
                tokens.expand(self.n_noise, -1),
                mask.expand(self.n_noise, -1),
                sites=[("resid_pre", layer) for layer in layers]
                + [("resid_post", model.n_layers - 1)],
                keep=1,
            )
        # What enters each layer, and after the last one what is unembedded: [layer][noise, pos, d_model].
        self.entering = [found["resid_pre", layer] for layer in layers]
        self.entering.append(found["resid_post", model.n_layers - 1])
        self.corrupted = self._measure(logits).mean(1)

    def _measure(self, logits: Float[Tensor, "batch 1 d_vocab"]) -> Float[Tensor, "metric batch"]:
        log_prob = logits[:, -1].float().log_softmax(-1)[:, self.item.target[0]]
        return torch.stack([log_prob.exp(), log_prob]).cpu()

    def restore(
        self, site: TraceSite, layers: range, *, batch_size: int
    ) -> Float[Tensor, "metric pos"]:
        """The metrics with the state at each position restored in `layers`, mean over noise."""
        first = self.item.subject[0]
        n_pos = len(self.item.tokens)
        result = self.corrupted[:, None].repeat(1, n_pos)
        per_batch = max(1, batch_size // self.n_noise)
        for positions in _chunks(range(first, n_pos), per_batch):
            values = self._restore_rows(site, layers, positions)
            result[:, positions.start : positions.stop] = values
        return result

    def _restore_rows(
        self, site: TraceSite, layers: range, positions: range
    ) -> Float[Tensor, "metric pos"]:
        rows = torch.arange(len(positions) * self.n_noise)
        at = torch.tensor(positions).repeat_interleave(self.n_noise)  # each row's restored position

        def put_back(layer: int) -> Any:
            clean = self.states[site, layer][0]

            def hook(state: Tensor) -> Tensor:
                state = state.clone()
                state[rows, at] = clean[at]
                return state

            return hook

        start = layers.start + 1 if site == "resid_post" else layers.start
        resid = self.entering[start].repeat(len(positions), 1, 1)
        hooks: list[Hook] = []
        if site == "resid_post":
            resid = put_back(layers.start)(resid)
        else:
            hooks = [(site, layer, put_back(layer)) for layer in layers]
        mask = torch.ones(resid.shape[:2], dtype=torch.long, device=resid.device)
        with self.model.hooks(hooks):
            logits = self.model.resume(resid, start, mask, keep=1)
        values = self._measure(logits)
        return values.view(len(METRICS), len(positions), self.n_noise).mean(2)


def _chunks(positions: range, size: int) -> Iterator[range]:
    for start in range(positions.start, positions.stop, size):
        yield range(start, min(start + size, positions.stop))
