"""Which errors of the database pass, so that the same transaction may succeed a moment later. Pure."""

from __future__ import annotations

import psycopg

from airflow_provider_aihandoff.core.error_text import database_text

#: Classes of SQLSTATE that pass: a broken connection, a transaction that lost against another one, and a server that
#: is out of disk, memory or connections.
_CLASSES = ("08", "40", "53")

#: Single ones. A server that is stopping or starting; a time-out; a standby, or a primary that is being switched.
_STATES = frozenset({"25006", "25P03", "25P04", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030"})

#: The ones that have taken their time already: a lock that was not given, a statement that took too long.
_TIMED_OUT = frozenset({"25P04", "55P03", "57014"})

READ_ONLY = "25006"

#: A prepared statement that another session has, or this one has not: a pooler has changed the session.
_OF_ANOTHER_SESSION = frozenset({"26000", "42P05"})

_WHAT_TO_DO = {
    "25006": "The server takes no writes: point the ledger's connection to the primary.",
    "53100": "Make room on the database server's disk.",
    "53300": "Raise max_connections, or put a pooler in front of the server.",
    "55P03": "Another session holds a lock: pg_blocking_pids() names it.",
    "57014": "A statement took too long, or was cancelled: see pg_stat_activity for what slows the server down.",
}


def passes(error: psycopg.Error) -> bool:
    """Whether the same transaction may succeed later, as it is. The server has rolled it back."""
    state = error.sqlstate or ""
    return state.startswith(_CLASSES) or state in _STATES


def timed_out(error: psycopg.Error) -> bool:
    """Whether it has waited for as long as it may."""
    return error.sqlstate in _TIMED_OUT


def is_read_only(error: psycopg.Error) -> bool:
    """Whether the connection leads to a server that takes no writes."""
    return error.sqlstate == READ_ONLY


def is_of_another_session(error: psycopg.Error) -> bool:
    """Whether statements are prepared through a pooler that gives each transaction another session."""
    return error.sqlstate in _OF_ANOTHER_SESSION


def describe(error: psycopg.Error) -> str:
    """What the server said: its primary message, never the DETAIL, which has content."""
    return database_text(error).rstrip(".") or type(error).__name__


def what_to_do(error: psycopg.Error) -> str:
    """The next step, as a sentence."""
    return _WHAT_TO_DO.get(error.sqlstate or "", "Check the database server.")
