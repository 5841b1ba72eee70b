"""A stand-in for OpenAI's Responses API in background mode, over real HTTP: FOR TESTS AND DEMOS ONLY.

No model is called, nothing is sent to OpenAI, and any API key is accepted. A response lives by the clock:
`queued`, `in_progress`, then its end after a delay. `output` decides what it says, and each request chooses
what goes wrong with the vocabulary in `faults`. As with OpenAI, responses cannot be listed and an
`Idempotency-Key` is not honoured.

The API, with OpenAI's bodies and error bodies:

* `POST /v1/responses`
* `GET /v1/responses/{id}` and `DELETE /v1/responses/{id}`
* with `stream`, a create in the background answers with events as they come; `GET /v1/responses/{id}?stream=true` reads
  them again, from the first one or after `starting_after`, as often as wanted
* `POST /v1/responses/{id}/cancel`
* `POST /v1/responses/input_tokens`: as many as the response will say that its input has
* `GET /v1/organization/costs`: what the responses would have cost, by day, of one project; any key is accepted
* `POST /v1/files`, `GET /v1/files/{id}`, `GET /v1/files/{id}/content` and `DELETE /v1/files/{id}`
* `POST /v1/batches`, `GET /v1/batches`, `GET /v1/batches/{id}` and `POST /v1/batches/{id}/cancel`, for lines of
  `/v1/responses`: a line that was run is a response, as any other
* `POST /v1/conversations` and `GET /v1/conversations/{id}/items`; a conversation takes one response at a time

With a URL for them, webhooks say how each background response ended, signed by the Standard Webhooks
specification and repeated until they are answered with a 2xx. They are due at the end of the response by the
stand-in's clock; their timestamp is the machine's.

For the test that observes it:

* `GET /standin/health`
* `GET /standin/responses`: every response that was ever created, and how often it was asked for
* `GET /standin/requests`: every request to `/v1`, in order
* `GET /standin/webhooks`: every attempt to deliver a webhook, and how many are still to be sent
* `POST /standin/webhooks`: send one event now, such as `{"type": "response.completed", "data": {"id": "resp_1"}}`;
  the answer has the HTTP status that it got
* `POST /standin/reset`: forget everything
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff.testing.api_errors import ApiError, unauthorized
from airflow_provider_aihandoff.testing.batch_operations import BatchesApi
from airflow_provider_aihandoff.testing.conversations_api import ConversationsApi
from airflow_provider_aihandoff.testing.exchange import STAND_IN_NOTICE, ExchangeMiddleware, exchange_of
from airflow_provider_aihandoff.testing.lifecycle import as_json, status_at
from airflow_provider_aihandoff.testing.organization_api import OrganizationApi
from airflow_provider_aihandoff.testing.output import Responder
from airflow_provider_aihandoff.testing.request_limit import RequestLimit
from airflow_provider_aihandoff.testing.responders import DEMO_RESPONDERS
from airflow_provider_aihandoff.testing.responses_api import CancelFinishedStatus, ResponsesApi
from airflow_provider_aihandoff.testing.server_kind import ServerKind
from airflow_provider_aihandoff.testing.serving import HEALTH_PATH, RunningServer, serve
from airflow_provider_aihandoff.testing.state import LoggedRequest, State
from airflow_provider_aihandoff.testing.webhook_endpoint import WebhookEndpoint
from airflow_provider_aihandoff.testing.webhook_events import DirectEvent, WebhookAttempt, WebhooksReport
from airflow_provider_aihandoff.testing.webhooks import WebhookDispatcher

DEFAULT_DELAY_SECONDS = 2.0
DEFAULT_BATCH_SECONDS = 5.0
DEFAULT_PROJECT = "proj_standin"
OPENAI = ServerKind()


class ResponseReport(BaseModel):
    """One response, as the test that observes it sees it."""

    response: dict[str, Any]
    """The Response object, as a retrieve would show it now if no fault were injected."""
    retrieves: int
    cancels: int
    deleted: bool
    streams: int
    """How often its events were read, without the create."""
    readers: int
    """How many read its events now, the create included."""


class ResponsesReport(BaseModel):
    """Everything that was created, and the number of requests of each kind, refused ones included."""

    creates: int
    retrieves: int
    cancels: int
    responses: list[ResponseReport]


class OpenAIStandIn:
    """The stand-in; `serve()` puts it on a port, and `app` is its FastAPI application.

    Args:
        delay_seconds: how long a response takes, where the request does not say.
        cancel_finished_status: what a cancel answers after the end: 200 with the response, or an error.
        responders: functions that decide the output, asked before the demo's own; the first that does not
            return None wins.
        state_file: keep responses and requests in this file, and start from what it holds.
        webhook_url: where webhooks are sent; none are without it.
        conversations: the server has them; without, they answer 404.
        webhook_secrets: what they are signed with, each with all of them: `whsec_` and base64.
        kind: what a compatible server lacks; by default nothing.
        requests_per_minute: how many creates it takes in any minute; its answers then have OpenAI's headers, and the
            others are refused with 429. By default without limit, and without the headers.
        project_id: whose costs the organization's costs are.
        batch_seconds: how long a batch takes, where none of its lines says.
        clock: the time in Unix seconds; a test may bring its own.

    Raises:
        OSError: `state_file` cannot be read or written.
        ValueError: `state_file` holds something else; `webhook_url` is no URL, or comes without a secret.
    """

    def __init__(
        self,
        *,
        delay_seconds: float = DEFAULT_DELAY_SECONDS,
        cancel_finished_status: CancelFinishedStatus = 200,
        responders: Sequence[Responder] = (),
        state_file: Path | None = None,
        webhook_url: str | None = None,
        webhook_secrets: Sequence[str] = (),
        conversations: bool = True,
        kind: ServerKind = OPENAI,
        requests_per_minute: int | None = None,
        project_id: str = DEFAULT_PROJECT,
        batch_seconds: float = DEFAULT_BATCH_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        endpoint = None if webhook_url is None else WebhookEndpoint(webhook_url, webhook_secrets)
        self._state = State(state_file)
        self._webhooks = WebhookDispatcher(self._state, clock, endpoint)
        api = ResponsesApi(
            state=self._state,
            clock=clock,
            delay_seconds=delay_seconds,
            cancel_finished_status=cancel_finished_status,
            responders=(*responders, *DEMO_RESPONDERS),
            kind=kind,
            schedule_webhooks=self._webhooks.schedule,
        )
        self._readers = api.readers
        self._batches = BatchesApi(self._state, api, clock, batch_seconds, self._webhooks.schedule_batch)
        self.app = FastAPI(title="Stand-in for OpenAI", openapi_url=None, lifespan=self._lifespan)
        self.app.add_middleware(ExchangeMiddleware, state=self._state, clock=clock)
        limit = None if requests_per_minute is None else RequestLimit(requests_per_minute, clock)
        self.app.include_router(_api_routes(api, self._webhooks, limit))
        self.app.include_router(_batch_routes(self._batches))
        if conversations:
            self.app.include_router(_conversation_routes(ConversationsApi(self._state, clock)))
        self.app.include_router(_costs_routes(OrganizationApi(self._state, clock, project_id)))
        self.app.include_router(_control_routes(self))
        self.app.include_router(_webhook_routes(self._webhooks))
        _answer_errors_like_openai(self.app)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[RunningServer]:
        """Serve in a thread for as long as the context lasts, on a free port if `port` is 0.

        Raises:
            OSError: the address cannot be used, or the server does not answer in time.
        """
        return serve(self.app, host, port)

    def responses(self) -> ResponsesReport:
        """Every response that was ever created, oldest first."""
        self._batches.run_due()
        now = self._clock()
        kinds = Counter((_kind(request), request.response_id) for request in self._state.requests())
        reports = [
            ResponseReport(
                response=as_json(response, status_at(response, now)),
                retrieves=kinds["retrieve", response.id],
                cancels=kinds["cancel", response.id],
                deleted=response.deleted,
                streams=kinds["stream", response.id],
                readers=self._readers[response.id],
            )
            for response in self._state.responses()
        ]
        totals = Counter(_kind(request) for request in self._state.requests())
        return ResponsesReport(
            creates=totals["create"],
            retrieves=totals["retrieve"],
            cancels=totals["cancel"],
            responses=reports,
        )

    def requests(self) -> list[LoggedRequest]:
        """Every request to `/v1`, in the order in which they were answered."""
        return self._state.requests()

    def webhooks(self) -> WebhooksReport:
        """Every attempt to deliver a webhook, in the order in which they ended, and what is still to be sent."""
        return self._webhooks.report()

    def reset(self) -> None:
        """Forget all responses, requests, webhooks and counted faults; a webhook under way still arrives."""
        self._state.reset()

    def _lifespan(self, _app: FastAPI) -> AbstractAsyncContextManager[None]:
        return self._webhooks.running()


def _kind(request: LoggedRequest) -> str:
    if not request.path.startswith("/v1/responses"):
        return "other"
    match request.method, request.path.removeprefix("/v1/responses").count("/"):
        case "POST", 0:
            return "create"
        case "POST", 2:
            return "cancel"
        case "GET", 1:
            return "retrieve" if request.after is None else "stream"
    return "other"


def _require_api_key(request: Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise unauthorized()


def _api_routes(api: ResponsesApi, webhooks: WebhookDispatcher, limit: RequestLimit | None) -> APIRouter:
    router = APIRouter(prefix="/v1/responses", dependencies=[Depends(_require_api_key)])

    @router.post("")
    async def create(request: Request) -> Response:
        exchange = exchange_of(request)
        headers = {} if limit is None else limit.take()
        answer = await api.answer_when_ended(api.create(await request.body(), exchange), exchange)
        await webhooks.hold_back(exchange.response_id)
        answer.headers.update(headers)
        return answer

    @router.post("/input_tokens")
    async def count_input(request: Request) -> Response:
        return api.count_input(await request.body())

    @router.get("/{response_id}")
    async def retrieve(
        response_id: str, request: Request, *, stream: bool = False, starting_after: int | None = None
    ) -> Response:
        if stream:
            return api.stream(response_id, starting_after, exchange_of(request))
        return api.retrieve(response_id, exchange_of(request))

    @router.post("/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> Response:
        return api.cancel(response_id, exchange_of(request))

    @router.delete("/{response_id}")
    async def delete(response_id: str, request: Request) -> Response:
        return api.delete(response_id, exchange_of(request))

    return router


def _batch_routes(api: BatchesApi) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[Depends(_require_api_key)])

    @router.post("/files")
    async def upload(request: Request) -> Response:
        async with request.form() as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "Missing required parameter: 'file'.", param="file")
            purpose, content = str(form.get("purpose")), await file.read()
            return api.upload(str(file.filename), purpose, content, exchange_of(request))

    @router.get("/files/{file_id}")
    async def file(file_id: str) -> Response:
        return api.file(file_id)

    @router.delete("/files/{file_id}")
    async def delete_file(file_id: str) -> Response:
        return api.delete_file(file_id)

    @router.get("/files/{file_id}/content")
    async def content(file_id: str, request: Request) -> Response:
        return api.content(file_id, exchange_of(request))

    @router.post("/batches")
    async def create(body: dict[str, Any], request: Request) -> Response:
        return api.create(body, exchange_of(request))

    @router.get("/batches")
    async def batches(after: str | None = None, limit: int = 20) -> Response:
        return api.list_page(after, limit)

    @router.get("/batches/{batch_id}")
    async def retrieve(batch_id: str, request: Request) -> Response:
        return api.retrieve(batch_id, exchange_of(request))

    @router.post("/batches/{batch_id}/cancel")
    async def cancel(batch_id: str) -> Response:
        return api.cancel(batch_id)

    return router


def _conversation_routes(api: ConversationsApi) -> APIRouter:
    router = APIRouter(prefix="/v1/conversations", dependencies=[Depends(_require_api_key)])

    @router.post("")
    async def create(body: dict[str, Any]) -> Response:
        return api.create(body.get("metadata"))

    @router.get("/{conversation_id}/items")
    async def items(conversation_id: str, request: Request, order: Literal["asc", "desc"] = "desc") -> Response:
        return api.items(conversation_id, order, exchange_of(request))

    return router


def _costs_routes(api: OrganizationApi) -> APIRouter:
    router = APIRouter(prefix="/v1/organization", dependencies=[Depends(_require_api_key)])

    @router.get("/costs")
    async def costs(
        start_time: int, end_time: int | None = None, limit: int = 7, page: str | None = None
    ) -> dict[str, Any]:
        return api.costs(start_time, end_time, limit, page)

    return router


def _control_routes(stand_in: OpenAIStandIn) -> APIRouter:
    router = APIRouter()

    @router.get(HEALTH_PATH)
    async def health() -> dict[str, str]:
        return {"status": "ok", "notice": STAND_IN_NOTICE}

    @router.get("/standin/responses")
    async def responses() -> ResponsesReport:
        return stand_in.responses()

    @router.get("/standin/requests")
    async def requests() -> list[LoggedRequest]:
        return stand_in.requests()

    @router.post("/standin/reset")
    async def reset() -> dict[str, str]:
        stand_in.reset()
        return {"status": "ok"}

    return router


def _webhook_routes(webhooks: WebhookDispatcher) -> APIRouter:
    router = APIRouter(prefix="/standin/webhooks")

    @router.get("")
    async def report() -> WebhooksReport:
        return webhooks.report()

    @router.post("")
    async def send(event: DirectEvent) -> WebhookAttempt:
        try:
            return await webhooks.send_now(event)
        except LookupError as error:
            raise ApiError(409, str(error)) from error

    return router


def _answer_errors_like_openai(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> Response:
        return error.as_response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail} ({request.method} {request.url.path})"
        return ApiError(error.status_code, message, headers=error.headers).as_response()

    @app.exception_handler(Exception)
    async def failure(_request: Request, error: Exception) -> Response:
        return ApiError(500, f"The stand-in failed: {error!r}", type="server_error").as_response()
