"""The operator that asks the model for many items: a set of jobs, each paid once."""

from __future__ import annotations

import copy
import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import (
    HandoffError,
    InputChanged,
    JobCancelled,
    JobFailed,
    RevisionsExhausted,
    SetRefused,
)
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.sets.crew import Crew, frozen
from airflow_provider_aihandoff.core.sets.fail_when import checked_fail_when, too_many
from airflow_provider_aihandoff.core.sets.transport import WINDOWS, Transport, moves_at
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators.items import Spool, item_context, numbered
from airflow_provider_aihandoff.operators.response import REQUEST_FIELDS, OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.retries import final_errors, is_retry
from airflow_provider_aihandoff.operators.set_answers import Answers
from airflow_provider_aihandoff.operators.set_leg import Leg
from airflow_provider_aihandoff.operators.set_transport import (
    Named,
    advance_batches,
    checked_transport,
    choose,
    complete_approved,
    is_late,
    processed,
    stop_late_windows,
)
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES, loop_suffix, owner_of

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.generation.provider import ProviderFacts, ProviderFor
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job, JobSpec, Revision
    from airflow_provider_aihandoff.core.sets.batch_send import BatchSender
    from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut
    from airflow_provider_aihandoff.core.sets.set_store import Sendable, SetSpec

#: How many jobs are opened in one transaction.
_OPENED_TOGETHER = 200

#: How many jobs are opened at most before there is room for their requests: while the model works, the worker has time.
_OPENED_AHEAD = 1_000

#: How many of the items that are left out a message names.
_NAMED = 10

#: Seconds after which a leg tries again what could not be sent, or read, and of which nothing else tells when it can.
_TRY_AGAIN = timedelta(seconds=60)

#: Seconds after which a leg takes what has ended by then, however little that is.
_LONGEST_WAVE = timedelta(minutes=5)

#: How many threads a leg has for each request that it sends at the same time.
_THREADS = 3

#: How many kinds of steps threads do together: they read, permit, record and store.
_SHARED = 4

#: How many times ``[aihandoff] inline_wait`` a leg goes on while no response ends.
_PATIENCE = 10

#: Seconds for which a leg waits for its threads before it asks about what is due.
_MOMENT = 0.05


@dataclass(frozen=True)
class _Sending:
    """Sends requests of a set in one leg.

    :param batches: what they are put into; None where each is sent by itself.
    """

    task: OpenAIResponseSetOperator
    leg: Leg
    found: JobSet
    crew: Crew[str]
    batches: BatchSender | None

    def has_room(self) -> bool:
        """Whether one more may be sent: those in batches do not count. Waits for room."""
        return self.batches is not None or self.task._has_room(self.leg, self.crew)

    def has_room_now(self) -> bool:
        """Whether one more may be sent at once."""
        return self.batches is not None or self.leg.in_flight < self.task.max_in_flight

    def is_idle(self) -> bool:
        """Whether there is nothing to do until an answer comes."""
        return not self.crew and not self.has_room_now()

    def give(self, job: Job, revision: Revision, request: dict[str, Any]) -> None:
        """Send the request of a job; not where it is in a batch already."""
        if revision.is_in_batch:
            return
        if self.batches is not None and revision.may_be_in_batch:
            self.batches.add(job, revision, request)
        else:
            self.leg.in_flight += 1
            self.crew.give(self.task._send, self.leg, job, revision, request)

    def again(self, job_id: int, spec: JobSpec) -> None:
        """Send the request of a job that exists, or that of a new revision of it."""
        if self.batches is None:
            self.leg.in_flight += 1
            self.crew.give(self.task._send_again, self.leg, job_id, spec)
        elif isinstance(opened := self.task._opened_again(self.leg, job_id, spec), tuple):
            self.give(*opened, spec.request)


