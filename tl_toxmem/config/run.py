"""What a run is made of: one frozen configuration per stage inside `RunConfig`; TOML in and out.

Two runs with the same `RunConfig.hash()` are the same run; `identity.py` says which stages a changed setting leaves as
they are.
"""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ValidationError, field_validator, model_validator

from tl_toxmem.config.attribute import AttributeConfig
from tl_toxmem.config.base import Config, Seed, describe_validation
from tl_toxmem.config.compare import CompareConfig
from tl_toxmem.config.evaluate import EvaluateConfig
from tl_toxmem.config.export import ExportConfig
from tl_toxmem.config.prompts import PromptsConfig
from tl_toxmem.config.search import SearchConfig
from tl_toxmem.config.select import DeleteConfig, SelectConfig
from tl_toxmem.config.trace import TraceConfig
from tl_toxmem.errors import ToxmemError

FORMAT_VERSION = 1
DEMO = "demo"
PLACES = ("out", "prompts", "benign", "labelled", "neutral", "with_comparison", "trust_pickle")
"""Fields of `RunConfig` that say where something lies, what is made besides or may be opened: they change no result."""
STAGES = ("prompts", "trace", "attribute", "select", "delete", "evaluate", "export", "compare")


def is_local(model: str) -> bool:
    """Whether a model name needs no hub: `demo`, or a path."""
    return (
        model == DEMO
        or model.startswith((".", "/", "~"))
        or Path(model).exists()
        or model.count("/") > 1
    )


def shown_name(model: str) -> str:
    """What a model is called in what others may see: a hub id, `demo`, or a folder by its last name alone."""
    if model == DEMO or not is_local(model):
        return model
    return os.path.basename(os.path.abspath(os.path.expanduser(model))) or "model"


class RunConfig(Config):
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
    """Toxic and other texts (JSONL of `text` and `toxic`), for the attribution methods `experts` and `probe`, and for
    `aura`, `value_vectors` and `probe_shift` in a comparison."""
    neutral: Path | None = None
    """Neutral text, one document a line; None: the English text that comes with the package."""
    scorer: str | tuple[str, ...] = ""
    """The judge of toxicity, or several: `profanity`, `detoxify:NAME_OR_CHECKPOINT`, `hf:NAME_OR_FOLDER[#LABEL]`. The
    first decides, the others report. Default: detoxify:original, and the offline profanity for the demo."""
    trust_pickle: bool = False
    """Open pickled weights of judges whose hash is not known; they may run any code."""
    host: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    prepend_bos: bool = False
    """Put the tokenizer's beginning-of-text token before every text (Hugging Face and ROME do not, for GPT-2)."""
    seed: Seed = 0
    """Seed of every stage that does not set its own."""
    split: PromptsConfig = PromptsConfig()
    trace: TraceConfig = TraceConfig()
    attribute: AttributeConfig = AttributeConfig()
    select: SelectConfig = SelectConfig()
    delete: DeleteConfig = DeleteConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    search: SearchConfig = SearchConfig()
    compare: CompareConfig = CompareConfig()
    with_comparison: bool = False
    """Whether `run` also compares with the field's methods, as the command `compare` does."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """The default scorer, the run's seed for the stages that name none, and what the demo needs."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("scorer") is None:
            data["scorer"] = "profanity" if data.get("model") == DEMO else "detoxify:original"
        if isinstance(data["scorer"], list | tuple) and len(data["scorer"]) == 1:
            data["scorer"] = data["scorer"][0]  # one way to say it, one hash of the run
        for stage in ("split", "trace", "attribute", "select", "search", "evaluate"):
            values = data.get(stage, {})
            if isinstance(values, dict):
                data[stage] = {"seed": data.get("seed", 0), **values}
        if data.get("model") == DEMO:
            data["compare"] = _for_the_demo(data.get("compare", {}))
        return data

    @field_validator("scorer")
    @classmethod
    def _each_once(cls, scorer: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(scorer, str) and len(set(scorer)) < len(scorer):
            raise ValueError("name each judge once")
        if not scorer or not all([scorer] if isinstance(scorer, str) else scorer):
            raise ValueError("a judge without a name: leave it out for the default, or name one")
        return scorer

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> "RunConfig":
        """Nothing that was asked for of the selection may be ignored."""
        select, delete = self.select, self.delete
        if self.search.trials:
            asked = {f"select.{name}": getattr(select, name) for name in ("k", "method", "layers")}
            asked |= {f"delete.{name}": getattr(delete, name) for name in ("law", "factor")}
            usual = {"select.method": "cost_aware", "delete.law": "zero", "delete.factor": 0.0}
            ignored = [name for name, value in asked.items() if value != usual.get(name)]
            if ignored:
                raise ValueError(
                    f"search.trials = {self.search.trials} seeks neurons, law and strength itself and would ignore "
                    f"{', '.join(ignored)}: leave out the one or the other (search.laws says which laws are tried)"
                )
        learned = self.search.trials == 0 and delete.law == "gates"
        if learned and select.method != "cost_aware":
            raise ValueError(
                f"delete.law = 'gates' learns among the neurons of highest score per cost: leave out select.method = "
                f"{select.method!r}"
            )
        if (learned or self.search.trials) and select.max_perplexity_increase == 0:
            what = "delete.law = 'gates'" if learned else "search.trials"
            raise ValueError(f"{what} needs select.max_perplexity_increase above 0")
        return self

    @property
    def scorers(self) -> tuple[str, ...]:
        """The judges' names, the one that decides first."""
        return (self.scorer,) if isinstance(self.scorer, str) else self.scorer

    def hash(self) -> str:
        """SHA-256 of all that changes results; of files it is their content that counts (see `store.py`)."""
        values = self.model_dump(mode="json", exclude=set(PLACES))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """The configuration as TOML; fields that are None are left out, as TOML has no null."""
        values = self.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({"format_version": FORMAT_VERSION, **values})


def _for_the_demo(compare: Any) -> Any:
    """ROME edits the prompt's last token: at the subject's, which the paper takes, no MLP of the demo mediates."""
    if not isinstance(compare, dict):
        return compare
    comparators = compare.get("comparators", {})
    rome = comparators.get("rome", {}) if isinstance(comparators, dict) else None
    if not isinstance(rome, dict):
        return compare
    return {**compare, "comparators": {**comparators, "rome": {"token": "last", **rome}}}


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked configuration from plain values (a TOML table, the command line).

    Raises:
        ToxmemError: in one line, naming each field that is wrong and what it may be; or a newer format version.
    """
    values = _of_this_version(values, "the configuration")
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        reason = describe_validation(error, root=RunConfig)
        raise ToxmemError(f"configuration: {reason}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ToxmemError: if it is missing, is no TOML, or of a newer format version.
    """
    try:
        return _of_this_version(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise ToxmemError(f"no configuration file at {path}") from None
    except ValueError as error:
        raise ToxmemError(f"{path} is no TOML: {error}") from None
    except RecursionError:
        raise ToxmemError(f"{path} is no TOML: nested too deeply") from None


def _of_this_version(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values without their `format_version`, which a file need not have."""
    version = values.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ToxmemError(
            f"{where} has format version {version}; this tl-toxmem reads version {FORMAT_VERSION}"
        )
    return {name: value for name, value in values.items() if name != "format_version"}
