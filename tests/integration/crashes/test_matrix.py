"""Crash matrix: strike an attempt at every named point, go on to the end, and compare the ledger with its witnesses.

``kill``: the process dies by SIGKILL at the point, and Airflow tries again. ``stop``: it is paused there, its retry
does the step beside it, and only then it goes on, in the belief that it is still the one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import psycopg
import pytest

from airflow_provider_aihandoff.core.bulk.bulk_store import Outcome as BulkOutcome
from airflow_provider_aihandoff.core.crashpoints import POINTS
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.testing import OpenAIStandIn
from chaos.attempts import bulk_actions_of
from chaos.count import Row, Witness, compare
from chaos.drive import search_in
from chaos.effects import TABLE
from chaos.events import heard_of
from chaos.forks import AFTER_FENCE, Fault, Forks
from chaos.requests import runs_of
from chaos.target import Target, serving
from chaos.work import Variant
from chaos.world import World
from demo.postgres import Postgres
from tests.integration.crashes.course import COURSES, IN_BULK, PAID_ONCE, ROLLED_BACK, SOME, Course, Run, of

#: Courses under way at the same time: they mostly wait for claims to end.
AT_ONCE = 8

VARIANTS: tuple[Variant, ...] = ("idempotent", "probed", "conditional", "neither")

#: The kinds of effects that not every job has, with the targets for which they are something of their own.
FURTHER: dict[str, tuple[Variant, ...]] = {
    "lines": ("idempotent", "probed"),
    "link": ("idempotent", "probed"),
    "retire": ("probed", "conditional", "put", "neither"),
}
SUBMITTING = tuple(point for point in POINTS if point.startswith(("submit.intend", "submit.create", "submit.store")))
#: How the keys end of requests that a login made, that another program made, and that were cancelled.
ENDS = ("", "-enqueued", "-cancelled")
BULK = tuple(point for point in POINTS if point.startswith("bulk."))
#: Where a set of some jobs is struck in the middle: at which step, the how many-th time, and at which points.
OF_SETS = tuple(
    (at, nth, tuple(point for point in POINTS if point.startswith(steps)))
    for at, nth, steps in (
        ("draft set", 1, ("set.intend", "set.submitted", "set.store")),
        ("draft set", 3, ("submit.create",)),
        ("ask set", 1, ("set.ask",)),
        ("decide set", 1, ("review.decide",)),
        ("write set", 1, ("set.claim", "set.confirm")),
        ("write set", 3, ("apply.send",)),
    )
)
SENDING = tuple(point for point in POINTS if point.startswith(("apply.claim", "apply.send", "apply.confirm")))


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    do: Literal["kill", "stop"]
    point: str
    course: Course
    at: str | None = None
    nth: int = 1
    with_: str = ""
    """What finds the response of a lost request: it is paid once then."""

    def __str__(self) -> str:
        if self.with_:
            return f"{self.do} at {self.point} (with {self.with_})"
        place = f" ({self.at}, {self.course.work.variant})" if self.at else ""
        return f"{self.do} at {self.point}{place}"


def _cases() -> Iterator[Case]:
    """Every point on the course that comes by it; and every way to send, for every kind of target and of undo."""
    do: Literal["kill", "stop"]
    for do in ("kill", "stop"):
        for point in POINTS:
            yield Case(do, point, COURSES[point.partition(":")[0]])
        yield from (Case(do, point, course, at=at) for at, course in IN_BULK.items() for point in BULK)
        yield from (Case(do, point, SOME, at=at, nth=nth) for at, nth, points in OF_SETS for point in points)
        for with_, course in PAID_ONCE.items():
            yield from (Case(do, point, course, at="draft", with_=with_) for point in SUBMITTING)
        for point in SENDING:
            for variant in VARIANTS:
                yield Case(do, point, of(COURSES["apply.send"].go, variant=variant), at="label")
                # The second undo is the first one that goes to the HTTP target.
                yield Case(do, point, of(ROLLED_BACK.go, ROLLED_BACK.ends, variant=variant), at="rollback", nth=2)
            yield Case(do, point, COURSES["apply.send"], at="store")
            for name, variants in FURTHER.items():
                for variant in variants:
                    effects = ("create", name) if name == "link" else (name,)
                    course = of(COURSES["apply.send"].go, variant=variant, effects=effects)
                    yield Case(do, point, course, at=name)
    # Nothing in the sender closes the gap after its last check; these targets do.
    for variant in ("idempotent", "conditional"):
        yield Case("stop", AFTER_FENCE, of(COURSES["apply.send"].go, variant=variant), at="create")
    yield Case("stop", AFTER_FENCE, COURSES["apply.send"], at="store")


#: In the tests of each change, every other cell: of neighbours, such as before and after a commit, one is killed and
#: one is stopped. `make matrix` runs all.
WHOLE = "AIHANDOFF_WHOLE_MATRIX"


def _chosen() -> Iterator[Case]:
    if os.environ.get(WHOLE):
        yield from _cases()
        return
    numbers = Counter[str]()
    for case in _cases():
        number = numbers[case.do]
        numbers[case.do] += 1
        if case.point == AFTER_FENCE or number % 2 == (case.do == "stop"):
            yield case


CASES = tuple(_chosen())


class Matrix:
    """One ledger, one OpenAI and one target for all courses, and their witnesses."""

    def __init__(self, world: World, target: Target, stand_in: OpenAIStandIn, ledger: Ledger, forks: Forks) -> None:
        self.world, self.target, self.stand_in, self.ledger, self.forks = world, target, stand_in, ledger, forks

    def go(self, number: int, case: Case) -> tuple[Run, list[JobRecord]]:
        """Go one course to its end."""
        work = replace(case.course.work, key=f"work-{number}")
        fault = Fault(case.point, case.do, case.nth)
        run = Run(self.forks, self.ledger, search_in(lambda: self.target.changes), work, fault, case.at)
        case.course.go(run)
        return run, [self.ledger.record(job.job_id) for job in self.ledger.jobs(run_id=work.key, limit=work.items + 1)]

    def outcomes_in_bulk(self, run: Run) -> list[BulkOutcome | None]:
        """What the reports of its bulk actions say: of one, unless two attempts have begun one each."""
        actions = bulk_actions_of(self.ledger, run.work)
        return [each.outcome for action in actions for each in self.ledger.bulks.report(action.bulk_id)]

    def witness(self, jobs: Sequence[Job]) -> Witness:
        """What those say to whom it was done, of some jobs."""
        keys = {str(job.job_id): job.job_key for job in jobs}
        with psycopg.connect(**self.world.ledger) as connection:
            rows = connection.execute(
                "SELECT row_id, name, undoes FROM chaos_rows WHERE name = ANY(%s)", [list(keys.values())]
            )
            written = [Row(*row) for row in rows]
        changes = [change for change in list(self.target.changes) if change.name.partition(".")[0] in keys.values()]
        named = (each.response["metadata"]["aihandoff_job"] for each in self.stand_in.responses().responses)
        return Witness(changes, written, Counter(keys[job_id] for job_id in named if job_id in keys))


@pytest.fixture(scope="module")
def matrix(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    folder: Path = tmp_path_factory.mktemp("crashes")
    postgres.create_database("crashes")
    conninfo = postgres.connection_kwargs("crashes")
    schema.upgrade(conninfo)
    with psycopg.connect(**conninfo) as connection:
        connection.execute(TABLE)
    target, stand_in = Target(folder / "target.jsonl"), OpenAIStandIn(delay_seconds=0.1)
    with ExitStack() as stack:
        stack.callback(target.close)
        url = stack.enter_context(serving(target))
        openai = stack.enter_context(stand_in.serve())
        world = World({name: str(value) for name, value in conninfo.items()}, openai.base_url, url, call_timeout=2.0)
        forks = stack.enter_context(Forks(world, home=str(folder), log=str(folder / "attempts.log")))
        ledger = stack.enter_context(Ledger(conninfo, max_size=AT_ONCE))
        yield Matrix(world, target, stand_in, ledger, forks)


@pytest.fixture(scope="module")
def under_way(
    matrix: Matrix, request: pytest.FixtureRequest
) -> Iterator[dict[Case, Future[tuple[Run, list[JobRecord]]]]]:
    """The courses of the tests that were chosen, which take place at the same time."""
    chosen = [
        cast("Case", item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.parent is request.node
    ]
    with ThreadPoolExecutor(AT_ONCE) as workers:
        yield {case: workers.submit(matrix.go, number, case) for number, case in enumerate(chosen)}
        workers.shutdown(cancel_futures=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_struck_at_a_point_and_gone_on_with_it_wrote_everything_once(
    case: Case, matrix: Matrix, under_way: dict[Case, Future[tuple[Run, list[JobRecord]]]]
) -> None:
    run, records = under_way[case].result()
    witness = matrix.witness([record.job for record in records])
    count = compare(records, witness)

    assert run.struck is not None, "no attempt has reached the point"
    assert len(records) == case.course.work.items
    assert ({record.job.state for record in records}, count.problems) == ({case.course.ends}, [])
    assert written(witness) == case.course.writes
    if case.with_:
        assert count.extra_responses == 0
    if case.point.startswith("request."):
        assert [runs_of(matrix.world, matrix.ledger, f"{records[0].job.job_key}{end}") for end in ENDS] == [
            int(case.course.go is each) for each in (COURSES["request.record"].go, COURSES["request.claim"].go, None)
        ]
    if case.point.startswith("event."):
        (job,) = [record.job for record in records]
        assert heard_of(matrix.world, job.job_key, job.job_id) == ["queued", "working", "in review", "working", "done"]
    if case.at in IN_BULK:
        assert set(matrix.outcomes_in_bulk(run)) == {BulkOutcome.DONE}


def written(witness: Witness) -> tuple[int, int, int, int]:
    """How much was created and removed over HTTP, inserted and undone in the database."""
    did = Counter(change.do for change in witness.changes)
    inserted = sum(row.undoes is None for row in witness.rows)
    return did["create"], did["remove"], inserted, len(witness.rows) - inserted
