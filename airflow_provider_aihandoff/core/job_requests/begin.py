"""Makes the one run of a request, however often that is begun, and in however many processes."""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.errors import (
    HandoffError,
    JobRequestRefused,
    JobTypeAmbiguous,
    JobTypeNotFound,
    LedgerUnavailable,
    RunNotMade,
)
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest, RequestState
from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: Requests that one round takes: a run takes some tens of milliseconds, and a round must end within the lease.
AT_ONCE = 20


class FoundDag(NamedTuple):
    """The Dag that does what is requested, and what its author says of it.

    :param events_show_result: the output is put into the event that it is done.
    """

    dag_id: str
    events_show_result: bool = False


class RunMaker(Protocol):
    """Where runs are made."""

    def check(self, request: JobRequest) -> FoundDag:
        """The Dag that does what is requested.

        :raises JobRequestRefused: it is not what its type takes.
        :raises JobTypeNotFound: no Dag does it now.
        :raises JobTypeAmbiguous: several say that they do.
        """

    def make(self, dag_id: str, request: JobRequest) -> None:
        """Make the run with the request's own id, or find that it was made: there is one run of an id.

        :raises RunNotMade: it was not.
        """


def begin(ledger: Ledger, request: JobRequest, maker: RunMaker) -> JobRequest:
    """Make the run of a request, and record what came of that. Safe to repeat, also at the same time.

    :raises LedgerUnavailable: it is not recorded; the next one to begin finds the run.
    """
    if request.state is not RequestState.RECORDED:
        return request
    try:
        found = maker.check(request)
        reached("request.make run", "before call")
        maker.make(found.dag_id, request)
        reached("request.make run", "after call")
    except JobRequestRefused as error:
        return ledger.job_requests.refuse(request, error.what)
    except (JobTypeNotFound, JobTypeAmbiguous, RunNotMade) as error:
        return ledger.job_requests.postpone(request, error.what)
    return ledger.job_requests.started(request, dag_id=found.dag_id, events_show_result=found.events_show_result)


def begin_due(ledger: Ledger, maker: RunMaker) -> int:
    """Make the runs of the requests of which none is known; return how many requests that were."""
    claimed = ledger.job_requests.claim(AT_ONCE)
    for request in claimed:
        try:
            begin(ledger, request, maker)
        except LedgerUnavailable:
            raise
        except HandoffError as error:
            log.warning("%s: %s", request.label, error)
    return len(claimed)
