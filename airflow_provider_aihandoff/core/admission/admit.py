"""Whether a request to the model, or an external write, may be sent now: asked in the transaction that permits it.

So the answer holds for the whole fleet, whatever dies: nothing is permitted that the ledger does not have.
"""

from __future__ import annotations

from datetime import datetime

from airflow_provider_aihandoff.core.admission import pause_store, spending_limit_store
from airflow_provider_aihandoff.core.admission.hold import Admitted, Hold
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.models import Effect, Job, Revision


def admit_request(connection: LedgerConnection, job: Job, revision: Revision, *, at: datetime) -> Hold | Admitted:
    """Whether the request of a revision may be sent now. Where it may, it is.

    :param at: the database's clock.
    """
    paused = pause_store.hold_of_request(connection, job, revision)
    return paused or spending_limit_store.admit(connection, job, revision, at=at)


def hold_of_write(connection: LedgerConnection, job: Job, effect: Effect) -> Hold | None:
    """Why an effect may not be sent now; None where it may, and is."""
    return pause_store.hold_of_write(connection, job, effect)
