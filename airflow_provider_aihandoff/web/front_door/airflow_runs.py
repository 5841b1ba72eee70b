"""Makes Airflow's runs for requests, as the API server can, and sees what became of them."""

from __future__ import annotations

import logging

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import JobRequestRefused, RunNotMade
from airflow_provider_aihandoff.core.job_requests.begin import AT_ONCE, FoundDag
from airflow_provider_aihandoff.core.job_requests.declared_type import PARAM
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.front_door.declared import check_input, job_type

log = logging.getLogger(__name__)

#: The states of runs that have ended, and of those that are no longer there.
_GONE = "gone"
_ENDED = frozenset({"success", "failed", _GONE})


class AirflowRuns:
    """Airflow as the maker of runs."""

    def check(self, request: JobRequest) -> FoundDag:
        """The Dag that does what is requested.

        :raises HandoffError: none does, or the request is not what it takes.
        """
        try:
            found = job_type(request.job_type)
        except SQLAlchemyError as error:
            raise _not_made(request, error) from error
        check_input(found.declared, request.input)
        if not isinstance(request.permissions, dict):
            raise JobRequestRefused("the permissions must be an object with fields.")
        return FoundDag(found.dag_id, found.declared.events_show_result)

    def make(self, dag_id: str, request: JobRequest) -> None:
        """Make the run of a request, or find the one that was made.

        :raises RunNotMade: it was not.
        """
        try:
            _trigger(dag_id, request)
        except (DagNotFound, ValueError) as error:
            raise RunNotMade(f"the run could not be made: {error}") from error
        except SQLAlchemyError as error:
            raise _not_made(request, error) from error


def follow_up(ledger: Ledger) -> None:
    """Fail the requests whose run has ended, or is gone, without a job: no one would hear of them otherwise."""
    waiting = ledger.job_requests.claim_jobless(AT_ONCE)
    if not waiting:
        return
    with create_session() as session:
        wanted = [each.own_run_id for each in waiting]
        runs = session.execute(select(DagRun.run_id, DagRun.state).where(DagRun.run_id.in_(wanted))).all()
    states = {run_id: str(getattr(state, "value", state)) for run_id, state in runs}
    for request in waiting:
        state = states.get(request.own_run_id, _GONE)
        if state in _ENDED:
            ledger.job_requests.fail(request, f"its run {request.own_run_id} is {state}, and has made no job")


def _trigger(dag_id: str, request: JobRequest) -> None:
    asked_by = request.recorded_by if request.recorded_by_kind == "user" else request.requested_by
    try:
        trigger_dag(
            dag_id,
            run_id=request.own_run_id,
            conf={PARAM: request.conf},
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=asked_by,
        )
    except DagRunAlreadyExists:
        log.info("The run of %s was made before.", request.label)
    except IntegrityError:
        if DagRun.find_duplicate(dag_id=dag_id, run_id=request.own_run_id) is None:
            raise
        log.info("The run of %s was made at the same time.", request.label)


def _not_made(request: JobRequest, error: SQLAlchemyError) -> RunNotMade:
    log.warning("No run was made of %s yet.", request.label, exc_info=shown(error))  # its text can name hosts
    return RunNotMade(f"Airflow's database gave no answer ({type(error).__name__})")
