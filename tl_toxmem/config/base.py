"""What every configuration is, and a pydantic error in one line."""

from collections.abc import Iterator, ValuesView
from difflib import get_close_matches
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from tl_toxmem.checks import MOST_SEED

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
"""Of every random draw of a stage."""
_LARGEST = 2**53
"""Of numbers: floating point has room for every whole number up to here, and C for the last."""
_SHOWN = 200
"""Characters of a value that are told."""


class Config(BaseModel):
    """Frozen, with no settings but its own, and no number that is not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_numbers(cls, value: Any, info: Any) -> Any:
        """Pydantic takes true for 1, and whole numbers that no library has room for."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float}:
            for number in _numbers(value):
                if isinstance(number, bool) and bool not in kinds:
                    raise ValueError("a number is needed, not true or false")
                if abs(number) > _LARGEST:
                    raise ValueError("a smaller number is needed")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """All types that stand in an annotation."""
    inner = [kind for part in get_args(annotation) for kind in _kinds(part)]
    return {annotation, *inner} if isinstance(annotation, type) else set(inner)


def _numbers(value: Any) -> Iterator[int | float]:
    """The finite numbers in a value, in its lists and tables too."""
    if isinstance(value, int | float) and value - value == 0:
        yield value
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(inner, list | tuple | ValuesView):
        for one in inner:
            yield from _numbers(one)


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
            meant = _meant(root, item["loc"])
            hint = f" (did you mean {' or '.join(meant)}?)" if meant else ""
            lines.append(f"{field}: unknown setting{hint}; choose from {names}")
            continue
        whole = item["type"] == "missing" or isinstance(item["input"], dict)
        got = "" if whole else f" (got {_short(repr(item['input']))})"
        message = item["msg"].removeprefix("Value error, ") + got
        lines.append(f"{field}: {message}" if field else message)
    return "; ".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _meant(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Settings that an unknown one may be a slip for: of nearly its name in its table, or of its name in another."""
    *tables, name = map(str, path)
    near = get_close_matches(name, _fields(root, tuple(tables)), n=1)
    if near:
        return [".".join([*tables, *near])]
    inside = [
        table
        for table, field in root.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    return [f"{table}.{name}" for table in inside if name in _fields(root, (table,))]


def _fields(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the settings in a table of the configuration."""
    model: Any = root
    for part in path:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
