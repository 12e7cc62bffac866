"""Values of labels as the record's types, or None where they are something else."""

import json
import math
from typing import Any

LARGEST = 1e30  # what a float32 holds with room to spare
LARGEST_INT = 2**31 - 1
MAX_SIDE = 1_000_000
MAX_PIXELS = 2**31 - 1  # of an image; COCO's run lengths and their positions are 32-bit numbers


def parse_json(data: bytes, where: str) -> Any:
    """The content of a JSON file in any of Unicode's encodings, with or without a byte order mark. Raises ValueError
    with one line."""
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: cannot be read ({error.reason}); it is no JSON file in Unicode") from None
    except RecursionError:
        raise ValueError(f"{where}: its values are nested too deep; no labels are") from None
    except ValueError as error:
        raise ValueError(f"{where}: broken JSON ({error}); write the file anew") from None


def as_number(value: Any) -> float | None:
    """A finite number that a float32 holds; no truth value, no text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def as_int(value: Any) -> int | None:
    """A whole number of 32 bits, which may be written as 3.0."""
    number = as_number(value)
    if number is None or not number.is_integer() or abs(number) > LARGEST_INT:
        return None
    return int(number)


def as_numbers(value: Any, count: int) -> list[float] | None:
    """A list of so many numbers."""
    if not isinstance(value, list) or len(value) != count:
        return None
    numbers = [as_number(one) for one in value]
    return None if None in numbers else [one for one in numbers if one is not None]


def as_ints(value: Any, count: int) -> list[int] | None:
    """A list of so many whole numbers."""
    if not isinstance(value, list) or len(value) != count:
        return None
    numbers = [as_int(one) for one in value]
    return None if None in numbers else [one for one in numbers if one is not None]


def as_text(value: Any) -> str | None:
    """A text that is not empty; what is no character in it becomes `?`."""
    if not isinstance(value, str) or not value:
        return None
    return value.encode("utf-8", "replace").decode()


def as_identity(value: Any) -> int | str | None:
    """What names an image, category or person: a whole number, a text, or a number as text, which is that number."""
    if isinstance(value, str):
        number = int(value) if value.removeprefix("-").isdecimal() and len(value) < 20 else None
        return number if number is not None and str(number) == value else as_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value)


def as_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an image's record, whole numbers of pixels."""
    height, width = as_int(record.get("height")), as_int(record.get("width"))
    if height is None or width is None or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        return None
    return (height, width) if height * width <= MAX_PIXELS else None


def as_flag(value: Any) -> bool | None:
    """0, 1 or a truth value, in any of the ways that JSON writes them; null is no."""
    if value is None or value in ("", "0", "false", "False"):
        return False
    if value in ("1", "true", "True"):
        return True
    number = int(value) if isinstance(value, bool) else as_number(value)
    return bool(number) if number in (0, 1) else None
