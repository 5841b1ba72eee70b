"""Runs every check, and goes on after one that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.ledger import Ledger
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


def examine(
    ledger_conn_id: str | None, conn_ids: Sequence[str], webhook_url: str | None = None, dags: str | None = None
) -> Iterator[Finding]:
    """Examine the ledger, the connections and Airflow, from where this runs.

    :param conn_ids: connections to model providers.
    :param webhook_url: the public URL of the receiver for the first of them; None: no test event is sent.
    :param dags: a Dag file, or a folder of them, to parse; None: none.
    """
    hook = LedgerHook(ledger_conn_id)
    usable = True
    try:
        conninfo = hook.conninfo()
    except (AirflowNotFoundException, ValueError) as error:
        usable = False
        fix = "Define a connection of the type Postgres with this name, or set [aihandoff] ledger_conn_id."
        yield Finding(Level.ERROR, "ledger", str(error), "Nothing runs without it.", fix)
    else:
        for finding in check_ledger(conninfo):
            usable = usable and not (finding.level is Level.ERROR and finding.subject in ("ledger", "ledger schema"))
            yield finding
    with providers() as provider_for:
        for conn_id in conn_ids:
            yield check_provider(conn_id, provider_for)
            yield check_secrets(conn_id)
    if usable:
        with hook.get_conn() as ledger:
            for conn_id in conn_ids:
                yield check_arrivals(conn_id, ledger)
            if webhook_url is not None:
                yield _delivered(webhook_url, conn_ids[0], ledger)
    yield from check_airflow()
    if dags is not None:
        yield from check_dags(dags)


def _delivered(url: str, conn_id: str, ledger: Ledger) -> Finding:
    try:
        return check_delivery(url, conn_id, ledger)
    except (HandoffError, LookupError, ValueError) as error:
        what = f"No test event could be signed: {type(error).__name__}."
        return Finding(Level.ERROR, "webhook delivery", what, "The delivery was not checked.", "Fix the secrets first.")
