"""A model's sizes as JSON, for every family's dataclass of them."""

import dataclasses
import difflib
import json
from typing import Any, TypeVar

Config = TypeVar("Config")


def sizes_from_json(kind: type[Config], text: str, name: str) -> Config:
    """A dataclass of defaults, `kind`, from the JSON of its fields; absent keys take their defaults.

    Raises ValueError, which begins with the family's `name`, for text that is not a JSON object, for an unknown key and
    for a value of the wrong type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} sizes: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{name} sizes: expected a JSON object, got {type(values).__name__}")
    assert dataclasses.is_dataclass(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for key in values:
        if key not in defaults:
            nearest = difflib.get_close_matches(key, defaults, n=1, cutoff=0.0)[0]
            raise ValueError(f"{name} sizes: unknown key {key!r}; did you mean {nearest!r}?")
    return kind(**{key: _typed(f"{name} sizes: {key}", value, defaults[key]) for key, value in values.items()})


def _typed(where: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`: int, float, string, or tuple of the default's element type."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_typed(where, element, default[0]) for element in value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is type(default) and not isinstance(value, tuple):
        return value
    raise ValueError(f"{where}: {value!r} is not of type {type(default).__name__}")
