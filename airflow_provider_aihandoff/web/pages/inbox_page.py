"""The page of the webhooks in quarantine, and the forms that replay and discard one. No GET changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.errors import HandoffError, WebhookNotFound, WebhookSettled
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import InboxEntry
from airflow_provider_aihandoff.core.webhooks.correlate import replay
from airflow_provider_aihandoff.core.webhooks.webhook_words import became
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    Viewer,
    ViewerDep,
    check_may_settle_webhooks,
    may_settle_webhooks,
    visible_dag_ids,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.refreshing import LIST, refreshing
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: How many webhooks the page shows.
MAX_WEBHOOKS = 100


@dataclass(frozen=True)
class Refused:
    """Why what was just sent was refused.

    :param typed: what was written in the form of this webhook.
    """

    title: str
    text: str
    webhook_id: str
    typed: str = ""


@router.get("/inbox", name="inbox_page")
def inbox(request: Request, viewer: ViewerDep, ledger: LedgerDep, about: schemas.WebhookId | None = None) -> Response:
    """Show the webhooks in quarantine to a user who may see jobs, without their content.

    :param about: the webhook that was just settled: what became of it is said first.
    """
    return _inbox_page(request, viewer, ledger, about=about)


@router.post("/inbox/replay", name="replay_webhook")
def replay_webhook(
    request: Request, viewer: ViewerDep, ledger: LedgerDep, webhook_id: Annotated[schemas.WebhookId, Form()]
) -> Response:
    """Process a webhook again, and poll its response."""
    check_may_settle_webhooks(ledger, viewer)
    try:
        with providers() as provider_for:
            replay(ledger, webhook_id, provider_for, actor=viewer.actor)
    except (WebhookNotFound, WebhookSettled) as error:
        refused = Refused("The webhook was not replayed", _words(error), webhook_id)
        return _inbox_page(request, viewer, ledger, refused=refused)
    return _settled(request, webhook_id)


@router.post("/inbox/discard", name="discard_webhook")
def discard_webhook(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    webhook_id: Annotated[schemas.WebhookId, Form()],
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """Record that a webhook in quarantine means nothing."""
    check_may_settle_webhooks(ledger, viewer)
    try:
        ledger.inbox.discard(webhook_id, actor=viewer.actor, why=reason)
    except (WebhookNotFound, WebhookSettled) as error:
        refused = Refused("The webhook was not discarded", _words(error), webhook_id, reason)
        return _inbox_page(request, viewer, ledger, refused=refused)
    return _settled(request, webhook_id)


def _settled(request: Request, webhook_id: str) -> Response:
    """Show the page again with what became of the webhook, so that reloading it sends nothing."""
    return RedirectResponse(f"{path_to(request, 'inbox_page')}?{urlencode({'about': webhook_id})}", 303)


def _words(error: HandoffError) -> str:
    words = " ".join(part for part in (error.what, error.written, error.remedy) if part)
    return f"{words[:1].upper()}{words[1:]}"


def _inbox_page(
    request: Request, viewer: Viewer, ledger: Ledger, *, about: str | None = None, refused: Refused | None = None
) -> Response:
    dag_ids = visible_dag_ids(ledger, viewer)
    entries = ledger.inbox.quarantined(MAX_WEBHOOKS + 1) if dag_ids else []
    shown = entries[:MAX_WEBHOOKS]
    may_settle = may_settle_webhooks(ledger, viewer)
    moves = any(entry.poll_at for entry in shown) or any(ledger.search.count_open(dag_ids=dag_ids).values())
    return page(
        request,
        "inbox.html",
        {
            "viewer": viewer,
            "entries": shown,
            "more": len(entries) > MAX_WEBHOOKS,
            "may_settle": may_settle,
            "settled": _outcome(ledger, about) if about is not None and may_settle else None,
            "refused": refused,
            "max_comment": schemas.MAX_COMMENT,
            "refreshes": refreshing(request, LIST, moves=moves and refused is None),
        },
        status=200 if refused is None else 409,
    )


def _outcome(ledger: Ledger, webhook_id: str) -> tuple[InboxEntry, str] | None:
    """A webhook with what became of it, in words; None where there is none."""
    try:
        entry = ledger.inbox.read(webhook_id)
    except WebhookNotFound:
        return None
    return entry, became(entry)
