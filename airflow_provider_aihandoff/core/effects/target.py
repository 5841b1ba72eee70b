"""What a target is: one kind of outside system, as the apply protocol, a roll-back and a reviewer see it.

This module knows no kind. Each kind is a class of its own, registered under its name;
:mod:`core.effects.target_registry` finds it. Pure.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from airflow_provider_aihandoff.core.errors import PlanError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """A write that the target has confirmed.

    :param external_id: the id of the record in the target, where it gave one.
    :param result: what is worth keeping of the answer: small, no content and no secret.
    :param own: this effect wrote it; otherwise it was there before, and is never undone.
    :param answer: the JSON of the target's answer. The ledger keeps those of its fields that a later effect names.
    """

    external_id: str | None = None
    result: dict[str, Any] | None = None
    own: bool = True
    answer: Any = field(default=None, repr=False, compare=False)


class NotApplied:
    """What a probe returns that sees no trace of the write."""


@dataclass(frozen=True)
class CannotTell:
    """What a probe returns that cannot say what became of the write.

    :param why: what it saw, as text for a person, without a full stop.
    :param found: how many records it saw that could be the write; two are a write that was made twice.
    """

    why: str
    found: int = 0


#: What a probe says. None is short for a :class:`CannotTell` that says no more.
Found = Applied | NotApplied | CannotTell | None


def as_applied(returned: Any, name: str) -> Applied:
    """What an author's own code returns from a write: an :class:`Applied`, the external id, or None.

    The write was made, whatever it returns; what cannot be an id is left out, with a warning.

    :param name: of the effect.
    """
    if returned is None or isinstance(returned, Applied):
        return returned or Applied()
    if isinstance(returned, (str, int)) and not isinstance(returned, bool):
        return Applied(str(returned))
    kind = type(returned).__name__
    log.warning("What writes the effect %r returned a %s, not an external id. It counts as applied.", name, kind)
    return Applied()


def as_found(returned: Any) -> Found:
    """What an author's own code returns from a probe: a :data:`Found`; the external id or True where it finds the
    write; False where there is no trace of it.
    """
    if returned is None or isinstance(returned, (Applied, NotApplied, CannotTell)):
        return returned
    if isinstance(returned, bool):
        return Applied() if returned else NotApplied()
    return Applied(str(returned)) if isinstance(returned, (str, int)) else None


class UnclearAnswer(RuntimeError):
    """An answer that does not say whether the write happened."""


@dataclass(frozen=True)
class RequestView:
    """One request as a reviewer sees it. Together, its parts cover every part of the plan.

    :param action: what is done, in a word: ``PUT``, ``SQL``.
    :param address: where: the URL, the database.
    :param code: a statement or a program that runs there.
    :param tables: values by their names, each table under a heading: headers, parameters.
    :param bodies: exact texts, each under a heading. One that is JSON is also shown indented.
    :param rest: every other part of the plan, by its name.
    :param writes: what the request sets, to be compared field by field with what the target has now; None where that
        cannot be said. It repeats a part of the above.
    :param key_label: what the effect key is called at this target.
    """

    action: str = ""
    address: str = ""
    code: str | None = None
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bodies: Mapping[str, str] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)
    writes: Any = None
    key_label: str = "Effect key"


class Target(ABC):
    """One outside system that effects are written to. An operator renders its fields and makes one.

    A frozen dataclass is a good form for one. ``name``, the effect's name, is for messages.

    What is asked of a class, and not of an instance, is asked where only the ledger is at hand: on a page, in a
    roll-back. It must not need the Dag, a connection or the network, unless it says so.
    """

    #: Under which the class is registered. The ledger and the pages call it so.
    kind: str

    #: Names of fields of the plan whose values are secrets: sent, never stored or shown.
    secret_fields: ClassVar[frozenset[str]] = frozenset()

    #: What an author may write into an undo of this kind; empty: an undo cannot be of this kind.
    undo_fields: ClassVar[frozenset[str]] = frozenset()

    #: Fields of the plan of an undo that may not name what only the applied effect knows, such as a statement.
    fixed_fields: ClassVar[frozenset[str]] = frozenset()
    #: :meth:`from_undo` imports code that the undo names: only a worker makes such a target, never the API server.
    undo_in_worker: ClassVar[bool] = False

    #: It takes the same effect key twice without writing twice.
    idempotent: bool = False

    #: How often it is sent again after an outcome that stayed unknown, before it waits for a person.
    resends: int = 1

    #: The probe decides what a confirmed write has done; a confirmed write without a trace waits for a person.
    verify: bool = False

    #: The probe is tried: before anything is sent, where it must see nothing, and after a write, where it must see it.
    try_probe: bool = True

    #: How long one call of :meth:`apply` may take at most, in seconds. Another attempt may begin a little later.
    call_seconds: float = 60.0

    #: How long a write may take to become visible to :meth:`probe`, in seconds.
    grace_seconds: float = 30.0

    @abstractmethod
    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the plan, once.

        :param plan: exactly what was approved, with its secrets.
        :param key: the effect key: the same for every attempt at this write, and for no other.
        :raises EffectRefused: the target refused, which proves that no external write was made.
        :raises EffectNotNow: nothing was sent, or the target asked to come back later: a retry is safe.
        :raises Exception: any other error means that it is not known whether it was written.
        """

    @property
    def can_probe(self) -> bool:
        """It can be asked what became of a write. By default: where the class defines :meth:`probe`."""
        return type(self).probe is not Target.probe

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        """Find the outcome of an attempt that recorded none. Changes nothing.

        :return: ``NotApplied()`` where there is no trace of the write: it counts once the grace time has ended.
            :class:`CannotTell` or None where the target cannot say. An error counts as that.
        """
        return None

    @property
    def can_read(self) -> bool:
        """It can be asked what it has now. By default: where the class defines :meth:`read`."""
        return type(self).read is not Target.read

    def read(self, plan: dict[str, Any]) -> Any:
        """Return what the target has now where the plan would write, as JSON; None where there is nothing.

        It is called when the plan is rendered for a review, and may fail: the reviewer sees why. Changes nothing.
        """
        raise NotImplementedError

    def names(self) -> set[str]:
        """The placeholders in what the target holds beside the plan, such as its probe, that name an earlier effect."""
        return set()

    def knowing(self, values: Mapping[str, str]) -> Self:
        """The same target, with the values of :meth:`names` filled in.

        :raises CannotFill: a value cannot be written where its placeholder stands.
        """
        return self

    def undo_defaults(self, plan: dict[str, Any]) -> Mapping[str, Any]:
        """The fields that an undo of the same kind has where its author leaves them out, such as the connection.

        :param plan: of the effect that is undone.
        """
        return {}

    @classmethod
    def plan_undo(cls, declared: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Render the undo that an author declared to the exact plan that undoes the effect. It may read connections.

        The plan may name ``{external_id}`` and ``{effect_key}``, which are known once the effect is applied.

        :param declared: only :attr:`undo_fields`, their templates rendered, with :meth:`undo_defaults`.
        :param name: of the effect that is undone, for messages.
        :return: the plan, and what :meth:`from_undo` needs to know besides, both as JSON. The ledger keeps them.
            ``kind``, ``plan``, ``masked`` and ``literals`` are names that the ledger itself uses beside them.
        :raises KeyError: a field is missing; the error message names it.
        :raises PlanError: a field cannot be what it is.
        """
        raise PlanError(f"the effect {name!r} cannot be undone by the kind {cls.kind!r}.")

    @classmethod
    def from_undo(cls, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Make the target that applies an undo which the ledger has kept. Sends nothing.

        :param name: of the undo, for messages.
        :param plan: as :meth:`plan_undo` made it, with the external id and the effect key in it.
        :param options: what :meth:`plan_undo` returned with it.
        :raises PlanError: this undo cannot be applied where this runs.
        """
        raise PlanError(f"{name!r} cannot be applied: the kind {cls.kind!r} has no undo.")

    @classmethod
    def quoted(cls, field: str, value: str) -> str:
        """A value that a plan names, as it is written in this field of it; or in an option of an undo, an object.

        Where the field is a URL, a path or another text with a syntax, the value must stay one part of it.
        """
        return value

    @classmethod
    def refuses(cls, field: str, value: str) -> str | None:
        """Why a value that an earlier effect has brought cannot be written into this field of a plan, or into a value
        in it, with any quoting: as a clause such as ``has a line break``. None where it can.
        """
        return None

    @classmethod
    def may_name(cls, external_id: str) -> bool:
        """Whether this external id can be used in an undo at all, with any quoting."""
        return True

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """What a reviewer sees of a plan, its secrets masked. Leaves nothing out: what it does not know is ``rest``.

        By default, each field by its name.
        """
        return plain_view(plan)


def resends_of(declared: Any, *, idempotent: bool) -> int:
    """How often an effect is sent again after an unknown outcome: as declared; otherwise once, or 3 times if its target
    takes the same key again without writing twice.

    :raises PlanError: it is no number from 0 to 100.
    """
    number = declared if declared is not None else 3 if idempotent else 1
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 100:
        raise PlanError(f"resends must be a whole number from 0 to 100, not {declared!r}.")
    return number


def plain_view(plan: Mapping[str, Any]) -> RequestView:
    """Each field of a plan by its name, in tables where it has names of its own; all of it is what is written."""
    rest = dict(plan)
    objects = [name for name, part in plan.items() if isinstance(part, Mapping)]
    return RequestView(tables=take_tables(rest, *objects), rest=rest, writes=dict(plan))


def take_text(rest: dict[str, Any], name: str) -> str:
    """Remove a text from the parts of a plan and return it; empty, and left where it is, where it is no text."""
    return str(rest.pop(name)) if isinstance(rest.get(name), str) else ""


def take_tables(rest: dict[str, Any], *names: str) -> dict[str, Mapping[str, Any]]:
    """Remove those parts of a plan that are values by their names, and return them without the empty ones."""
    found = {name: rest.pop(name) for name in names if isinstance(rest.get(name), Mapping)}
    return {name: table for name, table in found.items() if table}
