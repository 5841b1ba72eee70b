"""What there is to examine, as checks that stand by themselves; each goes on where another one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import COMMAND
from airflow_provider_aihandoff.doctor.airflow_checks import check_airflow
from airflow_provider_aihandoff.doctor.connection_checks import (
    check_arrivals,
    check_delivery,
    check_provider,
    check_secrets,
)
from airflow_provider_aihandoff.doctor.dag_checks import check_dags
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.doctor.ledger_checks import check_ledger
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.hooks.model_provider import providers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """One examination.

    :param subject: what is examined; each check has its own.
    """

    subject: str
    run: Callable[[], Iterable[Finding]]


def checks_of(
    ledger_conn_id: str | None, conn_ids: Sequence[str], webhook_url: str | None = None, dags: str | None = None
) -> list[Check]:
    """The checks of the ledger, the connections and Airflow, from where they run.

    :param conn_ids: connections to model providers.
    :param webhook_url: the public URL of the receiver for the first of them; None: no test event is sent.
    :param dags: a Dag file, or a folder of them, to parse; None: none.
    """
    checks = [Check("ledger", partial(_ledger, ledger_conn_id))]
    checks += [Check(f"connection {conn_id}", partial(_connection, conn_id)) for conn_id in conn_ids]
    checks += [Check(f"webhooks of {conn_id}", partial(_arrivals, ledger_conn_id, conn_id)) for conn_id in conn_ids]
    if webhook_url is not None:
        checks.append(Check("webhook delivery", partial(_delivery, ledger_conn_id, webhook_url, conn_ids[0])))
    checks.append(Check("Airflow", check_airflow))
    if dags is not None:
        checks.append(Check("Dags", partial(check_dags, dags)))
    return checks


def findings_of(check: Check) -> list[Finding]:
    """What a check finds. That it fails is a finding too; the log has the error."""
    found: list[Finding] = []
    try:
        found.extend(check.run())
    except Exception as error:
        log.error("The check of %s failed.", check.subject, exc_info=shown(error))
        what = f"The check itself failed: {type(error).__name__}."
        fix = "The log of this process has the error."
        found.append(Finding(Level.ERROR, check.subject, what, "The rest of it was not examined.", fix))
    return found


def _ledger(ledger_conn_id: str | None) -> Iterator[Finding]:
    try:
        conninfo = LedgerHook(ledger_conn_id).conninfo()
    except (AirflowNotFoundException, ValueError) as error:
        fix = "Define a connection of the type Postgres with this name, or set [aihandoff] ledger_conn_id."
        yield Finding(Level.ERROR, "ledger", str(error), "Nothing runs without it.", fix)
    else:
        yield from check_ledger(conninfo)


def _connection(conn_id: str) -> Iterator[Finding]:
    with providers() as provider_for:
        yield check_provider(conn_id, provider_for)
    yield check_secrets(conn_id)


def _arrivals(ledger_conn_id: str | None, conn_id: str) -> Iterator[Finding]:
    with _open(ledger_conn_id) as ledger:
        if ledger is not None:
            yield check_arrivals(conn_id, ledger)


def _delivery(ledger_conn_id: str | None, url: str, conn_id: str) -> Iterator[Finding]:
    with _open(ledger_conn_id) as ledger:
        if ledger is None:
            return
        try:
            yield check_delivery(url, conn_id, ledger)
        except (HandoffError, LookupError, ValueError) as error:
            what = f"No test event could be signed: {type(error).__name__}."
            fix = "Fix the secrets first."
            yield Finding(Level.ERROR, "webhook delivery", what, "The delivery was not checked.", fix)


@contextmanager
def _open(ledger_conn_id: str | None) -> Iterator[Ledger | None]:
    """The ledger; None where it cannot be used, which the check of the ledger says."""
    try:
        ledger = LedgerHook(ledger_conn_id, limits=COMMAND).get_conn()
    except (HandoffError, AirflowNotFoundException, ValueError):
        yield None
        return
    with ledger:
        yield ledger
