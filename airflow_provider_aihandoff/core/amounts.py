"""Numbers and amounts of money as people read them. Pure."""

from __future__ import annotations

from decimal import Decimal


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def dollars(amount: Decimal) -> str:
    """An amount, exact to a hundredth of a cent below a dollar and to a cent from there on."""
    if 0 < amount < Decimal("0.0001"):
        return "under $0.0001"
    return f"${amount:,.4f}" if amount < 1 else f"${amount:,.2f}"
