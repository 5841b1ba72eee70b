"""One run over everything that may have been left behind.

It may run at any time, in parallel with live tasks and with itself: each step checks again what was found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import HandoffError, LedgerUnavailable
from airflow_provider_aihandoff.core.generation.provider import ProviderFor
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.findings import LIMIT, Finding, first_of, first_of_each
from airflow_provider_aihandoff.core.reconcile.scan import Search, StatesOf

log = logging.getLogger(__name__)

#: Steps in a row that could not reach the ledger, after which the others are left to the next run.
_UNREACHABLE = 3


def reconcile(
    ledger: Ledger,
    *,
    provider_for: ProviderFor,
    states_of: StatesOf,
    inbox_retention: timedelta,
    dry_run: bool = False,
    limit: int = LIMIT,
) -> list[Finding]:
    """Find what no task waits for, the oldest first, and take the next step for each.

    A step that fails is reported, and does not stop the others. Safe to repeat.

    :param inbox_retention: how long webhooks are remembered, except those in quarantine.
    :param dry_run: only say what would be done; nothing is changed and OpenAI is not asked.
    :param limit: the most findings of one kind.
    :raises LedgerUnavailable: the ledger is unavailable. What was done until then is recorded.
    """
    search = Search(ledger, provider_for, states_of)
    searches = (
        # Webhooks first: they may bring a response that is then no longer missing.
        first_of(search.due_webhooks(limit + 1), limit),
        first_of(search.matched_webhooks(limit + 1), limit),
        first_of(search.unexplained_webhooks(limit + 1), limit),
        first_of_each(search.jobs(), limit),
        first_of(search.left_batches(limit + 1), limit),
        first_of(search.surplus_responses(limit + 1), limit),
        first_of(search.expired_reviews(limit + 1), limit),
        first_of(search.unsaid_reviews(limit + 1), limit),
        first_of(search.expired_claims(limit + 1), limit),
        first_of(search.skipped_effects(), limit),
        search.old_webhooks(inbox_retention),
        search.expired_reservations(),
    )
    findings: list[Finding] = []
    unreachable: list[LedgerUnavailable] = []
    for finding, step in (planned for found in searches for planned in found):
        seen = finding if step is None or dry_run else _take(finding, step, unreachable)
        log.log(logging.WARNING if seen.failed else logging.INFO, "%s", seen)
        if not dry_run:
            result = "failed" if seen.failed else "left" if seen.done is None else "done"
            signals.count(signals.FINDINGS, kind=seen.kind, result=result)
        findings.append(seen)
    if unreachable and all(finding.failed for finding in findings):
        raise unreachable[-1]
    return findings


def reconcile_job(ledger: Ledger, job_id: int, *, provider_for: ProviderFor, states_of: StatesOf) -> list[Finding]:
    """Find what no task waits for of one job, and take the next step for each. Safe to repeat.

    :raises LedgerUnavailable: the ledger is unavailable. What was done until then is recorded.
    """
    unreachable: list[LedgerUnavailable] = []
    findings = [
        finding if step is None else _take(finding, step, unreachable)
        for finding, step in Search(ledger, provider_for, states_of).of_job(job_id)
    ]
    if unreachable:
        raise unreachable[-1]
    return findings


def _take(finding: Finding, step: Callable[[], str], unreachable: list[LedgerUnavailable]) -> Finding:
    """Take one step.

    :param unreachable: the errors of the last steps in a row that could not reach the ledger; kept up to date.
    :raises LedgerUnavailable: there are too many of them.
    """
    try:
        done = step()
    except Exception as error:
        if not isinstance(error, LedgerUnavailable):
            unreachable.clear()
        else:
            unreachable.append(error)
            if len(unreachable) >= _UNREACHABLE:
                raise
        seen = shown(error)
        log.warning("A step failed: job %s, webhook %s.", finding.job_id, finding.webhook_id, exc_info=seen)
        why = str(seen) if isinstance(error, HandoffError) else str(seen)[:200]
        return replace(finding, done=f"failed: {why}", failed=True)
    unreachable.clear()
    return replace(finding, done=done)
