"""OpenAI's events of a background response, read after it was created. The shapes of the SDK stay here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import closing
from typing import Any

import openai
from openai.resources.responses import AsyncResponses

from airflow_provider_aihandoff.core.generation.openai.failures import asking_failed
from airflow_provider_aihandoff.core.generation.openai.json_answer import json_of
from airflow_provider_aihandoff.core.generation.provider import ProviderError, Tokens
from airflow_provider_aihandoff.core.generation.response_stream import (
    NotStreamed,
    PartKind,
    ResponseStream,
    StreamPart,
)

#: Seconds without an event after which a connection is given up for another one. A model can think for long in silence.
_SILENCE = 120.0

#: What OpenAI answers where a response has no events.
_NO_STREAM = frozenset({400, 405, 422})

_ENDED = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})


def read_created(raw: Any) -> Any:
    """The response that a create with ``stream`` has made, by its first event; the connection is closed then, and the
    response goes on. A server that does not stream answers with the response itself.

    :param raw: as ``with_raw_response`` has it.
    :return: the response, as JSON or as the SDK makes it of an event; None where there is none.
    """
    with closing(raw.http_response) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            return json_of(answer.read())
        for event in raw.parse():
            return getattr(event, "response", None)
    return None


class OpenAIResponseStream(ResponseStream):
    """The events of one response, by `GET /v1/responses/{id}?stream=true`.

    :param responses: with its own retries off.
    """

    def __init__(self, responses: AsyncResponses, response_id: str) -> None:
        self._responses, self._response_id = responses, response_id
        self._comments: set[str] = set()
        """The messages before the final answer, by their ids."""

    async def parts(self) -> AsyncGenerator[StreamPart, None]:
        """As :meth:`ResponseStream.parts`."""
        after: dict[str, Any] = {} if self.after is None else {"starting_after": self.after}
        try:
            stream = await self._responses.retrieve(self._response_id, stream=True, timeout=_SILENCE, **after)
            async with stream:
                async for event in stream:
                    if (part := self._read(event)) is not None:
                        yield part
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> ProviderError:
        if isinstance(error, openai.APIStatusError) and error.status_code in _NO_STREAM:
            return NotStreamed(f"OpenAI has no stream of {self._response_id} ({error.status_code}).", remedy="")
        return asking_failed(error, self._response_id)

    def _read(self, event: Any) -> StreamPart | None:
        """What an event says; None of one that was read before, or is none."""
        number, kind = getattr(event, "sequence_number", None), getattr(event, "type", None)
        if not isinstance(number, int) or not isinstance(kind, str):
            return None
        if self.after is not None and number <= self.after:
            return None
        if kind == "error":
            raise ProviderError(f"OpenAI's stream of {self._response_id} said that it failed.", remedy="")
        self.after = number
        if kind == "response.output_item.added":
            self._note_comment(getattr(event, "item", None))
        delta = getattr(event, "delta", None)
        if kind == "response.reasoning_summary_text.delta" and isinstance(delta, str):
            return StreamPart(number, PartKind.THINKING, delta)
        if kind == "response.output_text.delta" and isinstance(delta, str):
            is_comment = getattr(event, "item_id", None) in self._comments
            return StreamPart(number, PartKind.THINKING if is_comment else PartKind.TEXT, delta)
        if kind == "response.reasoning_summary_part.done":
            return StreamPart(number, PartKind.THINKING, "\n\n")
        if kind in _ENDED:
            return StreamPart(number, PartKind.ENDED, tokens=_tokens(getattr(event, "response", None)))
        return StreamPart(number, PartKind.SIGN)

    def _note_comment(self, item: Any) -> None:
        if getattr(item, "phase", None) not in (None, "final_answer"):
            self._comments.add(str(getattr(item, "id", None)))


def _tokens(response: Any) -> Tokens | None:
    usage = getattr(response, "usage", None)
    read, written = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
    return Tokens(read, written) if isinstance(read, int) and isinstance(written, int) else None
