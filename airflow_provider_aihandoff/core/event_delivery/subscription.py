"""Where changes of jobs are sent, and which: what a subscription may be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.arguments import MAX_JOB_TYPE, identifier
from airflow_provider_aihandoff.core.errors import RequestError, SubscriptionRefused
from airflow_provider_aihandoff.core.job_requests.job_request import Standing

NOT_RECORDED = "Nothing was recorded, and nothing was sent."

#: Job types that a subscription names at most.
MAX_JOB_TYPES = 100


class SubscriptionState(StrEnum):
    """Whether events are recorded for a subscription."""

    ACTIVE = "active"
    DISABLED = "disabled"  # its receiver has answered 410; what waits is kept
    ENDED = "ended"


@dataclass(frozen=True)
class EventSubscription:
    """Where events are sent, and which.

    :param job_types: of jobs that it is about; empty: of every type.
    :param states: in the words of those who asked; empty: each.
    :param secret_conn_id: the Airflow connection whose extra has its secrets.
    :param state_reason: why it is disabled.
    :param lease_token: of the deliverer that may be sending now, until ``lease_until``.
    :param rest_until: nothing is sent before, since everything has failed, ``failures`` times in a row.
    """

    subscription_id: int
    name: str
    url: str
    job_types: list[str]
    states: list[str]
    secret_conn_id: str
    state: SubscriptionState
    state_reason: str | None
    created_at: datetime
    updated_at: datetime
    lease_token: UUID | None
    lease_until: datetime | None
    rest_until: datetime | None
    failures: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", SubscriptionState(self.state))


@dataclass(frozen=True)
class WantedSubscription:
    """What someone subscribes to."""

    name: str
    url: str
    secret_conn_id: str
    job_types: Sequence[str] = ()
    states: Sequence[str] = ()


def checked_subscription(wanted: WantedSubscription) -> dict[str, Any]:
    """The columns of a subscription; its address is checked by :func:`address.checked_address`.

    :raises SubscriptionRefused: it cannot be kept like this.
    """
    if len(wanted.job_types) > MAX_JOB_TYPES:
        raise SubscriptionRefused(
            f"a subscription names at most {MAX_JOB_TYPES} job types, not {len(wanted.job_types)}.",
            written=NOT_RECORDED,
            remedy="Name none to hear of all.",
        )
    known = [standing.value for standing in Standing]
    if unknown := [state for state in wanted.states if state not in known]:
        raise SubscriptionRefused(
            f"there is no state {unknown[0]!r}.", written=NOT_RECORDED, remedy=f"Use one of: {', '.join(known)}."
        )
    try:
        return {
            "name": identifier("name", wanted.name),
            "url": wanted.url,
            "secret_conn_id": identifier("secret_conn_id", wanted.secret_conn_id),
            "job_types": sorted({identifier("type", each, max_bytes=MAX_JOB_TYPE) for each in wanted.job_types}),
            "states": [state for state in known if state in wanted.states],
        }
    except RequestError as error:
        raise SubscriptionRefused(error.what, written=NOT_RECORDED) from None
