"""What a request for changes can cost, and whether a budget has room for it: known before a reviewer asks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from airflow_provider_aihandoff.core.generation.change_request import worst_case_of_change
from airflow_provider_aihandoff.core.generation.provider import ProviderFacts
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import JobState

#: Characters of the comment that the figure is for. A longer one costs a little more.
CHARACTERS = 1_000


@dataclass(frozen=True)
class ChangeCost:
    """What a request for changes can cost now.

    :param worst_usd: at most, with a comment of :data:`CHARACTERS`; None where that is not known.
    :param unknown: why it is not known, as text without a full stop.
    :param held: what keeps it from being sent, as sentences: a budget without room, or the bound of the job. None where
        it would be sent.
    """

    worst_usd: Decimal | None
    unknown: str | None
    held: str | None


def change_cost(ledger: Ledger, record: JobRecord, facts: ProviderFacts) -> ChangeCost | None:
    """What a request for changes to the current revision can cost; None where no one can ask for them now.

    The same worst case is reserved when it is sent. Nothing is reserved here, and others may be sooner.

    :param facts: of the provider of its connection.
    """
    job = record.job
    if job.state is not JobState.REVIEW or job.review_digest is None:
        return None
    hidden = ledger.submission.first_request(job.job_id, job.revision) is None
    worst = worst_case_of_change(facts, record.revisions, record.revision, characters=CHARACTERS, hidden=hidden)
    kept_back = ledger.budgets.would_hold(job, record.revision.conn_id, worst)
    return ChangeCost(worst.cost_usd, worst.unknown, None if kept_back is None else kept_back.why)
