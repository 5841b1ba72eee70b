"""The receiver of OpenAI's webhooks: public, so it does little work for unsigned requests, and tells them nothing.

An answer of 2xx says that the delivery is in the ledger. After any other answer, OpenAI delivers again, for 72 hours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import RECEIVER
from airflow_provider_aihandoff.core.states import Disposition
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.event import parse
from airflow_provider_aihandoff.core.webhooks.event_types import is_safety_notice
from airflow_provider_aihandoff.core.webhooks.inbox import Receipt
from airflow_provider_aihandoff.core.webhooks.intake import AT_ONCE, Intake, NotNow
from airflow_provider_aihandoff.core.webhooks.keys import KeyProblem, Keyring, NoVerifier
from airflow_provider_aihandoff.core.webhooks.log_limit import Tally
from airflow_provider_aihandoff.core.webhooks.poll_schedule import AT_ONCE as POLLS_AT_ONCE
from airflow_provider_aihandoff.core.webhooks.poll_schedule import PollSchedule
from airflow_provider_aihandoff.core.webhooks.signature import Rejected
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.hooks.observability import observe
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY, configured_conn_ids, read_secrets
from airflow_provider_aihandoff.web.links import WEBHOOKS_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse, Problem, describe, problem_response
from airflow_provider_aihandoff.web.request_body import BodyRefused, media_type, read_body

#: Seconds within which a body has to be there.
READ_TIMEOUT = 10.0

#: Stands for every connection whose webhooks are not taken: a stranger can think of any number of names.
_OTHERS = "others"

#: Seconds that a webhook waits for one of the ledger's connections.
_LEDGER_TIMEOUT = 1.0
#: A ledger that is silently unavailable is noticed in seconds too. What the connection itself says comes first.
_LEDGER_PARAMETERS = {"connect_timeout": 2, "tcp_user_timeout": 5000}

_POLLED = (Disposition.QUARANTINED, Disposition.LATE)

NOT_FOUND = describe(HTTPException(404))
NOT_JSON = Problem(415, "not-json", "A webhook must be JSON", "Send the content type application/json.")
TOO_LARGE = Problem(413, "too-large", "The webhook is too large", "The body is over the limit.")
TOO_SLOW = Problem(408, "too-slow", "The webhook did not arrive in time", "Reading the body took too long.")
REFUSED = Problem(400, "webhook-refused", "The webhook was refused", "It is not signed correctly, or is not an event.")
UNAVAILABLE = Problem(503, "unavailable", "The webhook cannot be recorded now", "Deliver it again later.")

log = logging.getLogger(__name__)

#: Why a body was not read, by the status of :class:`BodyRefused`: the answer, and the words for the log.
_UNREAD = {
    400: (REFUSED, "the sender disconnected"),
    408: (TOO_SLOW, "the body took too long"),
    413: (TOO_LARGE, "the body is too large"),
}

router = APIRouter()


class _TurnedAway(Exception):
    """A delivery that is not recorded.

    :param problem: the answer.
    :param why: for the log, one of a few. Nothing that the sender wrote, and no secret.
    :param more: more about it, for the log too.
    """

    def __init__(self, problem: Problem, why: str, more: str = "") -> None:
        self.problem, self.why, self.more = problem, why, more
        super().__init__(why)

    @property
    def line(self) -> str:
        """What the log says of it."""
        return f"{self.why}: {self.more.rstrip('.')}." if self.more else f"{self.why}."


class Receiver:
    """What the receiver knows, in one process and event loop.

    :param conn_ids: the OpenAI connections whose webhooks are taken; by default ``[aihandoff] webhook_conn_ids``.
    :param ledger_conn_id: the connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    def __init__(self, conn_ids: Sequence[str] | None = None, ledger_conn_id: str | None = None) -> None:
        self._conn_ids = conn_ids
        self._tally = Tally()
        self._keyring = Keyring(read_secrets)
        self._intake = Intake(lambda: open_ledger(ledger_conn_id))
        self._polls = PollSchedule(self._poll)

    @cached_property
    def conn_ids(self) -> frozenset[str]:
        """The connections whose webhooks are taken."""
        return frozenset(configured_conn_ids() if self._conn_ids is None else self._conn_ids)

    @cached_property
    def _body_limit(self) -> int:
        return int(settings.number("webhook_body_limit"))

    async def answer(self, conn_id: str, request: Request) -> Response:
        """Take one delivery, and answer it."""
        known = conn_id if conn_id in self.conn_ids else _OTHERS
        try:
            receipt = await self._receive(conn_id, request)
        except _TurnedAway as away:
            self._note(known, away)
            return problem_response(away.problem)
        self._tally.flush()
        outcome = "duplicate" if receipt.repeated else receipt.entry.disposition.value
        signals.count(signals.WEBHOOKS, conn_id=known, outcome=outcome)
        if (delay := _delay(receipt)) is not None:
            signals.timing(signals.WEBHOOK_DELAY, delay, conn_id=known)
        if is_safety_notice(receipt.entry.event_type) and not receipt.repeated:
            log.warning(
                "OpenAI has sent a safety notice (%r) for %s: webhook %r. Read it with `airflow aihandoff inbox show`.",
                receipt.entry.event_type,
                known,
                receipt.entry.webhook_id,
            )
        self._poll_soon(receipt)
        return AsciiJSONResponse({"disposition": receipt.entry.disposition})

    async def _receive(self, conn_id: str, request: Request) -> Receipt:
        # In this order: each step costs more than the one before, and the first ones cost nothing.
        if conn_id not in self.conn_ids:
            raise _TurnedAway(NOT_FOUND, "its webhooks are not accepted ([aihandoff] webhook_conn_ids)")
        if media_type(request) != "application/json":
            raise _TurnedAway(NOT_JSON, "the content type is not application/json")
        body = await _read(request, self._body_limit)
        try:
            verifier = await self._keyring.verifier(conn_id)
            webhook_id = verifier.verify(body, request.headers.raw)
            return await self._intake.receive(parse(webhook_id, conn_id, body))
        except NoVerifier as error:
            raise _unverifiable(error) from None
        except Rejected as rejected:
            raise _TurnedAway(REFUSED, rejected.reason.value) from None
        except NotNow as not_now:
            raise _TurnedAway(UNAVAILABLE, "it cannot be recorded", not_now.why) from None

    def _note(self, known: str, away: _TurnedAway) -> None:
        status = away.problem.status
        level = logging.ERROR if status == 503 else logging.WARNING
        self._tally.note((known, away.why), level, f"Answered a webhook for {known} with {status}: {away.line}")
        signals.count(signals.WEBHOOKS, conn_id=known, outcome="unavailable" if status == 503 else "rejected")

    async def check(self) -> None:
        """Return when the ledger answers.

        :raises NotNow: it does not.
        """
        await self._intake.check()

    def _poll_soon(self, receipt: Receipt) -> None:
        entry = receipt.entry
        if receipt.repeated or entry.response_id is None or entry.disposition not in _POLLED:
            return
        if not self._polls.start(entry.conn_id, entry.webhook_id):
            why = "Too many responses wait to be polled; the maintenance Dag polls the others."
            self._tally.note("polls", logging.WARNING, why)

    def _poll(self, conn_id: str, webhook_id: str) -> None:
        """In a thread: ask OpenAI about the response of a webhook."""
        with providers() as provider_for:
            find_owner(self._intake.ledger(), webhook_id, provider_for(conn_id))


