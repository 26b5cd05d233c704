"""Settings of the trace."""

from typing import Literal

from pydantic import Field

from tl_toxmem.config.base import Config, Seed
from tl_toxmem.sites import TraceSite

Corruption = Literal["noise", "replace", "mean"]
Metric = Literal["log_prob", "prob", "logit", "kl", "span_log_prob", "logit_diff"]
Severed = Literal["mlp", "attn"]
Screen = Literal["none", "gradient", "bfloat16"]


class TraceConfig(Config):
    """Causal tracing after Meng et al. 2022 (ROME)."""

    sites: tuple[TraceSite, ...] = Field(("resid_post", "mlp_out", "attn_out"), min_length=1)
    """States that are restored: resid_pre and resid_post (one layer), mlp_out, attn_out and mlp_post (a window)."""
    window: int | None = Field(None, ge=1)
    """Layers restored together for outputs of MLP and attention; None: 10 as in ROME, at most half the stack."""
    single_layers: bool = True
    """Beside every window, each layer alone: windows give joint effects."""
    severed: tuple[Severed, ...] = ("mlp", "attn")
    """At the subject's last token, also resid_post restored with the MLPs (attentions) above held as corrupted."""
    parts: bool = True
    """Also MLP and attention outputs of the early, middle and late thirds, and of all layers, at all tokens at once."""
    positions: Literal["all", "last_subject", "last", "ends"] = "all"
    """Which tokens' states are restored: all, the last corrupted one, the prompt's last, or these two."""
    corruption: Corruption = "noise"
    """Gaussian noise on the subject, the prompt's `counterfactual` in its place, or the mean embedding."""
    noise_sigma: float = Field(3.0, gt=0)
    """Noise on the subject's embeddings, in standard deviations of the subject tokens' embeddings."""
    noise_level: float | None = Field(None, gt=0)
    """A fixed standard deviation of the noise, in place of `noise_sigma`."""
    noise_stream: Literal["prompt", "rome"] = "prompt"
    """Where draws come from: a stream for each prompt, or ROME's own, which is the same for every prompt."""
    n_noise: int = Field(10, ge=1)
    """Noise draws per prompt; all cells of a prompt see the same ones."""
    metric: Metric = "log_prob"
    """What `Trace.effect` is in."""
    metrics: tuple[Metric, ...] = ("log_prob", "prob", "logit", "kl")
    """What is measured besides; `span_log_prob` runs the whole target, `logit_diff` needs a `neutral_target`."""
    max_prompts: int | None = Field(None, ge=1)
    """Trace at most so many find prompts, and as many benign ones (lowest hash first)."""
    robustness: bool = True
    """In a run, also the robustness card: the layer profile under other noise, windows, metrics and corruptions."""
    max_memory: float = Field(2.0, gt=0)
    """Gigabytes that the states of a trace may take beside the model, its copy in bfloat16 and about 0.3 GB of other
    things."""
    screen: Screen = "none"
    """Estimate all cells first (by gradients, or in bfloat16) and measure only the highest exactly."""
    verify_top: int = Field(40, ge=1)
    """How many cells of each site, the highest by the estimate, are then measured exactly."""
    seed: Seed = 0

    @property
    def measured(self) -> tuple[Metric, ...]:
        """All metrics, `metric` first."""
        return tuple(dict.fromkeys((self.metric, *self.metrics)))
