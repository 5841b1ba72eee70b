"""Numbers and amounts of money as people read and write them. Pure."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_provider_aihandoff.core.errors import BudgetRefused

#: More than this is a mistake. PostgreSQL could keep it; people could not read it.
MAX_AMOUNT = Decimal(1_000_000_000)

#: The only currency in which prices are known.
CURRENCY = "USD"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def dollars(amount: Decimal) -> str:
    """An amount, exact to a hundredth of a cent below a dollar and to a cent from there on."""
    if 0 < amount < Decimal("0.0001"):
        return "under $0.0001"
    return f"${amount:,.4f}" if amount < 1 else f"${amount:,.2f}"


def checked_amount(amount: Any, *, what: str = "amount_usd") -> Decimal:
    """An amount of US dollars, above zero. ``20 USD`` and ``$20`` are as good as ``20``.

    :raises BudgetRefused: it is none.
    """
    text = str(amount).strip()
    if not text:
        raise BudgetRefused("there is no amount.", field=what, remedy="Give a number, such as 20.00.")
    if isinstance(amount, bool) or (text[-3:].isalpha() and text[-3:].upper() != CURRENCY) or text[:1] in "€£¥":
        raise BudgetRefused(
            f"{text!r} is no amount of {CURRENCY}: budgets are kept in US dollars, the currency of the prices.",
            field=what,
            remedy="Give the amount in US dollars, such as 20.00.",
        )
    text = text.removeprefix("$").removesuffix(text[-3:] if text[-3:].upper() == CURRENCY else "").strip()
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise BudgetRefused(f"{text!r} is no amount.", field=what, remedy="Give a number, such as 20.00.")
    if value <= 0:
        raise BudgetRefused(
            f"an amount must be above 0, not {value}.",
            field=what,
            remedy="To stop requests altogether, use `airflow aihandoff pause`.",
        )
    if value > MAX_AMOUNT:
        raise BudgetRefused(
            f"an amount can be at most {MAX_AMOUNT:,} USD.",
            field=what,
            remedy="Correct it and try again; nothing was changed.",
        )
    return value
