"""How long a job waits after a request whose answer was lost, and the words for that. Pure.

The request may have been accepted: then its response runs, and is billed, and sending again would pay twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import OnLost, Revision

#: How many responses of a job type the ledger must know, before it says how long one of them may take.
MIN_HISTORY = 20

#: How many times as long as the longest known response of its job type a lost one may take.
LONGEST_FACTOR = 3

#: How recent the newest webhook of a connection is, where webhooks are known to arrive on it. The inbox is the
#: evidence, so it is no longer than ``[aihandoff] inbox_retention``.
WEBHOOKS_WITHIN = timedelta(days=8)

#: How often a request is sent into a handle that said that another one runs in it: one that failed leaves no items.
HANDLE_CHECK = timedelta(minutes=10)

#: How long the search goes on for a response that no revision waits for: OpenAI keeps one for longer, but someone
#: should have asked by then. For so long after the deadline of its revision, one whose id was lost may be found.
SEARCHED_FOR = timedelta(days=7)

_NONE = timedelta(0)


def how_long(
    on_lost: OnLost | None,
    *,
    left: timedelta,
    webhooks: bool,
    known: int,
    longest: timedelta,
    orphan_wait: timedelta,
) -> timedelta:
    """How long no request may be sent after one was lost, at most until the deadline.

    :param on_lost: what the author wants; None for what is safest where it can work.
    :param left: until the deadline.
    :param webhooks: they are known to arrive on the connection. Where they are not, nothing could end the wait.
    :param known: how many responses of the job type the ledger knows, and ``longest``: how long one of them took.
    :param orphan_wait: the shortest wait for a webhook.
    """
    if on_lost in ("wait", "ask"):
        wait = left
    elif not webhooks:
        wait = _NONE
    elif on_lost == "resend":
        wait = orphan_wait
    elif known < MIN_HISTORY:
        wait = left
    else:
        wait = max(orphan_wait, LONGEST_FACTOR * longest)
    return max(_NONE, min(wait, left))


class LostWait(StrEnum):
    """What ends the wait after a request whose answer was lost."""

    HANDLE = "handle"  # the provider's handle has the output
    ASKS = "asks"  # a person says what to do
    FAILS = "fails"  # a webhook, or the deadline: then the job fails
    RESENDS = "resends"  # a webhook, or a time after which the request is sent again


#: What is said of such a request, and of each wait.
SAID = "A request may have been accepted by OpenAI, and its answer was lost."
WAITS: Mapping[LostWait, str] = {
    LostWait.HANDLE: "OpenAI's conversation for this revision is polled for its output, and nothing is paid twice.",
    LostWait.ASKS: "Waiting until {until} for a person to say whether to send it again. Then the job fails.",
    LostWait.FAILS: "Waiting for its webhook until {until}. Then the job fails.",
    LostWait.RESENDS: "Waiting for its webhook until {until}. Then it is sent again, once.",
}


def wait_of(revision: Revision) -> LostWait | None:
    """What ends the wait of a revision; None where it does not wait for a lost request."""
    if not revision.is_lost or revision.is_held or revision.submit_lease_until is None:
        return None
    if revision.conversation_id is not None:
        return LostWait.HANDLE
    if revision.on_lost == "ask":
        return LostWait.ASKS
    return LostWait.FAILS if revision.submit_lease_until >= revision.deadline else LostWait.RESENDS


def in_words(revision: Revision) -> str | None:
    """Why a revision waits before it sends its request, and until when; None where it does not."""
    wait = wait_of(revision)
    if wait is None:
        return None
    return f"{SAID} {WAITS[wait].format(until=f'{revision.submit_lease_until:%Y-%m-%d %H:%M} UTC')}"