class OpenAIResponseSetOperator(OpenAIBackgroundResponseOperator):
    """Ask the model for each of many items, and keep the answers as the jobs of a set in the ledger.

    Each job is one as :class:`.OpenAIBackgroundResponseOperator` makes it, with the same promises. ``job=`` of an
    :class:`.ApprovalSensor` and of effects takes this operator as it takes that one: then each task is for every job of
    the set. Its arguments are the same, and are rendered for each item: templates have the item as ``item``, and its
    number, from 0, as ``index``.

    **Before anything is paid**, all items are read and rendered. A key that occurs twice and an item that does not
    render are named with their numbers, from 1, and fail the task; with ``on_bad_items="leave out"`` they are left out,
    counted and named on the set's page. No item at all fails the task.

    **An item that fails** (an answer that does not match, a refusal, a response that failed) gets a new revision, up to
    ``max_revisions``, and holds up no other. The task fails if every item failed, or as ``fail_when`` says.

    **Retry, clear, second run**: the task comes back to its set, and each item to its job: what runs is waited for,
    what is stored is kept, and only what is missing is paid.

    **Kill**: marking the task failed cancels what was not sent, and the responses that run. Clearing it, or restarting
    workers and triggerers, does not.

    The XCom names the set and its counts: ``{"set_id", "set_type", "set_key", "items", "left_out", "states",
    "failures", "cost_usd", "said"}``.

    :param items: a list, or a task that returns one; :class:`.SqlItems` or :class:`.JsonLines` (templated).
    :param job_key: what identifies the work of an item among its kind (templated, with ``item``). Items of other sets
        with the same key are the same job.
    :param job_type: of the set and of its jobs; rendered once, and so are the ids of connections.
    :param set_key: what identifies the set among those of its type (templated): by default the Dag and its data
        interval, or the id of the run where it has none.
    :param deadline: how long the set may take, or until when; by default ``[aihandoff] response_deadline``.
    :param max_in_flight: how many requests of the set are sent and have no answer at the same time.
    :param send_at_once: how many requests the worker sends at the same time.
    :param transport: ``background``, by default; or ``batch``: OpenAI's Batch API, at half the price and within a day.
    :param complete_by: within how long, or until when, the outputs are wanted, in place of ``transport``: the cheapest
        one that can make it is chosen, and what is late is moved to background responses.
    :param fail_when: fail the task when so many items have no output: a share as a float (``0.05``), or a number as an
        int. By default it fails when none has one.
    :param on_bad_items: ``fail`` or ``leave out`` items whose key occurred before, or which do not render.
    """

    _known_facts: ProviderFacts | None = None

    template_fields: Sequence[str] = (*OpenAIBackgroundResponseOperator.template_fields, "items", "set_key")
    template_fields_renderers: ClassVar[dict[str, str]] = OpenAIBackgroundResponseOperator.template_fields_renderers

    #: The fields that are rendered for each item; the others are once.
    item_fields: ClassVar[frozenset[str]] = frozenset(
        {
            *REQUEST_FIELDS,
            "response_kwargs",
            "job_key",
            "requested_by",
            "permissions",
            "approval_reason",
            "tags",
            "rate_key",
        }
    )

    def __init__(
        self,
        *,
        items: Any,
        input: str | list[dict[str, Any]],
        model: str,
        job_key: str,
        set_key: str | None = None,
        max_in_flight: int = 1_000,
        send_at_once: int = 16,
        fail_when: float | int | None = None,
        on_bad_items: Literal["fail", "leave out"] = "fail",
        transport: Named | None = None,
        complete_by: timedelta | datetime | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input=input, model=model, job_key=job_key, **kwargs)
        self.items = items
        self.set_key = set_key
        self.max_in_flight = max_in_flight
        self.send_at_once = send_at_once
        self.fail_when = checked_fail_when(fail_when)
        self.on_bad_items = on_bad_items
        for name in ("max_in_flight", "send_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        self.complete_by = complete_by
        processing = {name: getattr(self, name) for name in ("background_options", "service_tier")}
        processing["stream"] = self.stream or None
        self.transport = checked_transport(transport, complete_by, processing)
        if on_bad_items not in ("fail", "leave out"):
            raise ValueError(f"on_bad_items must be 'fail' or 'leave out', not {on_bad_items!r}.")

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        if parent is self:
            of_item = "item" in context
            template_fields = [each for each in template_fields if (each in self.item_fields) is of_item]
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)

    def execute(self, context: Context) -> dict[str, Any]:
        """Make the items jobs of the set, send what may be sent, and wait; or come back to all that."""
        from airflow_provider_aihandoff.core.models import JobSpec

        with self._connected() as (ledger, provider_for), Spool[JobSpec]() as spool:
            number, left_out = self._check(context, spool)
            found = ledger.sets.open(self._set_spec(context), left_out)
            self.log.info("Attached to %s.", found.label)
            leg = self._leg(context, ledger, provider_for, found)
            found = choose(ledger, found, self.transport)
            self._advance_batches(leg, found)
            self._open_jobs(leg, found, spool, left_out)
            return self._go_on(leg, ledger.sets.opened(found.set_id, number, left_out))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after a wait: take what has ended, send what may be sent, and wait again or end."""
        from airflow_provider_aihandoff.core.generation.stop import give_up

        with self._connected() as (ledger, provider_for):
            found = ledger.sets.read(int(event["set_id"]))
            leg = self._leg(context, ledger, provider_for, found)
            for job_id, number in event.get("gone", ()):
                provider = provider_for(ledger.revision(job_id, number).conn_id)
                give_up(ledger, provider, job_id, number, why="gone", actor=leg.owner.actor)
            return self._go_on(leg, found)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Ledger, ProviderFor]]:
        """What a leg works with: the ledger, with a connection for each step that is done alone at the same time, for
        each kind of step that is done together, and for what hands the work over; and providers."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        hook = LedgerHook(self.ledger_conn_id)
        with (
            frozen(),
            final_errors(self.ledger_conn_id),
            hook.get_conn(max_size=self.send_at_once + _SHARED + 1) as ledger,
            providers() as provider_for,
        ):
            provider_for(self.openai_conn_id)  # once, before threads ask for it
            yield ledger, provider_for

    def _leg(self, context: Context, ledger: Ledger, provider_for: ProviderFor, found: JobSet) -> Leg:
        from airflow_provider_aihandoff.core.generation.submit import SUBMIT_LEASE
        from airflow_provider_aihandoff.core.sets.flight import Flight
        from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps

        owner, complete = owner_of(context), not self._has_effects()
        self._running = (found, context["ti"], owner)  # type: ignore[assignment]
        self.made = {"set_id": found.set_id}
        most = self.send_at_once
        steps = SharedSteps(ledger, actor=owner.actor, lease=SUBMIT_LEASE, most=most, complete=complete)
        answers = Answers(
            ledger,
            provider_for,
            steps,
            found.set_id,
            actor=owner.actor,
            complete=complete,
            output_type=self.output_type,
            at_once=most,
            flight=Flight(time.monotonic, settings.number("poll_rate"), most),
        )
        own = self.inline_wait
        patience = _PATIENCE * settings.number("inline_wait") if own is None else own.total_seconds()
        in_flight = ledger.sets.in_flight(found.set_id)
        return Leg(context, ledger, provider_for, owner, complete, steps, answers, patience, in_flight)

    def _set_spec(self, context: Context) -> SetSpec:
        from airflow_provider_aihandoff.core.sets.set_store import SetSpec
        from airflow_provider_aihandoff.operators.response import triggered_by

        return SetSpec(
            set_type=self.job_type,
            set_key=_default_key(context, self.task_id) if self.set_key is None else self.set_key,
            requested_by=triggered_by(context),
            owner=owner_of(context),
            deadline=self.deadline or self._usual_deadline(),
            complete_by=self.complete_by,
        )

    def _usual_deadline(self) -> timedelta | datetime:
        """As long as a response may take; where others are tried before, after the time that these may take."""
        usual = settings.seconds("response_deadline")
        if self.complete_by is not None:
            return self.complete_by + usual
        return WINDOWS[Transport.BATCH] + usual if self.transport is Transport.BATCH else usual

    # Reading and rendering items.

    @property
    def _facts(self) -> ProviderFacts:
        """As read once for all items: they are of one connection."""
        return self._known_facts or super()._facts

    def _rendered(self, context: Context, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, JobSpec | str]]:
        """What each item asks for; in its place, why it asks for nothing that can be sent."""
        self.share_environment()
        self._known_facts = super()._facts
        self.deadline = self.deadline or self._usual_deadline()  # read once, and not for each item
        for number, item in items:
            part = copy.copy(self)
            try:
                part.render_template_fields(item_context(context, number, item, part))
                yield number, part._spec(context)
            except AirflowFailException as error:  # of a template, with its explanation
                yield number, str(error)
            except Exception as error:  # noqa: BLE001 - whatever its templates do, it is about this item
                yield number, error.what if isinstance(error, HandoffError) else said(error)

    def _check(self, context: Context, spool: Spool[JobSpec]) -> tuple[int, LeftOut]:
        """Read and render every item once, and see that each can be a job of its own. Nothing is sent or paid.

        :return: how many there are, and those that are left out. What the others ask for is in the spool.
        :raises SetRefused: there is none; or one cannot, and its author wants that to fail.
        """
        from airflow_provider_aihandoff.core.sets.set_record import LeftOut, LeftOutItem, LeftOutReason

        left_out, seen, number = LeftOut(), dict[int, int](), 0
        for number, spec in self._rendered(context, numbered(self.items)):
            if isinstance(spec, str):
                left_out.add(LeftOutItem(number, LeftOutReason.NOT_RENDERED, spec))
                continue
            first = seen.setdefault(_short(spec), number)
            if first == number:
                spool.keep(number, spec)
                continue
            why = f"its key {spec.job_key!r} is that of item {first}"
            left_out.add(LeftOutItem(number, LeftOutReason.DUPLICATE, why))
        if number == 0:
            raise SetRefused(
                "there is no item.",
                written="Nothing was sent to the model, and no external write was made.",
                remedy="Check what `items` names. Where a run may have none, skip this task.",
            )
        if left_out.number and self.on_bad_items == "fail":
            raise _bad_items(left_out, number)
        if left_out.number == number:
            raise _bad_items(left_out, number)
        if left_out.number:
            self.log.warning("%s of %s items are left out: %s", left_out.number, number, _named(left_out))
        return number, left_out

    # Making them jobs, and sending.

    def _open_jobs(self, leg: Leg, found: JobSet, spool: Spool[JobSpec], left_out: LeftOut) -> None:
        """Make each item a job of the set, or attach to the one that there is, and send as many as may be in flight."""
        items, more = iter(spool), True
        opened: deque[tuple[Job, Revision, dict[str, Any]]] = deque()
        with self._sending(leg, found) as sending:
            while more or opened:
                if more and (not opened or (sending.is_idle() and len(opened) < _OPENED_AHEAD)):
                    page = list(islice(items, _OPENED_TOGETHER))
                    opened.extend(self._open_page(leg, found, page, left_out) if page else ())
                    more = bool(page)
                elif leg.stops():
                    opened.clear()
                elif sending.has_room_now():
                    sending.give(*opened.popleft())
                elif leg.is_tired or not self._answers_come(leg, sending.crew):
                    opened.clear()

    def _open_page(
        self, leg: Leg, found: JobSet, page: Sequence[tuple[int, JobSpec]], left_out: LeftOut
    ) -> Iterator[tuple[Job, Revision, dict[str, Any]]]:
        """Make some items jobs in one transaction, and return those of which a request is to be sent, with it."""
        from airflow_provider_aihandoff.core.sets.set_record import LeftOutItem, LeftOutReason

        ledger = leg.ledger
        wanted = {number: self._of_set(found, spec) for number, spec in page}
        keys = [(spec.job_type, spec.job_key) for spec in wanted.values()]
        ended = ledger.sets.without_output(found.set_id, keys)
        if is_retry(leg.context, self.retries):  # what failed for good is not asked again by a retry, but by a clear
            wanted = {n: spec for n, spec in wanted.items() if (spec.job_type, spec.job_key) not in ended}
        for number, opened in zip(wanted, ledger.submission.open_many(list(wanted.values())), strict=True):
            if isinstance(opened, HandoffError):
                if (wanted[number].job_type, wanted[number].job_key) not in ended:
                    left_out.add(LeftOutItem(number, LeftOutReason.REFUSED, opened.what))
                continue  # where it has ended, it is counted among the jobs of the set
            if opened.superseded is not None:
                self._cancel_superseded(ledger, leg.provider_for, opened.superseded, leg.owner.actor)
            if opened.next is Attachment.SUBMIT:
                yield opened.job, opened.revision, wanted[number].request

    def _of_set(self, found: JobSet, spec: JobSpec) -> JobSpec:
        """What is asked for with an item, as a job of the set."""
        request, shown = (processed(each, found.transport) for each in (spec.request, spec.kept_request))
        return replace(spec, set_id=found.set_id, deadline=found.deadline, request=request, shown_request=shown)

    @contextmanager
    def _sending(self, leg: Leg, found: JobSet) -> Iterator[_Sending]:
        """What sends requests until it is left: into batches, or each by itself, in threads."""
        from airflow_provider_aihandoff.core.sets.batch_send import BatchSender

        with ExitStack() as opened:
            crew = opened.enter_context(self._crew(leg))
            batches = None
            if found.transport is Transport.BATCH:
                provider, actor = leg.provider_for(self.openai_conn_id), leg.owner.actor
                sender = BatchSender(
                    leg.ledger,
                    provider,
                    found.set_id,
                    self.openai_conn_id,
                    actor,
                    self.worst_case,
                    leg.count_in_batch,
                )
                batches = opened.enter_context(sender)
            yield _Sending(self, leg, found, crew, batches)

    @contextmanager
    def _crew(self, leg: Leg) -> Iterator[Crew[str]]:
        """Threads that send and read; what each piece of work came to is counted.

        There are more of them than are sent at once: most wait for others, to share a transaction with them.
        """
        with Crew(_THREADS * self.send_at_once, leg.count) as crew:
            leg.steps.others = crew.__len__
            yield crew

    def _has_room(self, leg: Leg, crew: Crew[str]) -> bool:
        """Whether one more may be in flight: at once, or as soon as one of those that are has ended. False where none
        ends for so long that the rest is sent by a later leg."""
        while leg.in_flight >= self.max_in_flight:
            if leg.is_tired or not self._answers_come(leg, crew):
                return False
        return True

    def _answers_come(self, leg: Leg, crew: Crew[str]) -> bool:
        """Take what has ended by now, as far as this leg or the ledger knows. False where nothing has for a while."""
        leg.answers.hand_over_some(crew)
        crew.collect(_MOMENT)
        leg.is_tired = time.monotonic() - leg.progress_at >= leg.patience
        return not leg.is_tired

    def _send(self, leg: Leg, job: Job, revision: Revision, request: dict[str, Any]) -> str:
        """Send the request of one job, in a thread of the worker. What becomes of it holds up no other."""
        from airflow_provider_aihandoff.core.generation.submit import NotSubmitted

        try:
            with leg.steps.sending(job.job_id):
                revision = self._submit(
                    leg.context, leg.ledger, leg.provider_for, job, revision, request, steps=leg.steps
                )
        except NotSubmitted as error:
            self.log.warning("%s", error)
            leg.dropped.add(job.job_id)
            return "not taken"
        except (JobFailed, JobCancelled, InputChanged) as error:
            self.log.warning("%s", error)
            return "failed"
        if revision.is_held:
            return "held"
        if revision.is_lost:
            leg.answers.take_from_handle(revision)
            return "lost"
        if revision.completed_at is not None:
            return "taken"  # a server without background mode answers with the output
        if revision.state is RevisionState.RUNNING:
            leg.answers.expect(revision)
        return "sent"

    def _send_rest(self, leg: Leg, found: JobSet) -> bool:
        """Send what may be sent by now: what had no room before, what was held, and new revisions of what failed.

        :return: whether there was anything.
        """
        from airflow_provider_aihandoff.core.models import JobSpec

        sent = False
        if leg.cannot_send or not self._sendable(leg, found, limit=1):
            return False
        with self._sending(leg, found) as sending:
            items, seen = self._rendered(leg.context, numbered(self.items)), set[int]()
            while page := [spec for _, spec in islice(items, _OPENED_TOGETHER)]:
                specs = dict[tuple[str, str], JobSpec]()
                for spec in page:  # the first item of a key is its job; the others were left out
                    if not isinstance(spec, str) and (short := _short(spec)) not in seen:
                        seen.add(short)
                        specs[spec.job_type, spec.job_key] = spec
                sendable = leg.ledger.sets.sendable_among(found.set_id, list(specs), incomplete=self.retry_incomplete)
                for key in specs:  # in the order of the items
                    job_id = sendable.get(key)
                    if job_id is None or job_id in leg.dropped:
                        continue
                    if leg.cannot_send or not sending.has_room():
                        return sent
                    sending.again(job_id, replace(self._of_set(found, specs[key]), regenerate=False))
                    sent = True
        if not sent:
            self._drop_missing(leg, found)
        return sent

    def _sendable(self, leg: Leg, found: JobSet, *, limit: int = _OPENED_TOGETHER) -> list[Sendable]:
        """Jobs of which a request may be sent in this leg."""
        incomplete, without = self.retry_incomplete, sorted(leg.dropped)
        return leg.ledger.sets.sendable(found.set_id, limit=limit, incomplete=incomplete, without=without)

    def _drop_missing(self, leg: Leg, found: JobSet) -> None:
        """Send nothing of jobs in this leg whose items are gone."""
        while missing := {(each.job_type, each.job_key): each.job_id for each in self._sendable(leg, found)}:
            for _, spec in self._rendered(leg.context, numbered(self.items)):
                if not isinstance(spec, str):
                    missing.pop((spec.job_type, spec.job_key), None)
            if not missing:  # they may be sent since a moment ago: the next leg does it
                return
            for job_id in missing.values():
                self._drop(leg, job_id, "item missing", "its item is no longer among the items of its set")

    def _send_again(self, leg: Leg, job_id: int, spec: JobSpec) -> str:
        """Send the request of a job that exists, or that of a new revision of it."""
        opened = self._opened_again(leg, job_id, spec)
        return opened if isinstance(opened, str) else self._send(leg, *opened, spec.request)

    def _opened_again(self, leg: Leg, job_id: int, spec: JobSpec) -> tuple[Job, Revision] | str:
        """A job that exists with the revision that is to be sent, perhaps a new one; or why there is none."""
        ledger = leg.ledger
        job = ledger.job(job_id)
        if job.state is JobState.QUEUED and ledger.submission.is_input(job, spec.input):
            if self.complete_by is not None:  # it may be processed otherwise than it was to be before
                request = spec.kept_request
                ledger.submission.take_over(job_id, job.revision, owner=leg.owner, request=request)
            return job, ledger.revision(job_id, job.revision)
        try:
            opened = ledger.submission.open(spec)
        except (InputChanged, JobCancelled, RevisionsExhausted) as error:
            self.log.warning("%s", error)
            self._drop(leg, job_id, "not opened", error.what)
            return "failed"
        if opened.superseded is not None:
            self._cancel_superseded(ledger, leg.provider_for, opened.superseded, leg.owner.actor)
        if opened.next is not Attachment.SUBMIT:
            return "attached"
        return opened.job, opened.revision

    def _drop(self, leg: Leg, job_id: int, kind: str, reason: str) -> None:
        """Send nothing of a job in this leg; end it, if it was not sent: no one knows what to send."""
        leg.dropped.add(job_id)
        job = leg.ledger.job(job_id)
        if job.state is JobState.QUEUED:
            leg.ledger.outputs.fail(
                job_id, job.revision, actor=leg.owner.actor, reason=reason, error={"kind": kind, "final": True}
            )

    # Taking what has ended, and waiting.

    def _go_on(self, leg: Leg, found: JobSet) -> dict[str, Any]:
        """Take and send for as long as answers come; then wait, or end."""
        while True:
            found = choose(leg.ledger, found, self.transport)
            self._take_ended(leg, found)
            sent, before = self._send_rest(leg, found), leg.outcomes["taken"]
            self._await_answers(leg)
            if not sent and leg.outcomes["taken"] == before:
                break
        ledger, set_id = leg.ledger, found.set_id
        if ledger.sets.is_waiting(set_id) or ledger.batches.open_of_set(set_id) or self._sends_later(leg, found):
            self._defer(leg, found)
        return self._end(leg, found)

    def _advance_batches(self, leg: Leg, found: JobSet) -> None:
        """Take the next step for each batch of the set, and store what they have left."""
        actor = leg.owner.actor
        again = advance_batches(leg.ledger, leg.provider_for, found, output_type=self.output_type, actor=actor)
        leg.outcomes["unreadable"] += int(again)
        if leg.complete:
            complete_approved(leg.ledger, found.set_id, actor=actor)

    def _sends_later(self, leg: Leg, found: JobSet) -> bool:
        """Whether something is left to be tried again, of which nothing tells when it can."""
        return leg.tries_again or (leg.is_tired and bool(self._sendable(leg, found, limit=1)))

    def _take_ended(self, leg: Leg, found: JobSet) -> None:
        """Store what every response has left that has ended, and give up those that are too late."""
        self._advance_batches(leg, found)
        if is_late(leg.ledger, found):
            stop_late_windows(leg.ledger, leg.provider_for, found, actor=leg.owner.actor)
        with self._crew(leg) as crew:
            leg.answers.hand_over_ended(crew)
        leg.answers.wait_less()

    def _await_answers(self, leg: Leg) -> None:
        """Take answers for as long as they come."""
        leg.progress_at = time.monotonic()
        with self._crew(leg) as crew:
            while (leg.answers or crew) and not leg.is_tired and self._answers_come(leg, crew):
                pass

    def _defer(self, leg: Leg, found: JobSet) -> None:
        """Wait for responses, or until a request may be sent.

        :raises TaskDeferred: always.
        """
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.triggers.set_wait import SetTrigger

        now = leg.ledger.now()
        move_at = None if found.complete_by is None else moves_at(found.complete_by)
        total = leg.ledger.sets.total(found.set_id)
        self.log.info("%s: %s.", found.label, total.in_words(found.without_job.number))
        leg.ledger.close()
        self.defer(
            trigger=SetTrigger(
                set_id=found.set_id,
                phase="draft",
                ledger_conn_id=LedgerHook(self.ledger_conn_id).ledger_conn_id,
                not_before=(now + settings.seconds("min_deferral")).isoformat(),
                until=(now + (_TRY_AGAIN if leg.tries_again else _LONGEST_WAVE)).isoformat(),
                until_anyway=leg.tries_again,
                poll_interval=settings.number("poll_interval"),
                move_at=None if move_at is None or move_at <= now else move_at.isoformat(),
            ),
            method_name="execute_complete",
        )

    def _end(self, leg: Leg, found: JobSet) -> dict[str, Any]:
        """The XCom; or the failure of the task, where too many items have no output.

        :raises AirflowFailException: they have.
        """
        total = leg.ledger.sets.total(found.set_id)
        left_out = found.without_job.number
        said = total.in_words(left_out)
        failed = total.in_states(JobState.FAILED, JobState.CANCELLED) + left_out
        items = found.items or 0
        if too_many(failed, items, self.fail_when):
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(total.failures.items()))
            raise AirflowFailException(
                f"{found.label}: {failed:,} of {items:,} items have no output ({kinds or 'left out'}). {said}. What "
                "there is stays in the ledger, and this step made no external write. Fix the cause; a clear of this "
                "task pays only for what is missing."
            )
        self.log.info("%s: %s.", found.label, said)
        return {
            "set_id": found.set_id,
            "set_type": found.set_type,
            "set_key": found.set_key,
            "items": items,
            "left_out": left_out,
            "states": {state.value: number for state, number in total.states.items()},
            "failures": dict(total.failures),
            "cost_usd": str(total.cost_usd),
            "said": said,
        }

    def on_kill(self) -> None:
        """Cancel what runs, and what was not sent, if a person ended the running task, and only then."""
        running: Any = getattr(self, "_running", None)
        if running is None:
            return
        found, ti, owner = running
        if self._state_of(ti, owner) not in ENDED_TASK_STATES:
            self.log.info("This task has not ended: the responses of %s go on.", found.label)
            return
        from airflow_provider_aihandoff.core.sets.stop_set import stop_set
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        with LedgerHook(self.ledger_conn_id).get_conn() as ledger, providers() as provider_for:
            stop_set(ledger, provider_for, found.set_id, owner=owner, reason="the task was ended while it ran")


