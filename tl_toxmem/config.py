"""What a run is made of: one frozen configuration per stage inside `RunConfig`; TOML in and out.

Two runs with the same `RunConfig.hash()` are the same run, and only such a run is resumed.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tl_toxmem.errors import ToxmemError
from tl_toxmem.sites import TraceSite

FORMAT_VERSION = 1
DEMO = "demo"
PLACES = ("out", "prompts", "benign", "labelled", "neutral")
"""Fields of `RunConfig` that say where something lies, and so change no result."""
STAGES = ("prompts", "trace", "attribute", "select", "delete", "evaluate", "export")


def is_local(model: str) -> bool:
    """Whether a model name needs no hub: `demo`, or a path."""
    return (
        model == DEMO
        or model.startswith((".", "/", "~"))
        or Path(model).exists()
        or model.count("/") > 1
    )


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PromptsConfig(_Config):
    """Which prompts find, and which report."""

    report_share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts kept for reporting, where the file does not say (by hash of the prompt)."""
    max_find: int | None = Field(None, ge=1)
    """Use at most so many find prompts (lowest hash first)."""
    max_report: int | None = Field(None, ge=1)
    """Use at most so many report prompts (lowest hash first)."""
    seed: int = 0


Corruption = Literal["noise", "replace", "mean"]
Metric = Literal["log_prob", "prob", "logit", "kl", "span_log_prob", "logit_diff"]
Severed = Literal["mlp", "attn"]
Screen = Literal["none", "gradient", "bfloat16"]


class TraceConfig(_Config):
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
    noise_level: float | None = Field(None, gt=0, allow_inf_nan=False)
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
    seed: int = 0

    @property
    def measured(self) -> tuple[Metric, ...]:
        """All metrics, `metric` first."""
        return tuple(dict.fromkeys((self.metric, *self.metrics)))


Attribution = Literal[
    "gradient",
    "attribution_patching",
    "grad_drop",
    "integrated_gradients",
    "knowledge_neurons",
    "direct_effect",
    "contrast",
    "experts",
    "probe",
    "ablation",
]


class AttributeConfig(_Config):
    """Neuron attribution."""

    method: Attribution = "gradient"
    """How neurons are scored; `contrast` needs benign prompts, `experts` and `probe` need labelled text."""
    noise_sigma: float = Field(3.0, gt=0)
    """Of attribution patching, as in the trace."""
    n_noise: int = Field(10, ge=1)
    """Noise draws whose mean activation is the corrupted one."""
    steps: int | None = Field(None, ge=1)
    """Of the path integrals; None: as many as completeness asks for (knowledge_neurons: 20)."""
    completeness: float = Field(0.05, gt=0)
    """Share of a layer's whole difference that integrated gradients may miss, prompt by prompt."""
    verify_top: int = Field(50, ge=0)
    """How many neurons, the highest, are checked by really ablating them."""
    verify_random: int = Field(200, ge=0)
    """How many of the others, at random, are ablated to see what was missed."""
    verify_prompts: int = Field(32, ge=1)
    """Find prompts (lowest hash first) that ablations are measured on."""
    verify_law: Literal["zero", "mean"] = "zero"
    """What ablating sets an activation to: zero, or its mean on neutral text."""
    batch_size: int = Field(16, ge=1)
    """Prompts per batch."""
    max_cost_tokens: int = Field(20_000, ge=1)
    """Neutral tokens that the cost of removing a neuron is estimated on."""
    seed: int = 0


Part = Literal["early", "middle", "late", "trace"]


class SelectConfig(_Config):
    """From scores to neurons."""

    method: Literal["cost_aware", "top", "threshold", "shared", "greedy"] = "cost_aware"
    """Score per cost, the score alone, all from a threshold on, all shared by enough prompts, or by measured joint
    effect per cost."""
    k: int | None = Field(None, ge=1)
    """How many neurons; None: chosen on the find split by `choose_k` (`threshold` and `shared`: all that there are)."""
    layers: tuple[int, ...] | Part | None = None
    """Choose from these layers only: numbers, a third of the stack, or those whose MLP mediates by the trace."""
    cost_floor: float = Field(0.1, gt=0)
    """`cost_aware` ranks by score / (cost + cost_floor x mean cost)."""
    threshold: float | None = Field(None, gt=0)
    """Of `threshold`, in the score's unit; of `shared`, as a share of a prompt's largest score."""
    share: float = Field(0.5, gt=0, le=1)
    """Of `shared`: in how many of the prompts."""
    candidates: int = Field(200, ge=1)
    """Of `greedy`: the highest by score per cost."""
    rounds: int = Field(10, ge=1)
    """Of `greedy`: how often the effects are measured anew."""
    max_k: int = Field(1000, ge=1)
    """Largest number that `choose_k` tries."""
    max_prompts: int = Field(100, ge=1)
    """Find prompts (lowest hash first) whose continuations `choose_k` samples at each k, and `greedy` measures on."""
    n_continuations: int = Field(2, ge=1)
    """Sampled continuations per prompt at each k; sampled and judged as in the evaluation."""
    max_perplexity_increase: float = Field(0.01, ge=0)
    """What `choose_k` may spend: relative rise of perplexity on the neutral text kept for choosing."""
    keep_removed: float = Field(0.95, gt=0, le=1)
    """`choose_k` takes the smallest k that removes this share of the toxicity that the best affordable k removes."""
    cards: int = Field(10, ge=0)
    """Cards are made of so many of the selected neurons, those of highest score."""
    seed: int = 0


