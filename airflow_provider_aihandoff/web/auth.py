"""Who may see a job and who may decide on it: asked of Airflow's auth manager, never of the request's content."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.batch_apis import IsAuthorizedDagRequest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from airflow.models.dag import DagModel
from airflow.models.team import Team
from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf
from airflow.utils.session import create_session
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy import inspect, select

from airflow_provider_aihandoff.core.admission.pause_store import Pause
from airflow_provider_aihandoff.core.errors import (
    EffectNotFound,
    HandoffError,
    JobNotFound,
    LedgerUnavailable,
    SetNotFound,
)
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Job
from airflow_provider_aihandoff.core.review.blind import as_seen_by
from airflow_provider_aihandoff.core.review.rules import Person, Reviewed, decides_who, why_not
from airflow_provider_aihandoff.core.sets.set_record import JobSet
from airflow_provider_aihandoff.hooks.ledger import shared_ledger

Method = Literal["GET", "PUT"]

#: ``none``: the user typed the address or used a bookmark.
_OWN_SITES = frozenset({"same-origin", "none"})

_NOT_THIS_DAG = (
    "You can see this job, but you cannot decide on it. You need permission to answer human-in-the-loop tasks of the "
    "Dag {}."
)
_NOT_RECORDED = "Nothing was recorded. This request made no external write."


class LedgerNotNamed(LedgerUnavailable):
    """Airflow has no usable connection to the ledger."""


class DecisionForbidden(HandoffError):
    """The user may see the job, but not decide on it."""


class PauseForbidden(HandoffError):
    """The user may not begin or end a pause of this scope."""


class WebhooksForbidden(HandoffError):
    """The user may not settle webhooks in quarantine."""


class DoctorForbidden(HandoffError):
    """The user may not examine the set-up."""


class LimitForbidden(HandoffError):
    """The user may not set limits of speed, which are about the jobs of all Dags."""


class SubscriptionForbidden(HandoffError):
    """The user may not see or make subscriptions to events, which are about the jobs of all Dags."""


class MayNotAskForOthers(HandoffError):
    """The login may not ask for jobs in the name of another user."""


class RequestKeyMissing(HandoffError):
    """A request for a job has neither a key nor an idempotency key: sent twice, it would make two jobs."""


class TooManyFollow(HandoffError):
    """So many follow something in this process that no more can."""


class CrossSiteRequest(HandoffError):
    """A browser sent this request from another site, or does not say from which site."""


@dataclass(frozen=True)
class Viewer:
    """The logged-in user, with what the auth manager and the authors of jobs let them do.

    The permission for a Dag is the one that Airflow uses for its own human-in-the-loop tasks: reading (``GET``) or
    answering (``PUT``) the human-in-the-loop detail of the Dag that owns the job.
    """

    user: Any

    @property
    def name(self) -> str:
        """The user, as pages name them: the login name, and the id where that is another."""
        return self.actor.label

    @cached_property
    def actor(self) -> Actor:
        """The user, as decisions and the history have them."""
        return Actor.user(str(self.user.get_name()), str(self.user.get_id()))

    @cached_property
    def person(self) -> Person:
        """The user, as a job's author can name them: with roles and groups, where the auth manager has them."""
        with _with_relations(self.user) as user:
            groups = [
                *(getattr(user, "groups", None) or ()),
                *(getattr(user, "teams", None) or ()),
                *((user.get_groups() or ()) if hasattr(user, "get_groups") else ()),
            ]
            # Airflow 3.4 and newer, of auth managers that tell it from the login.
            shown_as = self.user.get_display_name() if hasattr(self.user, "get_display_name") else None
            of_groups = [getattr(group, "roles", None) for group in groups]  # the FAB auth manager's groups have some
            return Person(
                str(self.user.get_name()),
                user_id=str(self.user.get_id()),
                roles=_names(getattr(user, "role", None), getattr(user, "roles", None), *of_groups),
                groups=_names(groups),
                shown_as=None if shown_as is None else str(shown_as),
            )

    def may_see(self, job: Job) -> bool:
        """Whether the user may see the job."""
        return bool(self.visible([job.dag_id]))

    def may_act(self, job: Job) -> bool:
        """Whether the user may act on the jobs of its Dag: cancel them, roll them back, and resolve their effects."""
        return bool(self.answerable([job.dag_id]))

    def may_trigger(self, dag_id: str) -> bool:
        """Whether the user may trigger runs of the Dag."""
        (teams,) = _teams([dag_id]).values()
        return all(
            get_auth_manager().is_authorized_dag(
                method="POST", access_entity=DagAccessEntity.RUN, details=_details(dag_id, team), user=self.user
            )
            for team in teams
        )

    @cached_property
    def may_run_doctor(self) -> bool:
        """Whether the user may change Airflow's connections: who may not could fix nothing that the doctor finds, and
        is shown neither hosts nor roles.
        """
        return get_auth_manager().is_authorized_connection(method="PUT", user=self.user)

    def why_not(self, job: Job) -> str | None:
        """Why the user may not decide on the job, as a sentence; None where they may."""
        return self.why_not_each([job])[0]

    def may_decide(self, job: Job) -> bool:
        """Whether the user may decide on the job: for its Dag, and by the rules of its author."""
        return self.why_not(job) is None

    def why_not_each(self, jobs: Sequence[Reviewed]) -> list[str | None]:
        """:meth:`why_not` for many jobs, or groups of like ones, in the same order.

        The auth manager is asked once a Dag at most, and the rules once for all to whom they give the same answer.
        """
        answerable, person = set(self.answerable({job.dag_id for job in jobs})), self.person
        found: dict[Any, str | None] = {}

        def of(job: Reviewed) -> str | None:
            if job.dag_id not in answerable:
                return _NOT_THIS_DAG.format(job.dag_id)
            like = decides_who(job)
            if like not in found:
                found[like] = why_not(job, person)
            return found[like]

        return [of(job) for job in jobs]

    def visible(self, dag_ids: Iterable[str]) -> list[str]:
        """Those of the Dags whose jobs the user may see."""
        return self._allowed("GET", dag_ids)

    def answerable(self, dag_ids: Iterable[str]) -> list[str]:
        """Those of the Dags on whose jobs the user may act."""
        return self._allowed("PUT", dag_ids)

    def _allowed(self, method: Method, dag_ids: Iterable[str]) -> list[str]:
        """Those of the Dags for which the user has a permission.

        A user who has it for all of them costs one call to the auth manager, others one call for each Dag.
        """
        requests = {
            dag_id: [_request(method, dag_id, team) for team in teams] for dag_id, teams in _teams(dag_ids).items()
        }
        if not requests:
            return []
        if get_auth_manager().batch_is_authorized_dag([*chain.from_iterable(requests.values())], user=self.user):
            return [*requests]
        return [dag_id for dag_id, needed in requests.items() if all(map(self._is_authorized, needed))]

    def _is_authorized(self, request: IsAuthorizedDagRequest) -> bool:
        return get_auth_manager().is_authorized_dag(user=self.user, **request)


