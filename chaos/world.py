"""What an attempt needs to know of the world around it: the ledger, the model, the targets, and how long calls take."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from chaos.work import Work

#: The Airflow connections of an attempt.
OPENAI, CONVERSING, AGENTS = "chaos_openai", "chaos_conversing", "chaos_agents"
TARGET, DATABASE, LEDGER = "chaos_target", "chaos_database", "chaos_ledger"


@dataclass(frozen=True)
class World:
    """Where everything is. It travels to other processes as keyword arguments: every field is JSON.

    The times are those of production, shortened, so that a claim whose holder died is over after a moment.

    :param ledger: libpq's parameters of the ledger.
    :param openai_url: what an OpenAI client takes as its base URL; a stand-in's.
    :param target_url: the root of the HTTP target; :mod:`chaos.effects` says what is sent there.
    :param database: libpq's parameters of the target database; by default that of the ledger.
    :param call_timeout: seconds to connect to the target, and to wait for its answer.
    :param claim_margin: seconds within which a claim's call must begin: ``core.effects.apply.CLAIM_MARGIN``.
    :param database_seconds: how long a statement in the target database may take.
    :param grace: how long a probe that finds nothing is repeated.
    :param submit_timeout: seconds that a request to OpenAI may take.
    :param submit_margin: seconds within which a submission must begin.
    :param orphan_wait: seconds for which the webhook of a lost response is waited for.
    :param poll: seconds between two polls of a response.
    :param idle_limit: seconds for which a transaction may be idle.
    """

    ledger: Mapping[str, Any]
    openai_url: str
    target_url: str
    database: Mapping[str, Any] | None = None
    call_timeout: float = 0.5
    claim_margin: float = 1.0
    database_seconds: float = 0.5
    grace: float = 0.5
    submit_timeout: float = 1.0
    submit_margin: float = 1.0
    orphan_wait: float = 0.0
    poll: float = 0.1
    idle_limit: float = 1.0

    def variables(self) -> dict[str, str]:
        """The environment that makes Airflow's hooks find the connections; no metadata database is asked."""
        database = self.database or self.ledger
        connections: dict[str, dict[str, Any]] = {
            OPENAI: {"conn_type": "openai", "password": "sk-of-the-chaos-run", "host": self.openai_url},
            CONVERSING: {
                "conn_type": "openai",
                "password": "sk-of-the-chaos-run",
                "host": self.openai_url,
                "extra": {"conversations": True},
            },
            AGENTS: {"conn_type": "pydanticai", "password": "sk-of-the-chaos-run", "host": self.openai_url},
            TARGET: {"conn_type": "http", "host": self.target_url},
            DATABASE: _postgres(database),
            LEDGER: _postgres(self.ledger),
        }
        return {_variable(name): json.dumps(fields) for name, fields in connections.items()}

    def connect(self, work: Work) -> None:
        """Let this process find the OpenAI connection of a piece of work, where it has one of its own."""
        os.environ.setdefault(_variable(connection_of(work)), self.variables()[_variable(OPENAI)])

    def use(self) -> None:
        """Make this process live in this world: its connections, and the times of its calls."""
        from airflow_provider_aihandoff.core import limits
        from airflow_provider_aihandoff.core.effects import apply
        from airflow_provider_aihandoff.core.generation import submit
        from airflow_provider_aihandoff.core.sets import batch_send
        from airflow_provider_aihandoff.targets.postgres import PostgresTarget

        os.environ.update(self.variables())
        limits.IDLE_LIMIT = self.idle_limit
        apply.CLAIM_MARGIN = self.claim_margin
        apply._PROBE_BASE, apply._PROBE_CAP = 0.1, 0.5
        submit.SUBMIT_TIMEOUT = self.submit_timeout
        submit.SUBMIT_LEASE = timedelta(seconds=self.submit_timeout + self.submit_margin)
        submit.HANDLE_CHECK = timedelta(seconds=2 * (self.submit_timeout + self.submit_margin))
        submit._SEND_WITHIN = self.submit_margin
        batch_send.CREATE_TIMEOUT = batch_send.UPLOAD_TIMEOUT = self.submit_timeout
        batch_send.CREATE_LEASE = batch_send.FILL_LEASE = submit.SUBMIT_LEASE
        batch_send._CREATE_WITHIN = self.submit_margin
        submit._BACKOFF_BASE, submit._BACKOFF_CAP = 0.05, 0.2
        PostgresTarget.call_seconds = self.database_seconds


def connection_of(work: Work) -> str:
    """The OpenAI connection of a piece of work.

    Work that is refused with 429 has one of its own: the answer to one request slows down all of its connection.
    """
    if work.handle:
        return CONVERSING
    return f"{OPENAI}_{work.key}" if "=429" in work.model else OPENAI


def _postgres(conninfo: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "conn_type": "postgres",
        "host": conninfo["host"],
        "port": int(conninfo["port"]),
        "login": conninfo["user"],
        "password": conninfo.get("password"),
        "schema": conninfo["dbname"],
    }


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"
