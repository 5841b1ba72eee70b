"""What the company begins with: tickets, products and sales figures. The same on every machine, on every day."""

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

LAST_WEEK = date(2026, 11, 16)
"""The Monday of the newest week in the sales figures."""
WEEKS = 26
REGIONS = ("North", "East", "South", "West")
FIRST_TICKET = 1001
TICKETS_OPENED = datetime(2026, 11, 19, 7, 40, tzinfo=UTC)
MORE_OPENED = datetime(2026, 11, 23, tzinfo=UTC)
"""When the first of the further tickets was opened; the others follow, one a second, on the same day."""
MOST_TICKETS = 24 * 60 * 60

SCHEMA = """
CREATE TABLE IF NOT EXISTS sales (
    week    date    NOT NULL,
    region  text    NOT NULL,
    product text    NOT NULL,
    units   integer NOT NULL,
    revenue numeric NOT NULL,
    PRIMARY KEY (week, region, product)
);
CREATE TABLE IF NOT EXISTS reports (
    report_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title      text        NOT NULL,
    body       jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""

Sale = tuple[date, str, str, int, Decimal]


def tickets(more: int = 0) -> list[dict[str, Any]]:
    """Return the helpdesk's tickets, the oldest first; none of them is labelled yet.

    :param more: how many further ones there are, of a busy day: like the first ones, from other customers.
    :raises ValueError: a day does not have so many.
    """
    if not 0 <= more <= MOST_TICKETS:
        raise ValueError(f"There can be 0 to {MOST_TICKETS} further tickets, not {more}.")
    written = _read("tickets.json")
    first = [
        _ticket(number, TICKETS_OPENED + timedelta(minutes=37 * number), ticket)
        for number, ticket in enumerate(written)
    ]
    return first + [
        _ticket(
            len(written) + number,
            MORE_OPENED + timedelta(seconds=number),
            {
                **written[number % len(written)],
                "status": "open",
                "customer": f"Customer {number + 1}",
                "email": f"customer.{number + 1}@example.com",
                "subject": f"{written[number % len(written)]['subject']} ({number + 1})",
            },
        )
        for number in range(more)
    ]


def _ticket(number: int, opened_at: datetime, ticket: Mapping[str, Any]) -> dict[str, Any]:
    unlabelled = {"category": None, "priority": None, "suggested_reply": None}
    return {
        "id": f"T-{FIRST_TICKET + number}",
        "status": "open",
        "opened_at": opened_at.isoformat(),
        **ticket,
        **unlabelled,
    }


def products(more: int = 0) -> list[dict[str, Any]]:
    """Return what the company sells: slug, name, audience, price and features.

    :param more: how many further ones there are: like the first ones, with a number at the end of the slug.
    """
    first = _read("products.json")
    copied = ((number, first[number % len(first)]) for number in range(more))
    return first + [{**product, "slug": f"{product['slug']}-{number + 1}"} for number, product in copied]


def sales() -> Iterator[Sale]:
    """Return units and revenue by week, region and product, with a few things in them that a report should find.

    The kettle falls after week 20, when its handles began to break; the purifier rises in the East; the last weeks
    have the season's rush.
    """
    noise = random.Random(20261116)  # noqa: S311  figures, not secrets
    for week_number in range(WEEKS):
        week = LAST_WEEK - timedelta(weeks=WEEKS - 1 - week_number)
        for region in REGIONS:
            for rank, product in enumerate(products()):
                expected = (70 + 18 * rank) * _trend(product["slug"], region, week_number)
                units = max(0, round(noise.gauss(expected, expected * 0.07)))
                yield week, region, product["name"], units, units * Decimal(product["price"])


def seed_business_database(connection_kwargs: Mapping[str, Any]) -> None:
    """Create the tables of the business database and fill in the sales figures; doing it again changes nothing."""
    insert = (
        "INSERT INTO sales (week, region, product, units, revenue) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
    )
    with psycopg.connect(**connection_kwargs) as connection, connection.cursor() as cursor:
        cursor.execute(SCHEMA)
        cursor.executemany(insert, list(sales()))


def _trend(slug: str, region: str, week_number: int) -> float:
    weight = {"North": 1.0, "East": 0.8, "South": 1.25, "West": 0.65}[region]
    season = 1.35 if week_number >= WEEKS - 3 else 1.0
    if slug == "tidewater-kettle" and week_number >= 20:
        return weight * season * 0.55
    if slug == "clearwell-purifier" and region == "East":
        return weight * season * (1 + 0.05 * week_number)
    return weight * season


def _read(name: str) -> list[dict[str, Any]]:
    return list(json.loads((Path(__file__).parent / name).read_text("utf-8")))
