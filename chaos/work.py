"""What a run's work is: its job, its effects, and how the outside behaves to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_provider_aihandoff.core.models import OnLost

Variant = Literal["idempotent", "probed", "conditional", "put", "neither"]

#: The effects that every job of the crash matrix has, in their order.
EFFECTS = ("create", "label", "store")

#: Every effect that a job can have, in their order: :mod:`chaos.effects` says what each of them is.
ALL_EFFECTS = (*EFFECTS, "lines", "retire", "link")

#: The tasks of a run before its effects, and those of the crash matrix, in their order.
BEFORE_EFFECTS = ("draft", "plan", "decide")
PIPELINE = (*BEFORE_EFFECTS, *EFFECTS)

#: The steps of a set, in their order; its jobs have one effect each.
SET_PIPELINE = ("draft set", "ask set", "decide set", "approve set", "write set")
SET_EFFECTS = ("create",)


@dataclass(frozen=True)
class Work:
    """One run's work. Every field is JSON.

    :param key: the job key, and the run id.
    :param variant: what the HTTP target is.
    :param effects: those of :data:`ALL_EFFECTS` that the job intends.
    :param review_seconds: how long there is to decide.
    :param remind: people are reminded at once.
    :param handle: OpenAI is used over the connection whose server has conversations.
    :param deadline_seconds: how long a revision may take.
    :param items: how many jobs it has, where it is a set.
    :param on_lost: what its author wants after a lost request.
    :param model: faults of the response, in the words of the stand-in's ``faults``: ``delay=0.1 create=429``.
    :param target: the fault with which the HTTP target meets the first request for each record, one of
        :data:`chaos.target.FAULTS`; by default chance decides.
    """

    key: str
    variant: Variant = "idempotent"
    effects: tuple[str, ...] = EFFECTS
    model: str = "delay=0.1"
    target: str | None = None
    review_seconds: float = 3600
    remind: bool = False
    handle: bool = False
    deadline_seconds: float = 3600
    on_lost: OnLost | None = None
    items: int = 1

    @property
    def pipeline(self) -> tuple[str, ...]:
        """The tasks of the run, in their order."""
        return (*BEFORE_EFFECTS, *(name for name in ALL_EFFECTS if name in self.effects))
