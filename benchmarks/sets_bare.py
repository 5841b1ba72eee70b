"""The bare script beside a set: asks for each item, waits for the answer, writes it if that is wanted; keeps nothing.

Run as ``python -m benchmarks.sets_bare ITEMS OPENAI TARGET IN_FLIGHT AT_ONCE SECONDS WRITES``; without a target as
``-``, it does not write. It knows how long the model takes, and asks for each answer when it is due. It writes each
answer as it comes where WRITES is ``at once``, and all of them once they are there where it is ``last``, as tasks do
that follow each other. The last line that it prints says what it took, as a meter reads it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from benchmarks.meter import Meter
from benchmarks.sets_request import Label, message_of, request_of

#: Seconds between two questions about a response that is late.
_AGAIN = 0.5


async def work(
    items: Path, openai: str, target: str | None, in_flight: int, at_once: int, seconds: float, *, last: bool
) -> int:
    """Do all items; how many there were.

    :param in_flight: how many have a request and no answer at the same time.
    :param at_once: how many requests are sent at the same time.
    :param last: nothing is written before everything is answered.
    """
    # A server may close an idle connection at the moment it is used again.
    client = AsyncOpenAI(base_url=openai, api_key="any", max_retries=2)
    slots, calls = asyncio.Semaphore(in_flight), asyncio.Semaphore(at_once)
    replies: list[str] = []

    async def one(item: dict[str, str]) -> None:
        try:
            async with calls:
                response = await client.responses.create(**request_of(item), background=True, store=True)
            await asyncio.sleep(seconds)
            while True:
                async with calls:
                    response = await client.responses.retrieve(response.id)
                if response.status == "completed":
                    break
                await asyncio.sleep(_AGAIN)
            label = Label.model_validate_json(response.output_text)
        finally:
            slots.release()
        replies.append(label.suggested_reply)
        if not last:
            await write(label.suggested_reply)

    async def write(reply: str) -> None:
        if target is not None:
            async with calls:
                answer = await writer.post(f"{target}/channel/messages", json=message_of(reply))
            answer.raise_for_status()

    async with client, httpx.AsyncClient(trust_env=False, timeout=30) as writer:
        async with asyncio.TaskGroup() as tasks:
            with items.open() as lines:
                for line in lines:
                    await slots.acquire()
                    tasks.create_task(one(json.loads(line)))
        if last:
            await asyncio.gather(*map(write, replies))
    return len(replies)


def main() -> None:
    """Do all items, and print seconds and number."""
    items, openai, target, in_flight, at_once, seconds, writes = sys.argv[1:]
    meter = Meter()
    where = None if target == "-" else target
    counts = int(in_flight), int(at_once), float(seconds)
    done = asyncio.run(work(Path(items), openai, where, *counts, last=writes == "last"))
    print(json.dumps({**meter.read(), "items": done}))


if __name__ == "__main__":
    main()
