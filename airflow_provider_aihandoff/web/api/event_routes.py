"""Subscriptions to events, for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription
from airflow_provider_aihandoff.core.event_delivery.subscription_store import SubscriptionView
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.hooks.event_posts import check_wanted
from airflow_provider_aihandoff.web.api import event_schemas, schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, check_may_subscribe
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 422, 503)
}

router = APIRouter(
    prefix=f"{API_PREFIX}/event-subscriptions",
    tags=["Events"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)

_Name = Annotated[str | None, Query(max_length=250, description="Only of this subscription.")]


@router.get("")
def list_subscriptions(viewer: ViewerDep, ledger: LedgerDep) -> event_schemas.SubscriptionList:
    """List the subscriptions, and how their events stand."""
    check_may_subscribe(ledger, viewer)
    found = [_fields(view) for view in ledger.event_subscriptions.find()]
    return event_schemas.SubscriptionList.model_validate({"subscriptions": found})


@router.post("")
def subscribe(
    body: event_schemas.SubscriptionBody, viewer: ViewerDep, ledger: LedgerDep
) -> event_schemas.SubscriptionDetail:
    """Subscribe, or change the subscription of this name; one that is disabled is active again."""
    check_may_subscribe(ledger, viewer)
    wanted = WantedSubscription(body.name, body.url, body.secret_conn_id, body.job_types, body.states)
    check_wanted(wanted)
    ledger.event_subscriptions.subscribe(wanted, reason=body.reason, actor=viewer.actor)
    return _detail(ledger, body.name)


@router.post("/end")
def unsubscribe(
    body: event_schemas.NamedSubscriptionBody, viewer: ViewerDep, ledger: LedgerDep
) -> event_schemas.SubscriptionList:
    """End a subscription. What it did not get is removed."""
    check_may_subscribe(ledger, viewer)
    ledger.event_subscriptions.end(body.name, reason=body.reason, actor=viewer.actor)
    return list_subscriptions(viewer, ledger)


@router.get("/dead")
def list_dead(
    viewer: ViewerDep,
    ledger: LedgerDep,
    name: _Name = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> event_schemas.DeadList:
    """List the events that were given up, the newest first."""
    check_may_subscribe(ledger, viewer)
    return event_schemas.DeadList.model_validate({"events": ledger.event_subscriptions.dead(name, limit)})


@router.post("/replay")
def replay(body: event_schemas.ReplayBody, viewer: ViewerDep, ledger: LedgerDep) -> event_schemas.Replayed:
    """Have events sent again, each with the id that it had."""
    check_may_subscribe(ledger, viewer)
    replayed = ledger.event_subscriptions.replay(body.name, body.events, reason=body.reason, actor=viewer.actor)
    return event_schemas.Replayed(replayed=replayed)


@router.get("/{name}")
def get_subscription(name: str, viewer: ViewerDep, ledger: LedgerDep) -> event_schemas.SubscriptionDetail:
    """Return one subscription, with its changes."""
    check_may_subscribe(ledger, viewer)
    return _detail(ledger, name)


def _detail(ledger: Ledger, name: str) -> event_schemas.SubscriptionDetail:
    view = ledger.event_subscriptions.read(name)
    changes = ledger.event_subscriptions.changes(view.subscription.subscription_id)
    shown = [{**vars(change), "by": change.by.label} for change in changes]
    return event_schemas.SubscriptionDetail.model_validate({**_fields(view), "changes": shown})


def _fields(view: SubscriptionView) -> dict[str, Any]:
    counts = {name: getattr(view, name) for name in ("waiting", "waiting_since", "dead", "delivered_at")}
    return {**vars(view.subscription), **counts}
