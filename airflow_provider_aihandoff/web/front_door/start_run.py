"""Makes the one Dag run of a request, however often it is begun and whoever begins it."""

from __future__ import annotations

import logging

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import (
    HandoffError,
    JobRequestRefused,
    JobTypeAmbiguous,
    JobTypeNotFound,
    LedgerUnavailable,
)
from airflow_provider_aihandoff.core.job_requests.declared_type import PARAM
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest, RequestState
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.front_door.declared import check_input, job_type

log = logging.getLogger(__name__)

#: Requests that one round takes: a run takes some tens of milliseconds.
_AT_ONCE = 20

#: Of runs that have ended, whatever Airflow calls the other states.
_GONE = "gone"
_ENDED_RUNS = frozenset({"success", "failed", _GONE})


def start(ledger: Ledger, request: JobRequest) -> JobRequest:
    """Make the run of a request, or find the one that was made; record what came of it. Safe to repeat.

    Its id is that of the request, and Airflow has one run of an id: two who begin at the same time make one.

    :raises LedgerUnavailable: it is not recorded; the next one to begin finds the run.
    """
    if request.state is not RequestState.RECORDED:
        return request
    try:
        found = job_type(request.job_type)
        check_input(found.declared, request.input)
        if not isinstance(request.permissions, dict):
            raise JobRequestRefused("the permissions must be an object with fields.")
        reached("request.start run", "before call")
        _make_run(found.dag_id, request)
        reached("request.start run", "after call")
    except JobRequestRefused as error:
        return ledger.job_requests.refuse(request, error.what)
    except (JobTypeNotFound, JobTypeAmbiguous) as error:
        return ledger.job_requests.postpone(request, error.what)
    except (DagNotFound, ValueError) as error:
        return ledger.job_requests.postpone(request, f"the run could not be made: {error}")
    except SQLAlchemyError as error:  # its text can name hosts and content
        log.warning("No run was made of %s yet.", request.label, exc_info=shown(error))
        return ledger.job_requests.postpone(request, f"Airflow's database: {type(error).__name__}")
    return ledger.job_requests.started(request, dag_id=found.dag_id)


def start_due(ledger: Ledger) -> int:
    """Make the runs of the requests of which none is known; return how many requests that were."""
    claimed = ledger.job_requests.claim(_AT_ONCE)
    for request in claimed:
        try:
            start(ledger, request)
        except LedgerUnavailable:
            raise
        except HandoffError as error:
            log.warning("%s: %s", request.label, error)
    return len(claimed)


def follow_up(ledger: Ledger) -> None:
    """Fail the requests whose run has ended, or is gone, without a job: no one would hear of them otherwise."""
    waiting = ledger.job_requests.claim_jobless(_AT_ONCE)
    if not waiting:
        return
    with create_session() as session:
        wanted = [each.own_run_id for each in waiting]
        runs = session.execute(select(DagRun.run_id, DagRun.state).where(DagRun.run_id.in_(wanted))).all()
    states = {run_id: str(getattr(state, "value", state)) for run_id, state in runs}
    for request in waiting:
        state = states.get(request.own_run_id, _GONE)
        if state in _ENDED_RUNS:
            ledger.job_requests.fail(request, f"its run {request.own_run_id} is {state}, and has made no job")


def _make_run(dag_id: str, request: JobRequest) -> None:
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
