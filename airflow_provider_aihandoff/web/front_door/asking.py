"""What a user asks for, checked and recorded; and what they see of it: never a word of those who review it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.arguments import MAX_JOB_KEY, identifier, json_value
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    JobRequestNotFound,
    JobRequestRefused,
    JobTypeAmbiguous,
    JobTypeNotFound,
    RequestError,
)
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.job_requests.begin import begin
from airflow_provider_aihandoff.core.job_requests.job_request import (
    JobRequest,
    Standing,
    Wanted,
    may_cancel,
    standing_of,
)
from airflow_provider_aihandoff.core.job_requests.request_store import Followed
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.core.text import first_problem, unstorable
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.web.auth import MayNotAskForOthers, RequestKeyMissing, Viewer
from airflow_provider_aihandoff.web.front_door.airflow_runs import AirflowRuns
from airflow_provider_aihandoff.web.front_door.declared import (
    NOT_RECORDED,
    JobTypeOfDag,
    check_input,
    job_type,
    may_ask,
)

log = logging.getLogger(__name__)

#: Characters of an idempotency key.
MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True)
class View:
    """A request as those who asked see it.

    :param content: for programs.
    :param followed: what it was read from.
    """

    content: Mapping[str, Any]
    followed: Followed

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return bool(self.content["ended"])


def ask(
    ledger: Ledger,
    viewer: Viewer,
    *,
    type_name: str,
    input: Mapping[str, Any],
    key: str | None = None,
    idempotency_key: str | None = None,
    permissions: Mapping[str, Any] | None = None,
    requested_for: str | None = None,
) -> JobRequest:
    """Record what a user asks for, once, and have its Dag run made.

    Whatever becomes of the run, the request is recorded when this returns: others make it otherwise.

    :raises HandoffError: it was refused, and nothing was recorded.
    """
    found = _type_for(viewer, type_name)
    key = None if key is None else _name("key", key, MAX_JOB_KEY)
    idempotency_key = None if idempotency_key is None else _idempotency_key(idempotency_key)
    if key is None and idempotency_key is None:
        raise RequestKeyMissing(
            "a request needs a key, or the header Idempotency-Key: sent twice, it would make two jobs otherwise.",
            written=NOT_RECORDED,
        )
    check_input(found.declared, input)
    _check_permissions(permissions or {})
    login = str(viewer.user.get_name())
    wanted = Wanted(
        found.declared.name,
        input,
        _requester(login, requested_for),
        job_key=key,
        permissions=permissions,
        requested_by_id=None if requested_for else viewer.actor.user_id,
        idempotency_key=idempotency_key,
    )
    request = ledger.job_requests.record(
        wanted,
        recorded_by=login,
        per_minute=found.declared.per_minute,
        requests_per_minute=int(settings.number("requests_per_minute")),
    )
    try:
        return begin(ledger, request, AirflowRuns())
    except Exception as error:
        log.warning("%s was recorded, and its run is made later.", request.label, exc_info=shown(error))
        return request


def read(ledger: Ledger, viewer: Viewer, request_id: UUID) -> View:
    """A request of the user's, or of a Dag whose jobs they may see.

    :raises JobRequestNotFound: there is none, or it is not theirs. The error does not say which.
    """
    return _view(ledger, _visible(ledger, viewer, request_id))


def cancel(ledger: Ledger, viewer: Viewer, request_id: UUID) -> View:
    """Stop what the user has asked for, as far as it is not being carried out. Safe to repeat.

    :raises JobRequestNotFound: there is none, or it is not theirs.
    :raises CannotCancel: it has ended, or is being carried out.
    """
    seen = _visible(ledger, viewer, request_id)
    if not seen.request.is_of(viewer.person.login, viewer.person.user_id):
        raise CannotCancel(
            "someone else has asked for it.", job=seen.request.label, remedy="Cancel its job, where you may."
        )
    followed = ledger.job_requests.cancel(request_id, actor=viewer.actor)
    if followed.job is not None and followed.job.state is not JobState.CANCELLED:
        if not may_cancel(followed.request, followed.job.state):
            raise CannotCancel(
                f"{standing_of(followed.request, followed.job.state)[1]} It cannot be stopped from here now.",
                job=followed.request.label,
                written="Nothing was changed.",
            )
        with providers() as provider_for:
            reason = "those who asked for it have cancelled it"
            cancel_job(ledger, provider_for, followed.job.job_id, actor=viewer.actor, reason=reason)
    return read(ledger, viewer, request_id)


def may_watch(viewer: Viewer, followed: Followed) -> bool:
    """Whether a user who may see a request may see what the model writes before it is done.

    Those who may see the job may; the others, where the author of its type says so.
    """
    if followed.job is not None and viewer.may_see(followed.job):
        return True
    return _shows(followed.request, "shows_draft")


def _type_for(viewer: Viewer, name: str) -> JobTypeOfDag:
    found = job_type(name)
    if not may_ask(viewer, found):
        raise JobTypeNotFound(f"no Dag does jobs of the type {name!r}.", written=NOT_RECORDED)
    return found


def _requester(login: str, requested_for: str | None) -> str:
    if requested_for is None:
        return login
    if login not in settings.names("service_accounts"):
        raise MayNotAskForOthers(
            f"{login} may not ask in the name of another user.",
            written=NOT_RECORDED,
            remedy="An admin names such accounts in [aihandoff] service_accounts.",
        )
    return _name("requested_for", requested_for, None)


def _name(field: str, value: str, max_bytes: int | None) -> str:
    try:
        return identifier(field, value, **({} if max_bytes is None else {"max_bytes": max_bytes}))
    except RequestError as error:
        raise _refused(field, error.what) from None


def _idempotency_key(value: str) -> str:
    """The key of the header, which is a string of structured fields: with quotes. Those without are taken as well."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if len(value) > MAX_IDEMPOTENCY_KEY:
        raise _refused("Idempotency-Key", f"It may have at most {MAX_IDEMPOTENCY_KEY} characters.")
    return _name("Idempotency-Key", value, None)


