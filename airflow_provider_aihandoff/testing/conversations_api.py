"""What the stand-in does for each operation of the Conversations API that a handle on a response needs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from airflow_provider_aihandoff.testing.api_errors import conversation_not_found, injected
from airflow_provider_aihandoff.testing.create_request import CreateRequest
from airflow_provider_aihandoff.testing.exchange import CutOffAnswer, Exchange, html_page
from airflow_provider_aihandoff.testing.lifecycle import StoredResponse, output_items
from airflow_provider_aihandoff.testing.state import State


@dataclass(frozen=True)
class ConversationsApi:
    """The operations. A conversation takes one response at a time: `ResponsesApi` refuses another one while it runs."""

    state: State
    clock: Callable[[], float]
    """The time, in Unix seconds."""

    def create(self, metadata: JsonValue) -> Response:
        """`POST /v1/conversations`: an empty one."""
        conversation_id = f"conv_{uuid.uuid4().hex}"
        self.state.open_conversation(conversation_id)
        body = {"id": conversation_id, "object": "conversation", "metadata": metadata or {}}
        return JSONResponse({**body, "created_at": int(self.clock())})

    def items(self, conversation_id: str, order: str, exchange: Exchange) -> Response:
        """`GET /v1/conversations/{id}/items`: what has ended in it, in one page. As with OpenAI, without any usage.

        Raises:
            ApiError: 404, or what a fault of one of its responses says.
        """
        if not self.state.has_conversation(conversation_id):
            raise conversation_not_found(conversation_id)
        responses = self.state.in_conversation(conversation_id)
        if fault := self._due_fault(conversation_id, responses):
            exchange.fault = f"items={fault}"
            match fault:
                case "html":
                    return html_page()
                case "drop":
                    return CutOffAnswer()
            raise injected(fault)
        now = self.clock()
        items = [item for response in responses for item in _items(response, now)]
        if order == "desc":
            items.reverse()
        ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
        return JSONResponse({"object": "list", "data": items, "has_more": False, **ends})

    def _due_fault(self, conversation_id: str, responses: list[StoredResponse]) -> str | None:
        for response in responses:
            faults = response.faults
            if faults.items and self.state.take_fault(f"items {conversation_id}", faults.times):
                return faults.items
        return None


def _items(response: StoredResponse, now: float) -> list[dict[str, Any]]:
    """The input and the output of a response that has ended with one."""
    output = output_items(response, now)
    if not output:
        return []
    asked = CreateRequest.model_validate(response.request).input_items
    suffix = response.id.removeprefix("resp_")
    said = [
        {
            "id": f"msg_in_{number}_{suffix}",
            "type": "message",
            "role": item.get("role", "user"),
            "status": "completed",
            "content": [{"type": "input_text", "text": str(item.get("content"))}],
        }
        for number, item in enumerate(asked)
    ]
    return [*said, *output]