async def receive(request: Request) -> Response:
    """Take a webhook of OpenAI."""
    receiver: Receiver = request.app.state.receiver
    return await receiver.answer(request.path_params["conn_id"], request)


# A plain route: it has nothing that FastAPI would read of the request, and many requests may come at once.
router.add_route(f"{WEBHOOKS_PREFIX}/openai/{{conn_id}}", receive, methods=["POST"], include_in_schema=False)


async def health(request: Request) -> Response:
    """Whether webhooks can be recorded now."""
    try:
        await request.app.state.receiver.check()
    except NotNow:
        return problem_response(UNAVAILABLE)
    return AsciiJSONResponse({"status": "ok"})


def open_ledger(ledger_conn_id: str | None) -> Ledger:
    """Open the ledger with connections of the receiver's own: webhooks and review pages do not wait for each other.

    :raises LedgerUnavailable: it has no connection that can be used, or cannot be reached.
    :raises LedgerSchemaError: its schema is not the one that this package needs.
    """
    try:
        conninfo = LedgerHook(ledger_conn_id).conninfo()
    except (AirflowNotFoundException, ValueError) as error:
        raise LedgerUnavailable(f"the connection of the ledger cannot be used: {error}") from None
    observe(in_task=False)
    ledger = Ledger(
        {**_LEDGER_PARAMETERS, **conninfo},
        max_size=AT_ONCE + POLLS_AT_ONCE,
        timeout=_LEDGER_TIMEOUT,
        limits=RECEIVER,
    )
    try:
        ledger.check_schema()
    except BaseException:
        ledger.close()
        raise
    return ledger


def _delay(receipt: Receipt) -> float | None:
    """Seconds from the event until its first delivery was recorded; None where the event does not say when it was."""
    at = receipt.entry.body.get("created_at")
    return None if receipt.repeated or not isinstance(at, int) else receipt.entry.received_at.timestamp() - at


def _unverifiable(error: NoVerifier) -> _TurnedAway:
    missing = error.problem in (KeyProblem.NO_CONNECTION, KeyProblem.NO_SECRETS)
    return _TurnedAway(NOT_FOUND if missing else UNAVAILABLE, f"its {SECRETS_KEY}: {error.problem.value}", error.why)


async def _read(request: Request, limit: int) -> bytes:
    """The body, of which no more is read than the limit."""
    try:
        return await read_body(request, limit, READ_TIMEOUT)
    except BodyRefused as refused:
        raise _TurnedAway(*_UNREAD[refused.status_code]) from None
