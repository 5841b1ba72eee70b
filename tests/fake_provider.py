"""A model provider in memory. A response runs until a test ends it, or it is cancelled."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.generation.provider import (
    AsyncModelProvider,
    Message,
    ModelProvider,
    ModelResponse,
    Part,
    Prompt,
    ProviderError,
    ProviderFacts,
    ResponseNotFound,
    Sent,
    SubmitFailure,
    Tokens,
    WorstCase,
)
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.core.states import ResponseStatus

if TYPE_CHECKING:
    from pydantic import BaseModel

#: What stands in the script of a :class:`FakeProvider`: a status, a whole response, an error, or no word.
Answer = ResponseStatus | ModelResponse | ProviderError | None

#: US dollars a token.
PRICE = Decimal("0.01")


class FakeFacts(ProviderFacts):
    """Every token costs :data:`PRICE`."""

    name = "fake"

    def price(self, response: ModelResponse, request: Mapping[str, Any]) -> Decimal | None:
        return None if response.usage is None else PRICE * int(response.usage["tokens"])

    def worst_case(
        self,
        request: Mapping[str, Any],
        *,
        expected_output_tokens: int | None = None,
        context_tokens: int | None = None,
        hidden: bool = False,
        counted: int | None = None,
    ) -> WorstCase:
        tokens = request.get("max_output_tokens", expected_output_tokens)
        return WorstCase(
            None if tokens is None else context_tokens or 0, tokens, None if tokens is None else PRICE * tokens
        )

    def continued(
        self, request: Mapping[str, Any], *, changes: str, before: Revision, response_id: str | None
    ) -> dict[str, Any]:
        return {**request, "changes": changes, "from": response_id}

    def check_output_type(self, output_type: Any) -> None:
        assert output_type

    def build_request(
        self, arguments: Mapping[str, Any], output_type: type[BaseModel] | None, *, stream: bool = False
    ) -> dict[str, Any]:
        schema = {} if output_type is None else {"schema": output_type.model_json_schema()}
        return {**arguments, **schema}

    def input_snapshot(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return dict(request)

    def output_schema(self, request: Mapping[str, Any]) -> Any:
        return request.get("schema")

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        return Prompt((), (Message("user", (Part("text", str(request.get("input"))),)),))

    def model(self, request: Mapping[str, Any]) -> str | None:
        return "fake"

    def counted_tokens(self, request: Mapping[str, Any]) -> int:
        return int(request.get("tokens", 1))

    def tokens(self, usage: Mapping[str, Any]) -> Tokens:
        return Tokens(None, int(usage["tokens"]))


class FakeProvider(FakeFacts, ModelProvider):
    """Keeps its responses by their ids, and each call that it got.

    :param answers: what the next retrieves and cancels answer; afterwards they answer what is so.
    """

    def __init__(self, *answers: Answer) -> None:
        self.responses: dict[str, ModelResponse] = {}
        self.requests: list[Mapping[str, Any]] = []
        self.calls: list[str] = []
        self.answers = deque(answers)
        self.refusals: deque[SubmitFailure] = deque()
        """With what the next creates fail. After one that is unknown, there is a response all the same."""

    def create(
        self, request: Mapping[str, Any], metadata: Mapping[str, str], *, timeout: float, handle: str | None = None
    ) -> ModelResponse | SubmitFailure:
        self.calls.append("create")
        failure = self.refusals.popleft() if self.refusals else None
        if failure is not None and failure.sent is not Sent.UNKNOWN:
            return failure
        self.requests.append(request)
        response = ModelResponse(f"resp_{len(self.requests)}", ResponseStatus.QUEUED, metadata=dict(metadata))
        self.responses[response.id] = response
        return failure or response

    def retrieve(self, response_id: str) -> ModelResponse:
        self.calls.append("retrieve")
        if self.answers:
            answer = self._scripted(response_id)
            assert answer is not None, "only a cancel may bring no word"
            return answer
        if response_id not in self.responses:
            raise ResponseNotFound(f"there is no response {response_id}.")
        return self.responses[response_id]

    def cancel(self, response_id: str) -> ModelResponse | None:
        self.calls.append("cancel")
        if self.answers:
            return self._scripted(response_id)
        response = self.responses.get(response_id)
        if response is not None and not response.ended:
            response = self.end(response_id, ResponseStatus.CANCELLED)
        return response

    def end(self, response_id: str, status: ResponseStatus = ResponseStatus.COMPLETED, **changes: Any) -> ModelResponse:
        """Let a response end; by default completed with a text, and always billed."""
        usual: dict[str, Any] = {"usage": {"tokens": 3}}
        if status is ResponseStatus.COMPLETED:
            usual["text"] = "A kettle."
        self.responses[response_id] = replace(self.responses[response_id], status=status, **{**usual, **changes})
        return self.responses[response_id]

    def _scripted(self, response_id: str) -> ModelResponse | None:
        answer = self.answers.popleft()
        if isinstance(answer, ProviderError):
            raise answer
        return ModelResponse(response_id, answer) if isinstance(answer, ResponseStatus) else answer


class AsyncFakeProvider(FakeFacts, AsyncModelProvider):
    """Another way to the responses of a :class:`FakeProvider`, for an event loop."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider

    async def retrieve(self, response_id: str) -> ModelResponse:
        return self._provider.retrieve(response_id)

    async def cancel(self, response_id: str) -> ModelResponse | None:
        return self._provider.cancel(response_id)
