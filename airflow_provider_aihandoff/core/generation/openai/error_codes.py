"""What OpenAI's error codes say. Pure."""

from __future__ import annotations

import re

#: What an error code names whose limit is one of money: ``insufficient_quota``, ``billing_hard_limit_reached``,
#: ``project_spend_limit_exceeded``, ``organization_spend_limit_exceeded``, and codes of their kind that are new.
_MONEY = re.compile(r"spend|billing|quota|budget|credit|(project|organi[sz]ation|account)_.*limit", re.IGNORECASE)

#: A limit of speed, whatever it counts by: it passes.
_SPEED = re.compile(r"rate_?limit|per_(second|minute|hour|day)", re.IGNORECASE)


def names_money(code: str) -> bool:
    """Whether an error code is that of a limit of money."""
    return _MONEY.search(code) is not None and _SPEED.search(code) is None
