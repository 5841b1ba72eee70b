"""How the requests of a set are sent: which way is the cheapest that is done in time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from airflow_provider_aihandoff.core.moments import both


class Transport(StrEnum):
    """How requests are sent, the cheapest first."""

    BATCH = "batch"  # OpenAI's Batch API: half the price, within 24 hours
    EIGHT_HOURS = "8h"  # background responses with a completion window of 8 hours
    TWO_HOURS = "2h"
    BACKGROUND = "background"  # background responses, as soon as they come


#: Within which each is done, as OpenAI promises, and its price as a part of that of background responses.
WINDOWS: Mapping[Transport, timedelta] = {
    Transport.BATCH: timedelta(hours=24),
    Transport.EIGHT_HOURS: timedelta(hours=8),
    Transport.TWO_HOURS: timedelta(hours=2),
}
_PRICES = {Transport.BATCH: "50%", Transport.EIGHT_HOURS: "60%", Transport.TWO_HOURS: "70%"}

#: How long before ``complete_by`` what is not done by then is sent in the background: to stop a batch takes minutes,
#: and so does a response.
SPARE = timedelta(minutes=30)

#: The transports that are a completion window of background responses.
COMPLETION_WINDOWS = frozenset({Transport.EIGHT_HOURS, Transport.TWO_HOURS})


def cheapest(complete_by: datetime, now: datetime) -> tuple[Transport, str]:
    """The cheapest transport that is done in time, and why it is that one, as a sentence.

    :param now: by the same clock.
    """
    left = complete_by - now
    wanted = f"The outputs are wanted by {both(complete_by, now)}"
    for transport, window in WINDOWS.items():
        if left >= window + SPARE:
            means = "A batch" if transport is Transport.BATCH else f"A completion window of {transport.value}"
            hours = f"{window.total_seconds() / 3600:g} hours"
            return (
                transport,
                f"{wanted}. {means} takes at most {hours}, and costs {_PRICES[transport]} of the usual price.",
            )
    return Transport.BACKGROUND, f"{wanted}: too soon for anything cheaper than background responses."


def moves_at(complete_by: datetime) -> datetime:
    """When what is not done is moved to background responses."""
    return complete_by - SPARE
