"""What comes of a write, or of a look for one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Applied:
    """A write that the target has confirmed.

    :param external_id: the id of the record in the target, where it gave one.
    :param result: what is worth keeping of the answer: small, no content and no secret.
    """

    external_id: str | None = None
    result: dict[str, Any] | None = None


class NotApplied:
    """What a probe returns that sees no trace of the write."""


class UnclearAnswer(RuntimeError):
    """An answer that does not say whether the write happened."""


class Target(Protocol):
    """One outside system, as the apply protocol sees it."""

    @property
    def idempotent(self) -> bool:
        """It takes the same effect key twice without writing twice."""

    @property
    def can_probe(self) -> bool:
        """It can be asked what became of a write."""

    @property
    def call_seconds(self) -> float:
        """How long one call may take at most. After that nobody believes in it any more."""

    @property
    def grace_seconds(self) -> float:
        """How long a write may take to become visible to a probe."""

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the plan, once.

        :param key: the effect key: the same for every attempt at this write, and for no other.
        :raises EffectRefused: the target refused, which proves that nothing was written.
        :raises EffectNotNow: nothing was sent, or the target asked to come back later: a retry is safe.
        :raises Exception: any other error means that it is not known whether it was written.
        """

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        """Find out what became of an attempt that ended without a word; None when it cannot tell."""
