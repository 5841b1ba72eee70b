"""Sends the webhooks of responses when they are due, and again until they arrive.

A few workers share the sending, however many responses end at once. What is due is looked up in the state at
the moment of sending: a response that was cancelled, deleted or forgotten by then sends what is so now.
"""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx

from airflow_provider_aihandoff.testing.batch_lifecycle import StoredBatch
from airflow_provider_aihandoff.testing.lifecycle import StoredResponse
from airflow_provider_aihandoff.testing.state import State
from airflow_provider_aihandoff.testing.webhook_endpoint import WebhookEndpoint, new_client
from airflow_provider_aihandoff.testing.webhook_events import (
    Delivery,
    DeliveryKey,
    DirectEvent,
    Kind,
    WebhookAttempt,
    WebhooksReport,
    batch_deliveries,
    deliveries,
    event_body,
    is_done,
    next_attempt_at,
)

_WORKERS = 16
# A test's clock jumps, so the time cannot be slept away at once.
_CLOCK_CHECK_SECONDS = 0.05
_CREATE_IS_HELD_BACK_SECONDS = 5.0


class _Agenda:
    """What is to be sent when: each delivery at one time, the one that was put last."""

    def __init__(self) -> None:
        self._times: dict[DeliveryKey, float] = {}
        self._heap: list[tuple[float, DeliveryKey]] = []

    def put(self, key: DeliveryKey, at: float) -> None:
        self._times[key] = at
        heapq.heappush(self._heap, (at, key))

    def next_at(self) -> float | None:
        """The earliest time; it may be that of an entry that was replaced."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[DeliveryKey]:
        taken = []
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._times.get(key) == at:
                del self._times[key]
                taken.append(key)
        return taken


class WebhookDispatcher:
    """Sends while `running()` lasts. All is called on one event loop, except `report`.

    Args:
        state: the responses, and what was sent before.
        clock: the time in Unix seconds, by which events are due and attempts repeated.
        endpoint: where webhooks go; without one, nothing is sent.
    """

    def __init__(self, state: State, clock: Callable[[], float], endpoint: WebhookEndpoint | None) -> None:
        self._state = state
        self._clock = clock
        self._endpoint = endpoint
        self._agenda = _Agenda()
        self._changed = asyncio.Event()
        self._held_back: dict[str, asyncio.Event] = {}
        self._client: httpx.AsyncClient | None = None

    def schedule(self, response: StoredResponse) -> None:
        """Take in a response that is new, or whose end has changed."""
        if self._endpoint is None:
            return
        for delivery in deliveries(response):
            self._put(delivery.key, delivery.due_at)

    def schedule_batch(self, batch: StoredBatch) -> None:
        """Take in a batch that is new, or whose end has changed."""
        if self._endpoint is None:
            return
        for delivery in batch_deliveries(batch):
            self._put(delivery.key, delivery.due_at)

    async def hold_back(self, response_id: str | None) -> None:
        """Wait, where the response asks for `webhook=early`, until its event was answered, a few seconds at most."""
        response = self._state.find(response_id) if response_id else None
        if response is None or response.faults.webhook != "early":
            return
        if self._endpoint is None or not deliveries(response):
            return
        answered = self._held_back[response.id] = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CREATE_IS_HELD_BACK_SECONDS):
                await answered.wait()
        del self._held_back[response.id]

    async def send_now(self, event: DirectEvent) -> WebhookAttempt:
        """Send one event, correctly signed, once.

        Raises:
            LookupError: there is no URL to send to.
        """
        webhook_id = event.webhook_id or f"wh_{uuid.uuid4().hex}"
        payload = event_body(f"evt_{uuid.uuid4().hex}", event.type, self._clock(), event.data)
        status = await self._post("direct", webhook_id, payload)
        about = event.data.get("id")
        attempt = WebhookAttempt(
            webhook_id=webhook_id,
            event_type=event.type,
            response_id=about if isinstance(about, str) else None,
            at=self._clock(),
            status=status,
            kind="direct",
            last=True,
        )
        self._state.log_webhook(attempt)
        return attempt

    def report(self) -> WebhooksReport:
        """What was sent and what is still to be sent; from any thread."""
        attempts = self._state.webhooks()
        pending: list[Delivery] = []
        if self._endpoint is not None:
            planned = [delivery for response in self._state.responses() for delivery in deliveries(response)]
            planned += [delivery for batch in self._state.batches() for delivery in batch_deliveries(batch)]
            pending = [delivery for delivery in planned if self._next_kind(delivery) is not None]
        now = self._clock()
        due = sum(delivery.due_at <= now for delivery in pending)
        return WebhooksReport(pending=len(pending), due=due, attempts=attempts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send for as long as the context lasts, beginning with what the state says is missing."""
        if self._endpoint is None:
            yield
            return
        self._agenda = _Agenda()
        self._changed = asyncio.Event()  # it belongs to the loop that first waits for it
        for response in self._state.responses():
            self.schedule(response)
        for batch in self._state.batches():
            self.schedule_batch(batch)
        async with new_client(keep_alive=_WORKERS) as client:
            self._client = client
            sending = asyncio.create_task(self._send())
            try:
                yield
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                self._client = None

    def _put(self, key: DeliveryKey, at: float) -> None:
        self._agenda.put(key, at)
        self._changed.set()

    async def _send(self) -> None:
        due: asyncio.Queue[DeliveryKey] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WORKERS):
                tasks.create_task(self._work(due))
            while True:
                self._changed.clear()
                for key in self._agenda.take_due(self._clock()):
                    due.put_nowait(key)
                await self._until_next()

    async def _until_next(self) -> None:
        """Until something may be due; nothing is polled while nothing is planned."""
        next_at = self._agenda.next_at()
        wait = None
        if next_at is not None:
            wait = min(max(next_at - self._clock(), 0), _CLOCK_CHECK_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._changed.wait()

    async def _work(self, due: asyncio.Queue[DeliveryKey]) -> None:
        while True:
            await self._attempt(await due.get())

    async def _attempt(self, key: DeliveryKey) -> None:
        """Send what comes next of this delivery, once, and plan what follows."""
        delivery = self._find(key)
        if delivery is None:
            return
        kind = self._next_kind(delivery)
        if kind is None:
            return
        status = await self._post(kind, delivery.webhook_id, delivery.payload)
        now = self._clock()
        again_at = None
        if not is_done(kind, status):
            attempts = self._state.webhook_attempts(delivery.webhook_id, kind) + 1
            again_at = next_attempt_at(delivery.due_at, now, attempts)
        self._state.log_webhook(
            WebhookAttempt(
                webhook_id=delivery.webhook_id,
                event_type=delivery.event_type,
                response_id=delivery.response_id,
                at=now,
                status=status,
                kind=kind,
                last=again_at is None,
            )
        )
        if again_at is not None:
            self._put(key, again_at)
        elif kind != key.kind:
            self._put(key, now)
        if status is not None and delivery.response_id in self._held_back:
            self._held_back[delivery.response_id].set()

    def _find(self, key: DeliveryKey) -> Delivery | None:
        """The delivery, unless the response was deleted, forgotten, or has ended otherwise since."""
        response, batch = self._state.find(key.response_id), self._state.find_batch(key.response_id)
        planned = [] if response is None else deliveries(response)
        planned += [] if batch is None else batch_deliveries(batch)
        return next((delivery for delivery in planned if delivery.key == key), None)

    def _next_kind(self, delivery: Delivery) -> Kind | None:
        """What is to be sent next of `delivery`; None when nothing is."""
        return next((kind for kind in delivery.kinds if not self._state.is_sent(delivery.webhook_id, kind)), None)

    async def _post(self, kind: Kind, webhook_id: str, payload: str) -> int | None:
        if self._endpoint is None or self._client is None:
            raise LookupError("The stand-in was started without a URL to send webhooks to.")
        return await self._endpoint.post(self._client, kind, webhook_id, payload)
