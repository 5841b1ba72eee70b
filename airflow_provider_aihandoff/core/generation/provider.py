"""The seam to a model provider: what the ledger's protocols ask of one, in values of ours.

A provider's own types, status words, codes and exceptions stay on its side. One that is made for OpenAI ships, in
``core/generation/openai/``; ``tests/fake_provider.py`` has one in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, ResponseStatus

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.models import Revision
    from airflow_provider_aihandoff.core.rates.slowdown import Heard

#: The metadata that goes with a request and comes back with its response: the job, the revision and the ledger.
OWN_METADATA = ("aihandoff_job", "aihandoff_revision", "aihandoff_ledger")


def own_metadata(job_id: int, revision: int, ledger_id: str) -> dict[str, str]:
    """The metadata by which a response whose id was lost is matched with its revision."""
    return dict(zip(OWN_METADATA, (str(job_id), str(revision), ledger_id), strict=True))


class ProviderError(HandoffError):
    """The provider could not be asked about a response, or its answer says nothing. Asking again is safe."""


class ResponseNotFound(ProviderError):
    """The provider does not find the response. It may not do so for a while after a response was made or has ended."""


#: What a provider means that does not find a response for long, as text without a full stop.
NOT_FOUND = (
    "OpenAI does not find the response (404): it was not stored (store=false, or a project with zero data retention), "
    "was made with another project's key, was deleted, or its server keeps no responses"
)


class CredentialsRefused(ProviderError):
    """The provider refuses the credentials of the connection."""


class ProviderUnreachable(ProviderError):
    """No answer came from the provider."""


class Sent(StrEnum):
    """What is known of a create that brought no response."""

    NO = "no"  # no response was created, and the same request may succeed later
    NEVER = "never"  # no response was created, and the same request would be refused again
    SPENT = "spent"  # no response was created: a limit of money is reached, and each request gets the same answer
    UNKNOWN = "unknown"  # a response may have been created
    RUNS = "runs"  # none was created, since the response of an earlier request runs in the same handle


@dataclass(frozen=True)
class SubmitFailure:
    """Why a request brought no response id.

    :param reason: without a full stop.
    :param retry_after: seconds that the provider asked to wait, if it did.
    :param remedy: what a person has to do, where the answer says more than that the request was refused.
    :param heard: what the answer says about the provider's limits of speed, if there was one.
    """

    sent: Sent
    reason: str
    retry_after: float | None = None
    remedy: str | None = None
    heard: Heard | None = None


@dataclass(frozen=True)
class ModelResponse:
    """What a provider says about one response.

    :param status: that of one which says something new is ``running``: it is waited for.
    :param text: of the final answer; empty where there is none; None while the output cannot be read yet.
    :param last_message: the text of its last message, where it has several.
    :param refusal: why the model refused to answer, where it did.
    :param calls: names of the tools that the model asks its caller for, where it does that instead of answering.
    :param error_code: why it failed.
    :param incomplete_reason: why it stopped early.
    :param is_final: the same request would end the same way, so that another revision would only cost.
    :param is_spent: it failed since a limit of money is reached.
    :param usage: what is billed, as the provider says it; and under ``tool_calls`` how many calls of its own tools, by
        type, are billed beside it and are in no price; under ``priced_tool_calls`` those that are in the price.
    :param model: the one that answered; with ``service_tier`` it decides the price.
    :param created_at: when the provider created it, if it says so.
    :param heard: what the answer to its request says about the provider's limits of speed.
    """

    id: str
    status: ResponseStatus
    text: str | None = None
    last_message: str | None = None
    refusal: str | None = None
    calls: tuple[str, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    incomplete_reason: str | None = None
    is_final: bool = False
    is_spent: bool = False
    usage: dict[str, Any] | None = None
    model: str | None = None
    service_tier: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    heard: Heard | None = None

    @property
    def ended(self) -> bool:
        """Whether it will no longer change."""
        return self.status in ENDED_RESPONSE_STATUSES

    @property
    def readable(self) -> bool:
        """Whether it has ended and is whole: for a moment, one that completed can come without its output."""
        return self.ended and (self.status is not ResponseStatus.COMPLETED or self.text is not None)

    @property
    def ended_by_itself(self) -> bool:
        """Whether it has ended before it was stopped. A cancelled one leaves nothing."""
        return self.ended and self.status is not ResponseStatus.CANCELLED


@dataclass(frozen=True)
class Tokens:
    """How many tokens went in and came out; None where that is not known."""

    input: int | None
    output: int | None


@dataclass(frozen=True)
class WorstCase:
    """The most that one request can need.

    :param input_tokens: None where nothing bounds them, and so are ``output_tokens``.
    :param cost_usd: in US dollars, with fees for calls of the provider's tools; None where it is not known.
    :param unknown: why it is not known, as text without a full stop.
    :param loose: its input may be much smaller: :meth:`ModelProvider.count_input` says how many tokens it has.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    unknown: str | None = None
    loose: bool = False

    def or_at_most(self, stated_usd: Decimal | None) -> WorstCase:
        """The same; where its cost is not known, what its author says, if they do."""
        return self if self.cost_usd is not None or stated_usd is None else replace(self, cost_usd=stated_usd)


@dataclass(frozen=True)
class Part:
    """A part of a message.

    :param kind: ``text``, or what else it is, by the provider's name.
    :param text: None of what is no text.
    """

    kind: str
    text: str | None = None


@dataclass(frozen=True)
class Message:
    """A message to a model, or from one.

    :param role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``.
    """

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Prompt:
    """What a request says to the model.

    :param instructions: those that the provider takes beside the messages.
    """

    instructions: tuple[Part, ...]
    messages: tuple[Message, ...]


