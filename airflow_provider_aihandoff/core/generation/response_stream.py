"""What arrives of a response while it is made: the seam to a provider that streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_provider_aihandoff.core.generation.provider import AsyncModelProvider, ProviderError, Tokens


class NotStreamed(ProviderError):
    """The provider does not stream this response, and will not: it was not asked to, or no longer has its events."""


class PartKind(StrEnum):
    """What a part of a stream is."""

    THINKING = "thinking"
    """More of the summary of the model's reasoning, or of a comment before its answer."""
    TEXT = "text"
    """More of the answer."""
    SIGN = "sign"
    """Nothing to show, but the response is alive."""
    ENDED = "ended"
    """The response has ended."""


@dataclass(frozen=True)
class StreamPart:
    """One thing that has arrived.

    :param sequence_number: its place in the stream; later ones are larger.
    :param delta: what it adds to what was there.
    :param tokens: what is billed, where the response has ended and says so.
    """

    sequence_number: int
    kind: PartKind
    delta: str = ""
    tokens: Tokens | None = None


class ResponseStream(ABC):
    """The stream of one response, which can be taken up where it was dropped. No one else has to read it."""

    after: int | None = None
    """The last part that was read, whatever it was; None before the first."""

    on_refused: Callable[[], None] | None = None
    """Called when the credentials are refused: the next stream that is opened reads them again."""

    @abstractmethod
    def parts(self) -> AsyncGenerator[StreamPart, None]:
        """What arrives after :attr:`after`, each part once, up to the end of the response or of the connection.

        :raises NotStreamed: there is no such stream.
        :raises ProviderError: the connection failed. Reading on is safe.
        """


class HasStreams(ABC):
    """A provider whose responses can be watched, for an event loop."""

    @abstractmethod
    def stream(self, response_id: str) -> ResponseStream:
        """What arrives of a response whose request said that it can be watched. Asks no one yet."""


def stream_of(provider: AsyncModelProvider, response_id: str) -> ResponseStream:
    """The stream of a response.

    :raises NotStreamed: the provider has none.
    """
    if not isinstance(provider, HasStreams):
        raise NotStreamed(f"The provider {provider.name} has no stream of {response_id}.", remedy="")
    return provider.stream(response_id)


def is_streamed(request: Mapping[str, Any]) -> bool:
    """Whether a request asked for a response whose stream can be read."""
    return request.get("stream") is True