@contextmanager
def _with_relations(user: Any) -> Iterator[Any]:
    """A user whose groups can be read: that of the FAB auth manager is a row without a session, which loads none.

    None if that row was deleted a moment ago: a user without roles and groups.
    """
    row = inspect(user, raiseerr=False)
    if row is None:
        yield user
        return
    with create_session() as session:
        yield session.get(type(user), row.identity)


def _names(*found: Any) -> frozenset[str]:
    """Roles or groups, of whatever kind an auth manager has: a name, names, or rows with a name."""
    each = [part for parts in found for part in ([parts] if isinstance(parts, str) else parts or ())]
    return frozenset(str(getattr(part, "name", part)) for part in each)


def _request(method: Method, dag_id: str, team: str | None) -> IsAuthorizedDagRequest:
    return {"method": method, "access_entity": DagAccessEntity.HITL_DETAIL, "details": _details(dag_id, team)}


def _details(dag_id: str, team: str | None) -> DagDetails:
    return DagDetails(id=dag_id, team_name=team) if team else DagDetails(id=dag_id)


def _teams(dag_ids: Iterable[str]) -> Mapping[str, Collection[str | None]]:
    """The teams for which a permission on each Dag is needed: its own; None where it has none, or Airflow has no teams.

    Airflow forgets the team of a Dag that is deleted, and its jobs stay: they may be of any team, and need all of them.
    """
    ids = list(dag_ids)
    if not conf.getboolean("core", "multi_team", fallback=False):
        return {dag_id: [None] for dag_id in ids}
    of_dag = DagModel.get_dag_id_to_team_name_mapping(ids)
    teams: dict[str, Collection[str | None]] = {dag_id: [of_dag.get(dag_id)] for dag_id in ids}
    if teamless := [dag_id for dag_id in ids if of_dag.get(dag_id) is None]:
        with create_session() as session:
            known = set(session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(teamless))))
        if unknown := set(teamless) - known:
            every_team: list[str | None] = [*Team.get_all_team_names()]
            teams |= dict.fromkeys(unknown, every_team or [None])
    return teams


def _viewer(user: GetUserDep) -> Viewer:
    return Viewer(user)