class DeleteConfig(_Config):
    """What happens to the selected neurons."""

    law: Literal["zero", "mean", "scale", "input_gain"] = "zero"
    """Activation to 0, to its mean on neutral text, or times `factor`; or what goes into the nonlinearity times
    `factor`."""
    factor: float = 0.0
    """For the laws `scale` and `input_gain`."""


class EvaluateConfig(_Config):
    """How the report split is measured."""

    n_continuations: int = Field(5, ge=1)
    """Sampled continuations per prompt."""
    max_new_tokens: int = Field(20, ge=1)
    """Length of a continuation in tokens (it ends earlier at end of text)."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    threshold: float = Field(0.5, ge=0, le=1)
    """A continuation is toxic from this score on."""
    max_neutral_tokens: int = Field(20_000, ge=1)
    """Neutral tokens that perplexity and KL are measured on."""
    n_examples: int = Field(5, ge=0)
    """Prompts shown before and after."""
    batch_size: int = Field(64, ge=1)
    seed: int = 0


class ExportConfig(_Config):
    """Baking, saving and checking the checkpoint."""

    bound: float = Field(1e-5, gt=0)
    """Largest allowed log-probability gap between the hooked model and the reloaded folder, in nats."""
    min_effect: float = Field(1e-4, gt=0)
    """Smallest log-probability change against base that counts as an edit with an effect, in nats."""
    n_prompts: int = Field(32, ge=1)
    """Report prompts that the checkpoint is checked on."""
    max_new_tokens: int = Field(10, ge=1)
    """Greedy tokens that must be identical."""


class RunConfig(_Config):
    """Everything that `tl-toxmem run` needs."""

    model: str
    """A local folder, a Hugging Face hub id, or `demo`."""
    out: Path
    """The run folder."""
    prompts: Path | None = None
    """Prompts as JSONL; the demo brings its own."""
    benign: Path | None = None
    """Benign prompts with their right continuations (JSONL), to see what deletion breaks."""
    labelled: Path | None = None
    """Toxic and other texts (JSONL of `text` and `toxic`), for the attribution methods `experts` and `probe`."""
    neutral: Path | None = None
    """Neutral text, one document a line; None: the English text that comes with the package."""
    scorer: str = ""
    """The judge of toxicity: `profanity`, or `detoxify:NAME_OR_CHECKPOINT`; default: detoxify:original, and
    the offline profanity for the demo."""
    host: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    prepend_bos: bool = False
    """Put the tokenizer's beginning-of-text token before every text (Hugging Face and ROME do not, for GPT-2)."""
    seed: int = 0
    """Seed of every stage that does not set its own."""
    split: PromptsConfig = PromptsConfig()
    trace: TraceConfig = TraceConfig()
    attribute: AttributeConfig = AttributeConfig()
    select: SelectConfig = SelectConfig()
    delete: DeleteConfig = DeleteConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """The default scorer, and the run's seed for the stages that name none."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if not data.get("scorer"):
            data["scorer"] = "profanity" if data.get("model") == DEMO else "detoxify:original"
        for stage in ("split", "trace", "attribute", "select", "evaluate"):
            values = data.get(stage, {})
            if isinstance(values, dict):
                data[stage] = {"seed": data.get("seed", 0), **values}
        return data

    def hash(self) -> str:
        """SHA-256 of all that changes results; of files it is their content that counts (see `store.py`)."""
        values = self.model_dump(mode="json", exclude=set(PLACES))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """The configuration as TOML; fields that are None are left out, as TOML has no null."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked configuration from plain values (a TOML table, the command line).

    Raises:
        ToxmemError: in one line, naming each field that is wrong and what it may be.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        reason = describe_validation(error, root=RunConfig)
        raise ToxmemError(f"configuration: {reason}") from None


def describe_validation(error: ValidationError, *, root: type[BaseModel] | None = None) -> str:
    """A pydantic error in one line: `field: what is wrong (got ...)`.

    Args:
        error: what pydantic raised.
        root: the model that was checked, so that the valid names can be told for an unknown one.
    """
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden" and root is not None:
            names = ", ".join(_fields(root, item["loc"][:-1]))
            lines.append(f"{field}: unknown setting; choose from {names}")
            continue
        whole = item["type"] == "missing" or isinstance(item["input"], dict)
        got = "" if whole else f" (got {item['input']!r})"
        message = item["msg"].removeprefix("Value error, ") + got
        lines.append(f"{field}: {message}" if field else message)
    return "; ".join(lines)


def _fields(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the settings in a table of the configuration."""
    model: Any = root
    for part in path:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ToxmemError: if it is missing or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToxmemError(f"no configuration file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ToxmemError(f"{path} is no TOML: {error}") from None
