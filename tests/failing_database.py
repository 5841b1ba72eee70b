"""Makes changes of a table of the ledger fail, with the SQLSTATE of a real failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

#: As often as the sequence says: it outlives a roll-back.
_FAIL = """
    CREATE SEQUENCE failures;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF {where} AND nextval('failures') <= {times} THEN
            RAISE EXCEPTION 'made up' USING ERRCODE = '{state}', DETAIL = 'of the content';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER fail BEFORE {on} ON aihandoff.{table} FOR EACH ROW EXECUTE FUNCTION fail()"""
_REPAIR = "DROP FUNCTION IF EXISTS fail() CASCADE; DROP SEQUENCE IF EXISTS failures"

DISK_FULL = "53100"


@contextmanager
def failing(
    conninfo: dict[str, Any],
    table: str,
    state: str = DISK_FULL,
    *,
    times: int = 10**6,
    where: str = "true",
    on: str = "UPDATE",
) -> Iterator[None]:
    """While this lasts, the next changes of a table fail.

    :param where: the rows, as SQL about ``NEW``.
    """
    with psycopg.connect(**conninfo) as connection:
        connection.execute(_FAIL.format(table=table, state=state, times=times, where=where, on=on).encode())
    try:
        yield
    finally:
        with psycopg.connect(**conninfo) as connection:
            connection.execute(_REPAIR.encode())
