"""Counts the calls of OpenAI's own tools, which are billed beside the tokens. Pure.

The response's usage does not have them, and the price data has no price for them: what is known is how many there were.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

#: Where the calls stand in the usage that is kept, by the type of their items.
TOOL_CALLS = "tool_calls"

_CALL = "_call"

#: Calls that OpenAI asks for and another system makes: they are billed as tokens alone.
_NOT_BILLED = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "mcp_call",
        "tool_search_call",
    }
)


def with_tool_calls(usage: dict[str, Any] | None, output: Any) -> dict[str, Any] | None:
    """The usage of a response with the calls of tools that its output items show; None where it has no usage.

    :param output: its items. A call of a type that is not known here counts: its price is not known either.
    """
    if usage is None:
        return None
    items = output if isinstance(output, (list, tuple)) else ()
    kinds = [str(getattr(item, "type", None)) for item in items]
    calls = Counter(kind for kind in kinds if kind.endswith(_CALL) and kind not in _NOT_BILLED)
    return {**usage, TOOL_CALLS: dict(sorted(calls.items()))} if calls else usage