def _ledger(request: Request) -> Ledger:
    try:
        request.state.ledger = ledger = shared_ledger()
        return ledger
    except (AirflowNotFoundException, ValueError) as error:
        raise LedgerNotNamed(
            f"the connection to the ledger cannot be used: {str(error).rstrip('.')}.",
            written=_NOT_RECORDED,
            remedy="Define it (type Postgres) and try again.",
        ) from error


_BEARER = HTTPBearer(auto_error=False)


async def verify_login(request: Request) -> None:
    """Return when the request is of a user, as :data:`ViewerDep` finds out again when the body was read.

    :raises HTTPException: it has no login, or one that has expired or is forged.
    """
    await get_user(request, None, await _BEARER(request))


#: A route that has no ViewerDep is public.
ViewerDep = Annotated[Viewer, Depends(_viewer)]
LedgerDep = Annotated[Ledger, Depends(_ledger)]


def visible_dag_ids(ledger: Ledger, viewer: Viewer, dag_id: str | None = None) -> list[str]:
    """The Dags that own jobs which the user may see.

    :param dag_id: only this Dag, if it owns a job.
    """
    return viewer.visible(owner for owner in ledger.dag_ids() if dag_id in (None, owner))


def visible_set(ledger: Ledger, viewer: Viewer, set_id: int) -> JobSet:
    """Return a set.

    :raises SetNotFound: there is none, or the user may not see it. The error does not say which.
    """
    hidden = SetNotFound(f"there is no set {set_id}, or you may not see it.", written="")
    try:
        found = ledger.sets.read(set_id)
    except SetNotFound:
        raise hidden from None
    if not viewer.visible([found.dag_id]):
        raise hidden
    return found


def visible_record(ledger: Ledger, viewer: Viewer, job_id: int) -> JobRecord:
    """Return a job with all that belongs to it, but for the votes that the user is not to know yet.

    :raises JobNotFound: there is none, or the user may not see it. The error does not say which.
    """
    check_visible(ledger, viewer, job_id)
    return as_seen_by(ledger.record(job_id), viewer.actor)


def check_visible(ledger: Ledger, viewer: Viewer, job_id: int) -> Job:
    """Return a job.

    :raises JobNotFound: there is none, or the user may not see it. The error does not say which.
    """
    hidden = JobNotFound(f"there is no job {job_id}, or you may not see it.", written="")
    try:
        job = ledger.job(job_id)
    except JobNotFound:
        raise hidden from None
    if not viewer.may_see(job):
        raise hidden
    return job


def visible_effect(ledger: Ledger, viewer: Viewer, effect_id: int) -> tuple[Effect, Job]:
    """Return an effect, and the job that it belongs to.

    :raises EffectNotFound: there is none, or the user may not see its job. The error does not say which.
    """
    try:
        effect = ledger.effects.read(effect_id)
        return effect, check_visible(ledger, viewer, effect.job_id)
    except (EffectNotFound, JobNotFound):
        raise EffectNotFound(f"there is no effect {effect_id}, or you may not see it.", written="") from None


def check_may_act(viewer: Viewer, job: Job) -> None:
    """Return when the user may act on a job that they see.

    :raises DecisionForbidden: they may not.
    """
    if not viewer.may_act(job):
        raise DecisionForbidden(_NOT_THIS_DAG.format(job.dag_id), job=job.label, written=_NOT_RECORDED)


def visible_pauses(ledger: Ledger, viewer: Viewer, *, ended: bool = False) -> list[Pause]:
    """The pauses that are about a Dag which the user may see, those in force first."""
    found = ledger.pauses.find(ended=ended)
    if not found:
        return []
    dag_ids = set(viewer.visible({*ledger.dag_ids(), *(each.dag_id for each in found if each.dag_id is not None)}))
    return [each for each in found if (each.dag_id in dag_ids if each.dag_id is not None else dag_ids)]


def check_may_pause(ledger: Ledger, viewer: Viewer, dag_id: str | None) -> None:
    """Return when the user may begin and end a pause: they may act on the jobs of every Dag that it is about.

    :param dag_id: the only Dag; None for all that have a job.
    :raises PauseForbidden: they may not.
    """
    dag_ids = [dag_id] if dag_id is not None else ledger.dag_ids()
    if missing := set(dag_ids) - set(viewer.answerable(dag_ids)):
        which = f"the Dag {dag_id}" if dag_id is not None else f"all Dags, and you lack it for {len(missing)} of them"
        raise PauseForbidden(
            f"you need permission to answer human-in-the-loop tasks of {which}.",
            written=_NOT_RECORDED,
            remedy="" if dag_id is not None else "Name a Dag of yours instead.",
        )


