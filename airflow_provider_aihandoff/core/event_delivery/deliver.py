"""Sends what is due, from any number of processes: at least once, and the events of each job in their order.

    take (commit) → POST each, some at once → record each (commit) → give the lease back (commit)

No transaction is open while something is sent. A deliverer that dies leaves its lease to end: another one then sends
again what was not recorded, with the same ``webhook-id``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from airflow_provider_aihandoff.core.backoff import backoff, jittered
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.event_delivery.cloud_event import OutgoingEvent, signed_headers
from airflow_provider_aihandoff.core.event_delivery.delivery_store import LEASE_SECONDS, REMOVED_AT_ONCE, Taken
from airflow_provider_aihandoff.core.event_delivery.post import Answered, NotAnswered
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused

log = logging.getLogger(__name__)

#: Events that one deliverer sends to one receiver at the same time.
SENT_AT_ONCE = 8

#: Seconds between two questions for what is due.
POLL_SECONDS = 1.0

#: Seconds between two rounds of removing what is old.
REMOVE_SECONDS = 600.0

#: Sends a body to a URL. Raises :class:`NotAnswered` or :class:`AddressRefused`.
Post = Callable[[str, Mapping[str, str], bytes], Answered]

#: The secrets of a connection, the newest first. Any error of it means that there are none now.
SecretsOf = Callable[[str], Sequence[object]]


@dataclass(frozen=True)
class _Failure:
    why: str


@dataclass
class _Round:
    """What has become of what was taken, so far.

    :param at: when it began, by the ledger's clock, and ``began``: by the monotonic one.
    :param until: when sending must have begun, by the monotonic clock: the lease may be another's after it.
    """

    taken: Taken
    secrets: Sequence[object]
    post: Post
    at: datetime
    began: float
    until: float
    stop: threading.Event | None = None
    delivered: int = 0
    failed: int = 0
    gone: bool = False
    unsent: list[OutgoingEvent] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> datetime:
        """The time by the ledger's clock, as far as is known: a receiver refuses what this machine's could say."""
        return self.at + timedelta(seconds=time.monotonic() - self.began)

    def note(self, answer: Answered | _Failure) -> None:
        """Count what came of one event, in the thread that has sent it: the others go by it at once."""
        with self._lock:
            if isinstance(answer, Answered) and answer.is_taken:
                self.delivered += 1
            elif isinstance(answer, Answered) and answer.is_gone:
                self.gone = True
            else:
                self.failed += 1

    @property
    def all_failed(self) -> bool:
        """Whether so much has failed, and nothing was taken, that the receiver seems to be unavailable."""
        return self.failed >= SENT_AT_ONCE and not self.delivered

    @property
    def is_over(self) -> bool:
        """Whether nothing more is sent."""
        stopped = self.stop is not None and self.stop.is_set()
        return stopped or self.gone or self.all_failed or time.monotonic() >= self.until


def deliver_round(
    ledger: Ledger,
    *,
    secrets_of: SecretsOf,
    post: Post,
    name: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
    stop: threading.Event | None = None,
) -> int | None:
    """Send what is due to one receiver. Safe to call in any number of threads and processes.

    :param name: only for this subscription.
    :param lease_seconds: for how long others leave the receiver alone; sending begins within two thirds of it.
    :param stop: nothing more is sent once it is set.
    :return: how many events the receiver has taken; None where nothing is due.
    :raises LedgerUnavailable: what was sent and is not recorded is sent again.
    """
    began = time.monotonic()
    taken = ledger.outbox.take(name=name, lease_seconds=lease_seconds)
    if taken is None:
        return None
    secrets = _secrets(secrets_of, taken.subscription.secret_conn_id)
    at, read_at = ledger.now(), time.monotonic()
    round_ = _Round(taken, secrets, post, at, read_at, until=began + lease_seconds * 2 / 3, stop=stop)
    with ThreadPoolExecutor(SENT_AT_ONCE, thread_name_prefix="aihandoff-events") as pool:
        sent = {pool.submit(_send, round_, event): event for event in taken.events}
        for future in as_completed(sent):
            _record(ledger, round_, sent[future], future)
    ledger.outbox.end(taken, round_.unsent, all_failed=round_.all_failed, some_delivered=round_.delivered > 0)
    return round_.delivered


def deliver_due(
    ledger: Ledger,
    *,
    secrets_of: SecretsOf,
    post: Post,
    name: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> int:
    """Send what is due, until nothing is, and remove what is old; return how many events were taken.

    The arguments are those of :func:`deliver_round`.
    """
    sending = partial(deliver_round, ledger, secrets_of=secrets_of, post=post, name=name, lease_seconds=lease_seconds)
    delivered = 0
    while (taken := sending()) is not None:
        delivered += taken
    ledger.outbox.remove_old()
    return delivered


def _secrets(secrets_of: SecretsOf, conn_id: str) -> Sequence[object]:
    try:
        return secrets_of(conn_id)
    except Exception as error:  # noqa: BLE001 - any error of a secrets backend; it may contain what was read
        log.warning("The secrets of the connection %s cannot be read: %s.", conn_id, type(error).__name__)
        return []


def _send(round_: _Round, event: OutgoingEvent) -> Answered | _Failure | None:
    """In a thread: send one event. None where it was not sent, since the round is over."""
    if round_.is_over:
        return None
    answer = _answer(round_, event)
    round_.note(answer)
    return answer


def _answer(round_: _Round, event: OutgoingEvent) -> Answered | _Failure:
    taken = round_.taken
    try:
        event_id, body = event.event_id(taken.ledger_id), event.body(taken.ledger_id)
        headers = signed_headers(event_id, body, round_.secrets, round_.now())
        reached("event.send", "before call")
        answered = round_.post(taken.subscription.url, headers, body)
        reached("event.send", "after call")
    except SecretRefused:
        return _Failure(f"the connection {taken.subscription.secret_conn_id} has no secret that can be used")
    except NotAnswered as error:
        return _Failure(str(error))
    except HandoffError as error:
        return _Failure(error.what.rstrip("."))
    except Exception as error:  # what is wrong with one event holds up no other
        log.warning("An event for %s could not be sent.", taken.subscription.name, exc_info=shown(error))
        return _Failure(f"it could not be sent ({type(error).__name__})")
    return answered


def _record(ledger: Ledger, round_: _Round, event: OutgoingEvent, future: Future[Answered | _Failure | None]) -> None:
    """Record what came of one event, as soon as it is known."""
    answer, taken = future.result(), round_.taken
    if answer is None:
        round_.unsent.append(event)
        return
    if isinstance(answer, Answered) and answer.is_taken:
        counts = ledger.outbox.delivered(taken, event)
    elif isinstance(answer, Answered) and answer.is_gone:
        counts = ledger.outbox.gone(taken, event)
        log.warning("The subscription %s is disabled: its receiver has answered 410.", taken.subscription.name)
    else:
        why = answer.why
        retry_after = answer.retry_after if isinstance(answer, Answered) else None
        counts = ledger.outbox.failed(taken, event, why, retry_after=retry_after)
        log.info("An event for %s was not taken: %s.", taken.subscription.name, why)
    if not counts:
        log.info("Another deliverer has taken over the events for %s.", taken.subscription.name)


def deliver_on(
    ledger: Ledger,
    stop: threading.Event,
    *,
    secrets_of: SecretsOf,
    post: Post,
    name: str | None = None,
    removes: bool = False,
) -> int:
    """Send what is due until ``stop`` is set, in this thread; return how many events were taken.

    A slow receiver holds up one thread alone: give several the same ledger.

    :param name: only for this subscription.
    :param removes: also remove what is old, now and then.
    """
    delivered, failures, remove_at = 0, 0, time.monotonic()
    while not stop.is_set():
        try:
            taken = deliver_round(ledger, secrets_of=secrets_of, post=post, name=name, stop=stop)
            if removes and time.monotonic() >= remove_at:
                more = ledger.outbox.remove_old() >= REMOVED_AT_ONCE
                remove_at = time.monotonic() + (0.0 if more else REMOVE_SECONDS)
        except Exception as error:
            failures += 1
            log.warning("Events are not sent now, and are tried again.", exc_info=shown(error))
            stop.wait(backoff(failures, base=POLL_SECONDS, cap=30.0))
            continue
        failures = 0
        delivered += taken or 0
        if taken is None:
            stop.wait(jittered(POLL_SECONDS))
    return delivered