def _short(spec: JobSpec) -> int:
    """What tells the keys of items apart, in few bytes: there may be many of them."""
    return int.from_bytes(hashlib.sha256(f"{spec.job_type}\n{spec.job_key}".encode()).digest()[:12])


def _named(left_out: LeftOut) -> str:
    first = "; ".join(str(each) for each in left_out.first[:_NAMED])
    more = left_out.number - min(len(left_out.first), _NAMED)
    return first + (f"; and {more} more" if more else "")


def _bad_items(left_out: LeftOut, number: int) -> SetRefused:
    return SetRefused(
        f"{left_out.number} of {number} items cannot be jobs: {_named(left_out)}.",
        written="Nothing was sent to the model, and no external write was made.",
        remedy='Fix the items or the templates, then clear this task; or give it on_bad_items="leave out".',
    )


def _default_key(context: Context, task_id: str) -> str:
    """Dag, task, and the data interval of the run; or its id, where it has none."""
    run: Any = context["dag_run"]
    start, end = (getattr(run, f"data_interval_{name}", None) for name in ("start", "end"))
    index = context["ti"].map_index
    what = f"{_iso(start)}/{_iso(end)}" if start is not None and end is not None and start != end else run.run_id
    mapped = f"[{index}]" if index is not None and index >= 0 else ""
    return f"{run.dag_id}/{task_id}{mapped}/{what}{loop_suffix(context)}"


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
