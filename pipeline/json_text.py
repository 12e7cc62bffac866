"""JSON that every reader takes: what is no number (NaN, infinities) is null."""

import json
import math
from typing import Any


def json_text(content: Any, **options: Any) -> str:
    """`json.dumps`, with null for what JSON has no number for."""
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