def _check_permissions(permissions: Mapping[str, Any]) -> None:
    try:
        json_value("permissions", permissions)
    except RequestError as error:
        raise _refused("permissions", error.what) from None
    if found := first_problem(permissions, unstorable):
        raise _refused("permissions", f"It has {found}.")


def _refused(field: str, why: str) -> JobRequestRefused:
    return JobRequestRefused(f"{field}: {why}", problems=[(field, why)], written=NOT_RECORDED)


def _visible(ledger: Ledger, viewer: Viewer, request_id: UUID) -> Followed:
    hidden = JobRequestNotFound(f"there is no request {request_id}, or it is not yours.", written="")
    try:
        followed = ledger.job_requests.read(request_id)
    except JobRequestNotFound:
        raise hidden from None
    if followed.request.is_of(viewer.person.login, viewer.person.user_id):
        return followed
    dag_id = followed.request.dag_id if followed.job is None else followed.job.dag_id
    if dag_id is None or not viewer.visible([dag_id]):
        raise hidden
    return followed


def _view(ledger: Ledger, followed: Followed) -> View:
    request, job = followed.request, followed.job
    state = None if job is None else job.state
    standing, said = standing_of(request, state)
    done = standing is Standing.DONE and _shows(request, "shows_result")
    content = {
        "request_id": str(request.request_id),
        "type": request.job_type,
        "key": request.job_key,
        "state": standing.value,
        "said": said,
        "ended": standing.ended,
        "requested_by": request.requested_by,
        "sent_by": request.sender,
        "created_at": request.created_at,
        "changed_at": request.updated_at if job is None else job.updated_at,
        "job_id": None if job is None else job.job_id,
        "may_cancel": may_cancel(request, state),
        **(_result(ledger, job.job_id) if done and job is not None else {"result": None, "records": []}),
    }
    return View(content, followed)


def _result(ledger: Ledger, job_id: int) -> dict[str, Any]:
    record = ledger.record(job_id)
    applied = [effect for effect in record.current_effects if effect.state is EffectState.APPLIED]
    return {
        "result": record.revision.output,
        "records": [
            {"name": each.name, "external_id": each.external_id, "link": each.external_link} for each in applied
        ],
    }


def _shows(request: JobRequest, what: str) -> bool:
    """Whether the author lets those who ask see something. Where the type is gone, or ambiguous, no one says so."""
    try:
        return bool(getattr(job_type(request.job_type).declared, what))
    except (JobTypeNotFound, JobTypeAmbiguous):
        return False