def may_pause(ledger: Ledger, viewer: Viewer, dag_id: str | None) -> bool:
    """Whether the user may begin and end a pause, as :func:`check_may_pause` says."""
    try:
        check_may_pause(ledger, viewer, dag_id)
    except PauseForbidden:
        return False
    return True


def may_set_limits(ledger: Ledger, viewer: Viewer) -> bool:
    """Whether the user may set limits of speed: they may act on the jobs of every Dag that has one."""
    dag_ids = ledger.dag_ids()
    return bool(dag_ids) and set(viewer.answerable(dag_ids)) == set(dag_ids)


def check_may_set_limits(ledger: Ledger, viewer: Viewer) -> None:
    """Return when the user may set limits of speed.

    :raises LimitForbidden: they may not.
    """
    if not may_set_limits(ledger, viewer):
        raise LimitForbidden(
            "A limit is about the jobs of all Dags: you need permission to answer human-in-the-loop tasks of each Dag "
            "that has a job, and there must be one.",
            written=_NOT_RECORDED,
            remedy="`airflow aihandoff limits set` does it at a terminal.",
        )


def check_may_subscribe(ledger: Ledger, viewer: Viewer) -> None:
    """Return when the user may see subscriptions to events, and make, end and replay them: as limits of speed.

    :raises SubscriptionForbidden: they may not.
    """
    if not may_set_limits(ledger, viewer):
        raise SubscriptionForbidden(
            "A subscription is about the jobs of all Dags: you need permission to answer human-in-the-loop tasks of "
            "each Dag that has a job, and there must be one.",
            written=_NOT_RECORDED,
            remedy="`airflow aihandoff events subscribe` does it at a terminal.",
        )


def check_may_decide(viewer: Viewer, job: Job) -> None:
    """Return when the user may decide on a job that they see.

    :raises DecisionForbidden: they may not, for its Dag or by the rules of its author.
    """
    if why := viewer.why_not(job):
        raise DecisionForbidden(why, job=job.label, written=_NOT_RECORDED)


def may_settle_webhooks(ledger: Ledger, viewer: Viewer) -> bool:
    """Whether the user may replay and discard webhooks in quarantine.

    A webhook belongs to no Dag before its job is known: they must be allowed to act on the jobs of every Dag that owns
    one.
    """
    dag_ids = ledger.dag_ids()
    return bool(dag_ids) and len(viewer.answerable(dag_ids)) == len(dag_ids)


def check_may_settle_webhooks(ledger: Ledger, viewer: Viewer) -> None:
    """Return when :func:`may_settle_webhooks`.

    :raises WebhooksForbidden: they may not.
    """
    if not may_settle_webhooks(ledger, viewer):
        raise WebhooksForbidden(
            "you need permission to answer human-in-the-loop tasks of every Dag that has jobs: a webhook in quarantine "
            "may belong to any of them.",
            written=_NOT_RECORDED,
        )


def check_may_run_doctor(viewer: Viewer) -> None:
    """Return when the user may examine the set-up.

    :raises DoctorForbidden: they may not.
    """
    if not viewer.may_run_doctor:
        raise DoctorForbidden("you need permission to edit Airflow's connections.", written="Nothing was examined.")


def check_same_origin(request: Request) -> None:
    """Return when the browser says that this request comes from a page of this site.

    The login is a cookie with ``SameSite=Lax``. This check also works where the cookie's does not: on a sibling
    subdomain, or in a browser that ignores it. ``Sec-Fetch-Site`` is the best source. Browsers leave it out over plain
    HTTP, so ``Origin`` is used there. Every current browser sends one of the two with a form, so a request with
    neither is refused too.

    :raises CrossSiteRequest: it comes from another site, or does not say from which.
    """
    site = request.headers.get("sec-fetch-site")
    own = site in _OWN_SITES if site is not None else _is_own_origin(request)
    if not own:
        raise CrossSiteRequest(
            "this request was not sent by a page of this site.",
            written=_NOT_RECORDED,
            remedy="Open the job's page and decide there. Programs send a bearer token to the REST API.",
        )


def check_origin(request: Request) -> None:
    """:func:`check_same_origin`, unless the request has a bearer token: no other site can make a browser send one.

    :raises CrossSiteRequest: it is authenticated by the cookie, and comes from another site.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not (scheme.lower() == "bearer" and token):
        check_same_origin(request)


def _is_own_origin(request: Request) -> bool:
    """Whether ``Origin`` names the host that was asked, or the one that Airflow is configured to be reached at."""
    origin = urlsplit(request.headers.get("origin", "")).netloc
    own = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin in own - {""}
