"""Runs `airflow aihandoff` through Airflow's own parser, on a ledger of which each call is kept and answered here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest

from airflow_provider_aihandoff.cli import common
from airflow_provider_aihandoff.core.admission.pause_store import Pauses
from airflow_provider_aihandoff.core.admission.spending_limit_store import SpendingLimits
from airflow_provider_aihandoff.core.budgets.budget_store import Budgets
from airflow_provider_aihandoff.core.budgets.spending_store import Spending
from airflow_provider_aihandoff.core.bulk.bulk_store import Bulks
from airflow_provider_aihandoff.core.effects.effect_store import Effects
from airflow_provider_aihandoff.core.generation.submission_store import Submission
from airflow_provider_aihandoff.core.jobs.acknowledge_store import Acknowledgements
from airflow_provider_aihandoff.core.jobs.job_search_store import JobSearch
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.rates.rate_limit_store import RateLimits
from airflow_provider_aihandoff.core.review.reassign_store import Reassignments
from airflow_provider_aihandoff.core.review.review_store import Reviews
from airflow_provider_aihandoff.core.sets.batch_store import Batches
from airflow_provider_aihandoff.core.sets.set_store import Sets
from airflow_provider_aihandoff.core.webhooks.inbox import Inbox
from tests.airflow_compat import get_parser

Airflow = Callable[..., str]

STORES: dict[str, type] = {
    "acknowledgements": Acknowledgements,
    "batches": Batches,
    "budgets": Budgets,
    "bulks": Bulks,
    "effects": Effects,
    "inbox": Inbox,
    "pauses": Pauses,
    "rate_limits": RateLimits,
    "reassignments": Reassignments,
    "reviews": Reviews,
    "search": JobSearch,
    "sets": Sets,
    "spending": Spending,
    "spending_limits": SpendingLimits,
    "submission": Submission,
}


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ledger whose methods have the arguments of the real ones, and answer what a test says."""
    fake = create_autospec(Ledger, instance=True)
    for name, store in STORES.items():
        setattr(fake, name, create_autospec(store, instance=True))

    @contextmanager
    def connected(max_size: int) -> Iterator[Any]:
        yield fake

    monkeypatch.setattr(common, "LedgerHook", lambda conn_id, limits: SimpleNamespace(get_conn=connected))
    monkeypatch.setattr(common, "set_up_metrics", lambda: None)
    return fake


@pytest.fixture
def airflow(ledger: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Airflow:
    """Runs a command, and returns what it printed: on the standard output first, then on the standard error."""

    def run(*words: object) -> str:
        args = get_parser().parse_args(["aihandoff", *map(str, words)])
        try:
            args.func(args)
        finally:
            printed = capsys.readouterr()
            run.printed = printed.out + printed.err  # type: ignore[attr-defined]
        return printed.out + printed.err

    monkeypatch.setattr(common, "account", lambda: "carol")
    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """What the person at the terminal answers to a question; None: there is no one."""

    def answer(text: str | None) -> None:
        def ask(question: str) -> str:
            if text is None:
                raise EOFError
            return text

        monkeypatch.setattr("builtins.input", ask)

    return answer
