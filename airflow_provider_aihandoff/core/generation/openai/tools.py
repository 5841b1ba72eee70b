"""Counts the calls of OpenAI's own tools, which are billed beside the tokens, and prices them as configured. Pure.

The response's usage does not have them, and the price data has no price for them: what is known is how many there were.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.errors import BudgetRefused
from airflow_provider_aihandoff.core.generation.openai.json_answer import field_of

#: Where the calls stand in the usage that is kept, by the type of their items: those without a price, and the others.
TOOL_CALLS = "tool_calls"
PRICED_TOOL_CALLS = "priced_tool_calls"

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
#: The same tools, as a request names them.
_TOOLS_NOT_BILLED = frozenset(
    {"apply_patch", "computer", "computer_use", "custom", "function", "local_shell", "mcp", "tool_search"}
)
#: What a release adds to the name of a tool: ``web_search_preview_2025_03_11`` is a web search.
_RELEASE = re.compile(r"(_preview)?(_\d{4}_\d{2}_\d{2})?$")


@dataclass(frozen=True)
class ToolPrices:
    """What one call of each of OpenAI's tools costs, as it is configured.

    :param usd: by the type of the tool, such as ``web_search``.
    :param wrong: why the configuration is not valid, as text without a full stop; None where it is.
    """

    usd: Mapping[str, Decimal] = field(default_factory=dict)
    wrong: str | None = None

    @classmethod
    def of_text(cls, text: str) -> ToolPrices:
        """Prices as a JSON object, such as ``{"web_search": 0.01}``; an empty text has none. Raises nothing."""
        if not text.strip():
            return cls()
        try:
            read = json.loads(text, parse_float=Decimal)
        except ValueError:
            return cls(wrong="it is not valid JSON")
        if not isinstance(read, dict):
            return cls(wrong="it is not a JSON object of tools and their prices")
        prices = {}
        for tool, price in read.items():
            try:
                prices[tool] = Decimal(0) if price == 0 and price is not False else checked_amount(price)
            except BudgetRefused as error:
                return cls(wrong=f"the price of {tool!r}: {error.what.rstrip('.')}")
        return cls(prices)

    def of(self, kind: str) -> Decimal | None:
        """The price of a call; None where none is configured.

        :param kind: the type of a tool or of its call; what a release adds to it may be left out in the configuration.
        """
        name = kind.removesuffix(_CALL)
        return self.usd.get(name, self.usd.get(_RELEASE.sub("", name)))

    def dearest(self, tools: Any) -> tuple[Decimal, str | None]:
        """The dearest call that a request allows, and why that is not known, as text without a full stop, if so.

        :param tools: those of the request.
        """
        kinds = [str(each.get("type")) for each in tools or [] if isinstance(each, Mapping)]
        billed = [kind for kind in kinds if _RELEASE.sub("", kind) not in _TOOLS_NOT_BILLED]
        if billed and self.wrong is not None:
            return Decimal(0), f"the option [aihandoff] tool_prices is not valid: {self.wrong}"
        for kind in billed:
            if self.of(kind) is None:
                return Decimal(0), f"a call of the tool {kind!r} has no price; [aihandoff] tool_prices names them"
        return max((self.of(kind) or Decimal(0) for kind in billed), default=Decimal(0)), None


def with_tool_calls(
    usage: dict[str, Any] | None, output: Any, prices: ToolPrices | None = None
) -> dict[str, Any] | None:
    """The usage of a response with the calls of tools that its output items show; None where it has no usage.

    :param output: its items. A call of a type that is not known here counts: its price is not known either.
    """
    if usage is None:
        return None
    items = output if isinstance(output, (list, tuple)) else ()
    kinds = [str(field_of(item, "type")) for item in items]
    calls = Counter(kind for kind in kinds if kind.endswith(_CALL) and kind not in _NOT_BILLED)
    priced = {kind for kind in calls if prices is not None and prices.of(kind) is not None}
    found = {
        TOOL_CALLS: {kind: number for kind, number in sorted(calls.items()) if kind not in priced},
        PRICED_TOOL_CALLS: {kind: number for kind, number in sorted(calls.items()) if kind in priced},
    }
    return {**usage, **{name: each for name, each in found.items() if each}}


def fees(usage: Mapping[str, Any], prices: ToolPrices) -> Decimal:
    """What the calls in the usage of a response cost whose price is known."""
    calls: Mapping[str, int] = usage.get(PRICED_TOOL_CALLS) or {}
    return sum((number * (prices.of(kind) or Decimal(0)) for kind, number in calls.items()), Decimal(0))
