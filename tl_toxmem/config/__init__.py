"""Settings: one frozen configuration per stage, one file each, inside `RunConfig`."""

from tl_toxmem.config.attribute import BY_TEXTS, AttributeConfig, Attribution
from tl_toxmem.config.base import describe_validation
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.config.compare import CompareConfig
from tl_toxmem.config.editing import ProfsConfig, RomeConfig
from tl_toxmem.config.evaluate import (
    ALL_MEASURES,
    COSTLY,
    PRESETS,
    PROTOCOL_FIELDS,
    EvaluateConfig,
    MeasureName,
    Protocol,
)
from tl_toxmem.config.export import ExportConfig
from tl_toxmem.config.gates import GateConfig
from tl_toxmem.config.identity import FOLDER, OWN, stage_hash
from tl_toxmem.config.mine import MineConfig
from tl_toxmem.config.prompts import PromptsConfig
from tl_toxmem.config.run import (
    DEMO,
    FORMAT_VERSION,
    PLACES,
    STAGES,
    RunConfig,
    is_local,
    make_config,
    read_toml,
    shown_name,
)
from tl_toxmem.config.search import SearchConfig
from tl_toxmem.config.select import BY_SIZE, DeleteConfig, Part, SelectConfig
from tl_toxmem.config.trace import Corruption, Metric, Screen, Severed, TraceConfig

__all__ = [
    "ALL_MEASURES",
    "COSTLY",
    "BY_SIZE",
    "BY_TEXTS",
    "DEMO",
    "FOLDER",
    "FORMAT_VERSION",
    "OWN",
    "PLACES",
    "PRESETS",
    "PROTOCOL_FIELDS",
    "STAGES",
    "AttributeConfig",
    "Attribution",
    "ComparatorConfig",
    "CompareConfig",
    "Corruption",
    "DeleteConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "MeasureName",
    "Metric",
    "MineConfig",
    "Part",
    "ProfsConfig",
    "Protocol",
    "PromptsConfig",
    "RomeConfig",
    "RunConfig",
    "Screen",
    "SearchConfig",
    "SelectConfig",
    "Severed",
    "TraceConfig",
    "describe_validation",
    "is_local",
    "make_config",
    "read_toml",
    "shown_name",
    "stage_hash",
]
