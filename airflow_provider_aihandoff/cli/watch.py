"""`airflow aihandoff jobs watch`: follow a job in the terminal."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from contextlib import suppress

from airflow_provider_aihandoff.cli.common import command, open_ledger, say, say_on
from airflow_provider_aihandoff.core.generation.live_response import LiveResponse, live_response
from airflow_provider_aihandoff.core.generation.stream_readers import LiveEvent, StreamReaders, Told, Watcher
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Event
from airflow_provider_aihandoff.core.moments import moment
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES
from airflow_provider_aihandoff.hooks.model_provider import open_stream

#: Seconds between two checks of the ledger.
_CHECK = 1.0


@command
def watch(args: Namespace) -> None:
    """Follow a job until it has ended. Ctrl-C ends the watching alone."""
    with open_ledger(args) as ledger:
        watching = _Watching(ledger, args.job_id)
        try:
            asyncio.run(watching.run())
        except KeyboardInterrupt:
            watching.end_line()
            say("You no longer watch it; the job goes on.", error=True)


class _Watching:
    """Prints what happens to one job."""

    def __init__(self, ledger: Ledger, job_id: int) -> None:
        self._ledger, self._job_id = ledger, job_id
        self._seen = 0
        self._arrived = asyncio.Event()
        self._readers = StreamReaders(open_stream)
        self._watched: LiveResponse | None = None
        self._watcher: Watcher | None = None
        self._printing: LiveEvent | None = None

    async def run(self) -> None:
        """Print each line of the history, and what the model writes, until the job has ended.

        :raises JobNotFound: there is none with this id.
        """
        while True:
            job = await asyncio.to_thread(self._ledger.job, self._job_id)
            running = await asyncio.to_thread(live_response, self._ledger, job)
            if running is None:
                self._print_arrived()
            for line in await asyncio.to_thread(lambda: self._ledger.events(self._job_id, after=self._seen)):
                self._print_line(line)
            self._follow(running)
            if job.state in TERMINAL_JOB_STATES:
                self.end_line()
                say(f"{job.label}: {job.state.value}" + (f" ({job.state_reason})" if job.state_reason else ""))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK):
                    while True:
                        await self._arrived.wait()
                        self._print_arrived()

    def end_line(self) -> None:
        """End the line of a text that is being printed."""
        if self._printing is not None:
            say("")
        self._printing = None

    def _follow(self, running: LiveResponse | None) -> None:
        if running == self._watched:
            return
        if self._watcher is not None:
            self._readers.leave(self._watcher)
        self._watched, self._watcher = running, None
        if running is not None:
            self._watcher = self._readers.join(running.conn_id, running.response_id, self._arrived.set)

    def _print_line(self, line: Event) -> None:
        self.end_line()
        self._seen = line.seq
        said = f": {line.reason}" if line.reason else ""
        say(f"{moment(line.at)}  {line.event}, by {line.actor}{said}")

    def _print_arrived(self) -> None:
        self._arrived.clear()
        for told in self._watcher.take() if self._watcher is not None else ():
            self._print_told(told)

    def _print_told(self, told: Told) -> None:
        if told.event in (LiveEvent.THINKING, LiveEvent.TEXT):
            if self._printing is not told.event:
                self.end_line()
                say(f"-- {'reasoning' if told.event is LiveEvent.THINKING else 'text'} --")
                self._printing = told.event
            say_on(told.data["delta"])
        elif told.event is LiveEvent.RESET and told.data["missed_characters"]:
            self.end_line()
            say(f"-- {told.data['missed_characters']:,} characters are left out --")
        elif told.event is LiveEvent.USAGE:
            self.end_line()
            say(f"-- {told.data['input_tokens']:,} tokens read, {told.data['output_tokens']:,} written --")
