"""The outside world of the ledger, with a record of its own: what was really created, and what was really written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, Target, UnclearAnswer
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse, Sent, SubmitFailure
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.fake_provider import FakeFacts
from tests.integration.core.puppets import reach

#: What a target does with a request, in order of appearance.
ANSWERS = ("applies", "applies and hangs up", "hangs up", "refuses", "not now", "come back")

#: What OpenAI does with a create.
CREATES = ("creates", "creates and hangs up", "hangs up", "429")

#: Seconds that a call takes at most, that a probe is given, and after which a write is visible to it.
CALL, GRACE, LAG = 20.0, 5.0, 3.0


@dataclass
class Created:
    """A response at OpenAI.

    :param revision: the one that its metadata names.
    """

    response_id: str
    revision: int
    status: str = "queued"


@dataclass
class World:
    """Everything that is not the ledger."""

    clock: float = 0.0
    answer: str = ANSWERS[0]
    """What the target does next."""
    create: str = CREATES[0]
    """What OpenAI does next."""
    written: Counter[str] = field(default_factory=Counter)
    """How often each effect key was really applied."""
    written_at: dict[str, float] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    """Every call to a target."""
    responses: list[Created] = field(default_factory=list)


@dataclass(eq=False)
class Call:
    """One call to a target: from where its sender has checked its claim, to the answer."""

    key: str
    began: float
    ended: bool = False


@dataclass(frozen=True)
class WorldTarget(Target):
    """A system that is written to.

    :param on_apply: called with the effect key before anything is written.
    """

    kind = "world"

    world: World
    on_apply: Callable[[str], None]
    idempotent: bool = False
    can_probe: bool = False
    call_seconds: float = CALL
    grace_seconds: float = GRACE

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        self.on_apply(key)
        call = Call(key, self.world.clock)
        self.world.calls.append(call)
        answer = self.world.answer
        if answer.startswith("applies") and not (self.idempotent and self.world.written[key]):
            self.world.written[key] += 1
            self.world.written_at[key] = self.world.clock
        try:
            reach("in the call")
        finally:
            call.ended = True
        if answer == "applies":
            return Applied(f"record of {key}")
        if answer == "refuses":
            raise EffectRefused("422.")
        if answer in ("not now", "come back"):
            raise EffectNotNow("503.", retry_after=10.0 if answer == "come back" else None)
        raise UnclearAnswer("the connection broke")

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        if self.world.answer == "hangs up":
            return None
        visible = self.world.written[key] and self.world.clock - self.world.written_at[key] >= LAG
        return Applied(f"record of {key}") if visible else NotApplied()


class OpenAIWorld(FakeFacts, ModelProvider):
    """OpenAI, as far as the submit protocol asks it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create(
        self, request: Mapping[str, Any], metadata: Mapping[str, str], *, timeout: float, handle: str | None = None
    ) -> ModelResponse | SubmitFailure:
        answer = self._world.create
        if answer == "429":
            return SubmitFailure(Sent.NO, "429")
        if answer.startswith("creates"):
            number = len(self._world.responses) + 1
            created = Created(f"resp_{number}", int(metadata["aihandoff_revision"]))
            self._world.responses.append(created)
            reach("in the call")
        if answer.endswith("hangs up"):
            return SubmitFailure(Sent.UNKNOWN, "the connection broke")
        return ModelResponse(created.response_id, ResponseStatus.QUEUED)

    def retrieve(self, response_id: str) -> ModelResponse:
        response = next(each for each in self._world.responses if each.response_id == response_id)
        return ModelResponse(response_id, ResponseStatus(response.status))

    def cancel(self, response_id: str) -> ModelResponse:
        response = next(each for each in self._world.responses if each.response_id == response_id)
        if response.status == "queued":
            response.status = "cancelled"
        return self.retrieve(response_id)
