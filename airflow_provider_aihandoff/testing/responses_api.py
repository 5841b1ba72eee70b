"""What the stand-in does for each operation of the Responses API, faults included."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from airflow_provider_aihandoff.testing.api_errors import (
    ApiError,
    conversation_locked,
    conversation_not_found,
    injected,
    previous_response_not_found,
    response_not_found,
)
from airflow_provider_aihandoff.testing.create_request import CreateRequest, parse_create_request
from airflow_provider_aihandoff.testing.exchange import CutOffAnswer, EventsAnswer, Exchange, NoAnswer, html_page
from airflow_provider_aihandoff.testing.faults import Faults
from airflow_provider_aihandoff.testing.json_scalars import UnsupportedSchemaError
from airflow_provider_aihandoff.testing.lifecycle import (
    FINISHED_STATUSES,
    StoredResponse,
    as_json,
    ends_at,
    status_at,
    tokens_of,
)
from airflow_provider_aihandoff.testing.output import Responder, output_text
from airflow_provider_aihandoff.testing.server_kind import ServerKind
from airflow_provider_aihandoff.testing.state import State
from airflow_provider_aihandoff.testing.streamed_events import events_of

CancelFinishedStatus = Literal[200, 400, 409]

#: Seconds between two checks of the clock while a stream waits for its next event.
_STEP = 0.02


@dataclass(frozen=True)
class ResponsesApi:
    """The operations; each notes in `exchange` what the log of requests shows.

    All are called on one event loop, and none gives way to another between a read and the change that follows.
    """

    state: State
    clock: Callable[[], float]
    """The time, in Unix seconds."""
    delay_seconds: float
    """From create to end, where the request does not say."""
    cancel_finished_status: CancelFinishedStatus
    """HTTP status of a cancel that comes after the end."""
    responders: Sequence[Responder]
    kind: ServerKind
    """What the server lacks."""
    schedule_webhooks: Callable[[StoredResponse], None]
    """Called with each new response, and with each whose end has changed."""
    readers: Counter[str] = field(default_factory=Counter)
    """How many read the events of each response now."""

    def create(self, body: bytes, exchange: Exchange) -> Response:
        """`POST /v1/responses`.

        Raises:
            ApiError: the request is refused, or a fault says so.
        """
        request = parse_create_request(body)
        faults = request.faults
        self._check_conversation(request.conversation_id)
        fault = faults.create
        if fault is None or not self.state.take_fault(_create_fault_key(request, faults), faults.times):
            response = self._accept(request, faults, exchange)
            if response.streams:
                return EventsAnswer(self._events(response.id, -1, None), cut_off=False)
            status = "queued" if response.background else status_at(response, response.accepted_at)
            return JSONResponse(as_json(response, status))
        exchange.fault = f"create={fault}"
        match fault:
            case "html":
                return html_page()
            case "timeout_after_accept":
                self._accept(request, faults, exchange)
                return NoAnswer()
            case "drop_after_accept":
                self._accept(request, faults, exchange)
                return CutOffAnswer()
        raise injected(fault)

    def count_input(self, body: bytes) -> Response:
        """`POST /v1/responses/input_tokens`.

        Raises:
            ApiError: the request is refused; 405 where the server does not count.
        """
        if not self.kind.counts:
            raise ApiError(405, "Method Not Allowed")
        request = parse_create_request(body)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": tokens_of(request.input_text)})

    async def answer_when_ended(self, answer: Response, exchange: Exchange) -> Response:
        """The answer to a create; of a server without background mode when the response has ended, and with it."""
        response = None if exchange.response_id is None else self.state.find(exchange.response_id)
        if self.kind.background or exchange.fault is not None or response is None or response.streams:
            return answer
        end = ends_at(response)
        if end is None:
            return NoAnswer()
        await anyio.sleep(max(0.0, end - self.clock()))
        return JSONResponse(as_json(response, status_at(response, end)))

    def retrieve(self, response_id: str, exchange: Exchange) -> Response:
        """`GET /v1/responses/{id}`.

        Raises:
            ApiError: 404, or what a fault says.
        """
        response = self._find(response_id, exchange)
        status = status_at(response, self.clock())
        answer = as_json(response, status)
        faults = response.faults
        due = faults.retrieve and (status in FINISHED_STATUSES or not faults.retrieve_only_when_finished)
        if not due or not self.state.take_fault(f"retrieve {response_id}", faults.times):
            return JSONResponse(answer)
        exchange.fault = f"retrieve={faults.retrieve}"
        match faults.retrieve:
            case "html":
                return html_page()
            case "drop":
                return CutOffAnswer()
            case "null_output":
                return JSONResponse({**answer, "output": None})
            case "wrong_id":
                return JSONResponse({**answer, "id": _new_id()})
        raise injected(str(faults.retrieve))

    def stream(self, response_id: str, starting_after: int | None, exchange: Exchange) -> Response:
        """`GET /v1/responses/{id}?stream=true`.

        Raises:
            ApiError: 404; 400 where it was not created with `stream`; or what a fault says.
        """
        exchange.after = -1 if starting_after is None else starting_after
        response = self._find(response_id, exchange)
        if not response.streams:
            raise ApiError(400, "This response was not created with 'stream' set to true.", param="stream")
        fault = response.faults.stream
        if fault is None or not self.state.take_fault(f"stream {response_id}", response.faults.times):
            return EventsAnswer(self._events(response_id, exchange.after, None), cut_off=False)
        exchange.fault = f"stream={fault}"
        match fault:
            case "html":
                return html_page()
            case "drop":
                last = events_of(response)[-1].number
                until = max(exchange.after, (exchange.after + last) // 2)
                return EventsAnswer(self._events(response_id, exchange.after, until), cut_off=True)
        raise injected(fault)

    async def _events(self, response_id: str, after: int, until: int | None) -> AsyncIterator[str]:
        """The events of a response after one of them, each when it is due, up to one of them, or to the end."""
        self.readers[response_id] += 1
        try:
            while (response := self.state.find(response_id)) is not None and response.retrievable:
                now = self.clock()
                for event in events_of(response):
                    if until is not None and after >= until:
                        return
                    if event.number > after and event.at <= now:
                        after = event.number
                        yield f"event: {event.content['type']}\ndata: {json.dumps(event.content)}\n\n"
                if status_at(response, now) in FINISHED_STATUSES:
                    return
                await anyio.sleep(_STEP)
        finally:
            self.readers[response_id] -= 1

    def cancel(self, response_id: str, exchange: Exchange) -> Response:
        """`POST /v1/responses/{id}/cancel`.

        Raises:
            ApiError: 404; 405 where the server cannot cancel; 400 where the response does not run in the background;
                or, where it has ended, the status that `cancel_finished_status` says.
        """
        if not self.kind.cancels:
            raise ApiError(405, "Method Not Allowed")
        response = self._find(response_id, exchange)
        if not response.background:
            raise ApiError(400, "Cannot cancel a synchronous response.")
        if response.cancelled_at is None:
            now = self.clock()
            status = status_at(response, now)
            if status in FINISHED_STATUSES:
                if self.cancel_finished_status == 200:
                    return JSONResponse(as_json(response, status))
                raise ApiError(self.cancel_finished_status, f"Cannot cancel a response that is {status}.")
            self.schedule_webhooks(self.state.cancel(response_id, now))
        return JSONResponse(as_json(response, "cancelled"))

    def delete(self, response_id: str, exchange: Exchange) -> Response:
        """`DELETE /v1/responses/{id}`.

        Raises:
            ApiError: 404.
        """
        self._find(response_id, exchange)
        self.state.delete(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    def _check_conversation(self, conversation_id: str | None) -> None:
        """Refuse a request into a conversation in which another response runs.

        Raises:
            ApiError: 404, there is none with this id; 400, it is locked.
        """
        if conversation_id is None:
            return
        if not self.state.has_conversation(conversation_id):
            raise conversation_not_found(conversation_id)
        now = self.clock()
        if any(status_at(each, now) not in FINISHED_STATUSES for each in self.state.in_conversation(conversation_id)):
            raise conversation_locked(conversation_id)

    def _history(self, response_id: str | None) -> list[dict[str, JsonValue]]:
        """The input items of the responses that this one goes on from, oldest first. What was answered plays no part.

        Raises:
            ApiError: 400, one of them is not known.
        """
        items: list[dict[str, JsonValue]] = []
        while response_id is not None:
            before = self.state.find(response_id)
            if before is None or not before.retrievable:
                raise previous_response_not_found(response_id)
            request = CreateRequest.model_validate(before.request)
            items = [*request.input_items, *items]
            response_id = request.previous_response_id
        return items

    def _accept(self, request: CreateRequest, faults: Faults, exchange: Exchange) -> StoredResponse:
        delay = self.delay_seconds if faults.delay is None else faults.delay
        if not request.background or faults.webhook == "early":
            delay = 0
        response = self.prepared(request, faults, delay_seconds=delay)
        self.state.accept(response)
        exchange.response_id = response.id
        self.schedule_webhooks(response)
        return response

    def prepared(self, request: CreateRequest, faults: Faults, *, delay_seconds: float) -> StoredResponse:
        """The response that a request comes to, which is not stored yet.

        Raises:
            ApiError: 400, what it goes on from is not known, or its schema cannot be followed.
        """
        whole = request.after(self._history(request.previous_response_id))
        if not self.kind.background:
            request = request.model_copy(update={"background": False})
        if not self.kind.streams:
            request = request.model_copy(update={"stream": None})
        if not self.kind.stores:
            request = request.model_copy(update={"store": False})
        return StoredResponse(
            id=_new_id(),
            request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
            input_text=whole.instructions_text + whole.input_text,
            output_text=self._output_text(whole, faults),
            faults=faults,
            accepted_at=self.clock(),
            delay_seconds=delay_seconds,
            conversation_id=request.conversation_id,
        )

    def _output_text(self, request: CreateRequest, faults: Faults) -> str:
        if faults.text is not None:
            return faults.text
        try:
            return output_text(request, self.responders)
        except UnsupportedSchemaError as error:
            raise ApiError(
                400,
                f"The stand-in cannot follow this schema: {error}",
                param="text.format.schema",
                code="invalid_json_schema",
            ) from error

    def _find(self, response_id: str, exchange: Exchange) -> StoredResponse:
        exchange.response_id = response_id
        response = self.state.find(response_id)
        if response is None or not response.retrievable:
            raise response_not_found(response_id)
        return response


def _create_fault_key(request: CreateRequest, faults: Faults) -> str:
    """Under what a create's faults are counted: its own name for them, else its input."""
    inputs = f"{request.instructions_text}\n{request.input_text}".encode()
    return f"create {faults.id or hashlib.sha256(inputs).hexdigest()}"


def _new_id() -> str:
    return f"resp_{uuid.uuid4().hex}"
