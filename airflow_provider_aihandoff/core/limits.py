"""How long one process may wait for the ledger: for a lock, for a statement, between two statements."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds for which a transaction may be idle between two statements before the server ends it: a process that is
#: stopped in the middle of one keeps a lock that others wait for.
IDLE_LIMIT = 10.0


@dataclass(frozen=True)
class Limits:
    """The time-outs of a kind of process, in seconds.

    The server enforces them. They are sent with each BEGIN, in one message: a pooler that gives each transaction
    another session would lose what was set for a session, and some refuse what is set by the parameter ``options``.

    :param lock: for each lock that a statement waits for.
    :param statement: for each statement.
    :param patience: for how long a transaction that ran into one of them is run again.
    """

    lock: float
    statement: float
    patience: float

    def begin(self) -> bytes:
        """What opens a transaction."""
        limits = {
            "lock_timeout": self.lock,
            "statement_timeout": self.statement,
            "idle_in_transaction_session_timeout": IDLE_LIMIT,
        }
        settings = "; ".join(f"SET LOCAL {name} = {round(1000 * seconds)}" for name, seconds in limits.items())
        return f"BEGIN; {settings}".encode()


#: A task has time, and Airflow's retries come on top.
WORKER = Limits(lock=10.0, statement=60.0, patience=30.0)

#: What a killed or ended task leaves to do. What the hub asks has time-outs of its own.
TRIGGERER = Limits(lock=5.0, statement=20.0, patience=10.0)

#: Someone waits for the page, and others for its connection.
API_SERVER = Limits(lock=2.0, statement=10.0, patience=0.0)

#: OpenAI waits, and delivers again.
RECEIVER = Limits(lock=2.0, statement=5.0, patience=0.0)

#: A person, or a schedule, waits.
COMMAND = Limits(lock=10.0, statement=120.0, patience=30.0)
