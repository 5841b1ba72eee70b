"""The job types that Dags declare, as the API server reads them: of serialized Dags, since no Dag file is run here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.models.dag import DagModel, DagTag
from airflow.models.dag_version import DagVersion
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import JobRequestRefused, JobTypeAmbiguous, JobTypeNotFound
from airflow_provider_aihandoff.core.job_requests.declared_type import KEYWORD, PARAM, TAG, DeclaredType
from airflow_provider_aihandoff.core.text import first_problem, unstorable
from airflow_provider_aihandoff.web.auth import Viewer
from airflow_provider_aihandoff.web.render import json_form
from airflow_provider_aihandoff.web.render.linear_validator import LinearValidator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobTypeOfDag:
    """A job type, with the Dag that declares it."""

    dag_id: str
    declared: DeclaredType
    is_paused: bool


#: What the newest version of each Dag declares, by the hash of that version.
_read: dict[str, tuple[str, DeclaredType | None]] = {}
_reading = threading.Lock()


def job_types() -> list[JobTypeOfDag]:
    """What the Dags declare that are there now, by name."""
    with create_session() as session:
        found = [
            JobTypeOfDag(dag_id, declared, is_paused)
            for dag_id, is_paused in session.execute(_DAGS).all()
            if (declared := _declared(session, dag_id)) is not None
        ]
    return sorted(found, key=lambda each: (each.declared.name, each.dag_id))


_DAGS = (
    select(DagModel.dag_id, DagModel.is_paused)
    .join(DagTag, DagTag.dag_id == DagModel.dag_id)
    .where(DagTag.name == TAG, DagModel.is_stale.is_(False))
)


def job_type(name: str) -> JobTypeOfDag:
    """The job type of a name.

    :raises JobTypeNotFound: no Dag declares it.
    :raises JobTypeAmbiguous: more than one does.
    """
    found = [each for each in job_types() if each.declared.name == name]
    if not found:
        raise JobTypeNotFound(f"no Dag does jobs of the type {name!r}.", written=NOT_RECORDED)
    if len(found) > 1:
        raise JobTypeAmbiguous(
            f"the Dags {', '.join(each.dag_id for each in found)} all declare the job type {name!r}.",
            written=NOT_RECORDED,
            remedy="Their authors have to give all but one of them another name.",
        )
    return found[0]


NOT_RECORDED = "Nothing was recorded, and no external write was made."


def may_ask(viewer: Viewer, found: JobTypeOfDag) -> bool:
    """Whether a user may ask for jobs of a type: its author names them; or no one, and they may trigger the Dag."""
    if found.declared.named:
        return viewer.person in found.declared.named
    return viewer.may_trigger(found.dag_id)


def check_input(declared: DeclaredType, value: Any) -> None:
    """Return when an input is what its type takes.

    :raises JobRequestRefused: it is not; with each field.
    """
    problems: list[tuple[str, str]] = []
    try:
        size = len(canonical_json(value))
    except (ValueError, RecursionError):
        problems = [("input", "It is not JSON that can be kept.")]
    else:
        if size > declared.max_bytes:
            problems = [("", f"It has {size:,} bytes as JSON; at most {declared.max_bytes:,} are allowed.")]
        elif found := first_problem(value, unstorable):  # Airflow's database cannot have it in the conf of a run
            problems = [("", f"It has {found}.")]
        else:
            found_in = json_form.check(dict(declared.schema), value)
            problems = [(".".join(map(str, path)), said) for path, said in found_in]
        problems = [(f"input.{path}" if path else "input", said) for path, said in problems]
    if problems:
        listed = "; ".join(f"{path}: {said}" for path, said in problems)
        raise JobRequestRefused(
            f"the input is not what the job type {declared.name!r} takes: {listed}",
            problems=problems,
            written=NOT_RECORDED,
        )


def _declared(session: Session, dag_id: str) -> DeclaredType | None:
    newest = session.execute(
        select(SerializedDagModel.dag_hash)
        .join(DagVersion, SerializedDagModel.dag_version_id == DagVersion.id)
        .where(SerializedDagModel.dag_id == dag_id)
        .order_by(DagVersion.version_number.desc())
        .limit(1)
    ).scalar()
    if newest is None:
        return None
    with _reading:
        seen, declared = _read.get(dag_id, ("", None))
    if seen != newest:
        declared = _read_declaration(session, dag_id)
        with _reading:
            _read[dag_id] = (newest, declared)
    return declared


def _read_declaration(session: Session, dag_id: str) -> DeclaredType | None:
    """What a Dag declares; None where it cannot be used, which the log says once for a version."""
    dag = SerializedDagModel.get_dag(dag_id, session=session)
    if dag is None or PARAM not in dag.params:
        return None
    said: Mapping[str, Any] = dag.params.get_param(PARAM).schema
    try:
        declared = DeclaredType.from_json(said[KEYWORD])
        LinearValidator.check_schema(dict(declared.schema))
    except Exception as error:
        log.warning("The job type that the Dag %r declares cannot be used.", dag_id, exc_info=shown(error))
        return None
    return declared
