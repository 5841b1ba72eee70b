"""What the routes of subscriptions to events take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_aihandoff.core.event_delivery.address import MAX_URL
from airflow_provider_aihandoff.core.event_delivery.subscription import (
    MAX_JOB_TYPES,
    EventSubscription,
    SubscriptionState,
)
from airflow_provider_aihandoff.core.event_delivery.subscription_store import DeadEvent, SubscriptionChange
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.web.api.record_fields import from_record
from airflow_provider_aihandoff.web.api.schemas import Reason

_Text = Annotated[str, Field(min_length=1, max_length=250)]

#: How many events one request replays by their ids.
_MAX_NAMED = 1000

_LEASE = frozenset({"subscription_id", "lease_token", "lease_until", "failures"})
_BY = frozenset({"change_id", "subscription_id", "actor_kind", "actor_name", "actor_user_id"})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SubscriptionBody(_Body):
    """A subscription, or what one of this name is changed to. It is recorded in the name of the logged-in user."""

    name: _Text
    url: Annotated[str, Field(min_length=1, max_length=MAX_URL)]
    secret_conn_id: Annotated[str, Field(min_length=1, max_length=250, description="The connection with its secrets.")]
    job_types: Annotated[list[_Text], Field(max_length=MAX_JOB_TYPES, description="None: of every type.")] = []
    states: Annotated[list[Standing], Field(max_length=len(Standing), description="None: each.")] = []
    reason: Reason


class NamedSubscriptionBody(_Body):
    """The end of a subscription. It is recorded in the name of the logged-in user."""

    name: _Text
    reason: Reason


class ReplayBody(NamedSubscriptionBody):
    """What is sent again. It is recorded in the name of the logged-in user."""

    events: Annotated[
        list[Annotated[int, Field(ge=1, lt=2**63)]],
        Field(max_length=_MAX_NAMED, description="Their `delivery_id`; none: those that were given up."),
    ] = []


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


@from_record(EventSubscription, internal=_LEASE, notes={"rest_until": "Nothing is sent before: everything has failed."})
class Subscription(_Answer):
    """A subscription, and how its events stand."""

    state: SubscriptionState
    waiting: int
    waiting_since: datetime | None
    dead: int = Field(description="How many were given up.")
    delivered_at: datetime | None


@from_record(SubscriptionChange, internal=_BY)
class Change(_Answer):
    """One change of a subscription."""

    by: str


class SubscriptionList(_Answer):
    """Subscriptions, by name."""

    subscriptions: list[Subscription]


class SubscriptionDetail(Subscription):
    """A subscription with its changes, the newest first."""

    changes: list[Change]


@from_record(DeadEvent, notes={"name": "Of the subscription."})
class Dead(_Answer):
    """An event that was given up."""

    request_id: UUID | None


class DeadList(_Answer):
    """Events that were given up, the newest first."""

    events: list[Dead]


class Replayed(_Answer):
    """What is sent again."""

    replayed: int
