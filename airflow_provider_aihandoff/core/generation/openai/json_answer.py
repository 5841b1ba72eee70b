"""An answer of OpenAI as JSON, and its fields. Pure.

To make the SDK's models of an answer takes longer than all that is read of it here. Where the SDK has made them anyway,
as of an event or of a page, they are read in the same way.
"""

from __future__ import annotations

import json
import math
from typing import Any


def json_of(content: bytes) -> Any:
    """The JSON of an answer; None where it is none. What is no finite number, such as NaN or 1e999, is null."""
    try:
        return json.loads(content, parse_constant=lambda name: None, parse_float=_finite)
    except ValueError:
        return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def field_of(answer: Any, name: str) -> Any:
    """A field of an answer, or of a part of it; None where there is none."""
    return answer.get(name) if isinstance(answer, dict) else getattr(answer, name, None)
