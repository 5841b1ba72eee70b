"""What is said of a request, or an external write, that may not be sent now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import HeldKind


@dataclass(frozen=True)
class Hold:
    """Why something is not sent now, and how long that lasts.

    The waiting task is woken as soon as what holds it ends. What is written down here is the latest moment.

    :param kind: what kind of thing holds it.
    :param name: which one, for the ledger: the id of a pause or of a limit of speed, a connection.
    :param why: a sentence for people.
    :param until: when it may be asked for again, by the database's clock; None: when what holds it has ended.
    """

    kind: HeldKind
    name: str
    why: str
    until: datetime | None = None


@dataclass(frozen=True)
class Refusal:
    """Why something is not sent at all: its job fails.

    :param kind: of the error that the revision keeps.
    :param why: a sentence for people.
    :param remedy: what to do, as a sentence.
    """

    kind: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Admitted:
    """It may be sent now.

    :param finds_out: it is the request that finds out whether a limit of money is still reached.
    """

    finds_out: bool = False