class ProviderFacts(ABC):
    """What is known of a provider without asking it. Pure."""

    name: ClassVar[str]
    """As OpenTelemetry's conventions name it in ``gen_ai.provider.name``."""

    @abstractmethod
    def price(self, response: ModelResponse, request: Mapping[str, Any]) -> Decimal | None:
        """What a response cost, in US dollars, without its ``tool_calls``; None where that is unknown.

        :param request: the request that was sent; empty where it is not known.
        """

    @abstractmethod
    def worst_case(
        self,
        request: Mapping[str, Any],
        *,
        expected_output_tokens: int | None = None,
        context_tokens: int | None = None,
        hidden: bool = False,
        counted: int | None = None,
    ) -> WorstCase:
        """The most that a request can need, before it is sent. Asks no one, and raises nothing.

        :param request: with its secrets: its bytes count.
        :param expected_output_tokens: what its author expects at most, where the request sets no bound.
        :param context_tokens: of the response that it continues, if that is known.
        :param hidden: it has secrets that are masked here, of unknown length.
        :param counted: how many tokens its input has, where the provider has counted them.
        """

    def in_batch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request as it is processed in a batch, for :meth:`price` and :meth:`worst_case`."""
        return dict(request)

    @abstractmethod
    def continued(
        self, request: Mapping[str, Any], *, changes: str, before: Revision, response_id: str | None
    ) -> dict[str, Any]:
        """The request for another version of an output.

        :param request: the one that asked for the work.
        :param changes: what the reviewer wants changed, in their words.
        :param before: the revision that they reviewed.
        :param response_id: the response that the model goes on from; None where the provider no longer has it.
        """

    @abstractmethod
    def check_output_type(self, output_type: Any) -> None:
        """Refuse what the provider would refuse, and what could not be read again once it is stored.

        :raises RequestError: with the type, the field and what to do.
        """

    @abstractmethod
    def build_request(
        self, arguments: Mapping[str, Any], output_type: type[BaseModel] | None, *, stream: bool = False
    ) -> dict[str, Any]:
        """The request that a task's arguments make, without what the submit protocol adds.

        :param arguments: by the provider's names; the ones that are None are left out.
        :param output_type: the answer is asked for as its JSON.
        :param stream: its response can be watched while it is made: see :mod:`.response_stream`. It is part of the
            processing, and not of what the model is asked.
        :raises RequestError: they make none.
        """

    @abstractmethod
    def input_snapshot(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the model is asked: the request without how it is processed. A job recognises its own work by it."""

    @abstractmethod
    def output_schema(self, request: Mapping[str, Any]) -> Any:
        """The JSON schema that a request asks the output to match; None where it has none."""

    @abstractmethod
    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """What a request says to the model."""

    @abstractmethod
    def model(self, request: Mapping[str, Any]) -> str | None:
        """The model that a request names; None where it names none."""

    @abstractmethod
    def counted_tokens(self, request: Mapping[str, Any]) -> int:
        """How many tokens a request counts for in limits of tokens, before it is sent: about as many as it has, and as
        it lets the model write, where it says so. Asks no one, and raises nothing.
        """

    @abstractmethod
    def tokens(self, usage: Mapping[str, Any]) -> Tokens:
        """How many tokens were billed, as far as the usage of a response says so."""


class ModelProvider(ProviderFacts):
    """A provider over one connection, for workers, the threads of the API server and the terminal.

    No call is repeated automatically: the protocols decide whether it is safe to ask again.
    """

    @abstractmethod
    def create(
        self, request: Mapping[str, Any], metadata: Mapping[str, str], *, timeout: float, handle: str | None = None
    ) -> ModelResponse | SubmitFailure:
        """Send a request once, and return the response that runs for it, or why there is none. Raises nothing.

        :param metadata: goes with the request, in addition to its own.
        :param timeout: seconds that the call may take.
        :param handle: where the response runs, as :meth:`open_handle` made it.
        """

    def open_handle(self, request: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
        """Make a handle that takes one response at a time, for free, and return its id.

        None where the provider has none, the request cannot have one, or its connection does not ask for them.

        :raises ProviderError: it could not be made now. Asking again is safe.
        """
        return None

    def count_input(self, request: Mapping[str, Any], *, handle: str | None = None) -> int | None:
        """Ask how many tokens the input of a request has, for free and before it is sent. Raises nothing.

        None where the provider does not say.

        :param handle: where the response is to run.
        """
        return None

    def read_handle(self, handle: str) -> ModelResponse | None:
        """The response that has ended in a handle, without its own id and its usage; None where none has.

        :raises ProviderError: there is no valid answer.
        """
        raise NotImplementedError

    @abstractmethod
    def retrieve(self, response_id: str) -> ModelResponse:
        """Ask about a response.

        :raises ProviderError: there is no valid answer.
        """

    @abstractmethod
    def cancel(self, response_id: str) -> ModelResponse | None:
        """Ask to stop a response, and return what the provider says about it then; None where it says nothing.

        A response that has ended stays as it is. Raises nothing.
        """


class AsyncModelProvider(ProviderFacts):
    """The part of :class:`ModelProvider` that triggerers need, without blocking their event loop."""

    @abstractmethod
    async def retrieve(self, response_id: str) -> ModelResponse:
        """As :meth:`ModelProvider.retrieve`."""

    @abstractmethod
    async def cancel(self, response_id: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.cancel`."""

    async def read_handle(self, handle: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.read_handle`."""
        raise NotImplementedError


#: The provider of a connection. Raises what Airflow raises where there is no such connection.
ProviderFor = Callable[[str], ModelProvider]
