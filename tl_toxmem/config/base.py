"""What every configuration is, and a pydantic error in one line."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tl_toxmem.checks import MOST_SEED

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
"""Of every random draw of a stage."""


class Config(BaseModel):
    """Frozen, with no settings but its own, and no number that is not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


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
