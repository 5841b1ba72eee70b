"""Every declaration that an author would write, against every fault: what the target has, and what the ledger says.

``python -m tests.integration.targets.grid`` prints the grid, from a PostgreSQL of its own.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.apply import apply_effect
from airflow_provider_aihandoff.core.effects.filled import earlier_names
from airflow_provider_aihandoff.core.effects.target import Target
from airflow_provider_aihandoff.core.errors import ClaimLost, EffectNotNow, EffectRefused, EffectUnknown
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.targets.email import EmailTarget, plan_mail
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe, plan_request
from demo.postgres import PostgresServer, open_postgres
from tests.factories import LEASE, approve, ask, draft, job_spec
from tests.integration.core.effects.effects import ACTOR, end_pauses, later
from tests.integration.targets.mail_systems import (
    MAIL_FAULTS,
    MAIL_PATIENCE,
    SLOW_MAIL_FAULTS,
    MailServer,
    Security,
    serving_mail,
)
from tests.integration.targets.systems import (
    FAULTS,
    LONG_PATIENCE,
    PATIENCE,
    SLOW_FAULTS,
    BusyStore,
    Cms,
    CmsWithout,
    Helpdesk,
    Store,
    System,
    TakenCms,
    TakenStore,
    serving,
)

KEY = "{effect_key}"
CREATED = "{effects.create.external_id}"
TRIES = 4

#: A fault that only a lying rate limiter has: without a probe it has to be believed, and so it is not tried there.
_NEEDS_PROBE = frozenset({"applied, 503 later", "applied, 429 later"})

_TICKETS = {
    "endpoint": "/tickets",
    "query": {"ref": KEY},
    "found_in": "$.tickets",
    "found": {"$.ref": KEY},
    "external_id_path": "$.id",
}
_POST = {"method": "POST", "endpoint": "/posts", "json": {"slug": "kettle", "title": "Kettle"}}
_POSTS = {"endpoint": "/posts/kettle", "found": {"$.data.title": "Kettle"}, "external_id_path": "$.data.id"}
_RECORD = {"endpoint": "/records/kettle", "found": {"$.value": 7}}
_NEW = {"headers": {"If-None-Match": "*"}}


@dataclass(frozen=True)
class Row:
    """One declaration.

    :param what: how the author would say it.
    :param options: of the target.
    :param ours: the write can be ours at all; otherwise something of another person's is in its place.
    :param earlier: the external id of an earlier effect, `create`, which the write names.
    """

    what: str
    system: type[System]
    request: Mapping[str, Any]
    probe: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = True
    earlier: str = "none"

    @property
    def adds(self) -> bool:
        """A request that is applied twice makes a second record."""
        return bool(self.request["method"] == "POST")


@dataclass(frozen=True)
class MailRow:
    """One e-mail to two people, over a connection of this security."""

    what: str
    security: Security
    ours: bool = True
    adds: bool = True


ROWS = (
    Row(
        "helpdesk: POST, probe over all pages",
        Helpdesk,
        {"method": "POST", "endpoint": "/tickets", "json": {"subject": "Kettle", "ref": KEY}},
        {**_TICKETS, "next": "$.next_page"},
    ),
    Row(
        "helpdesk: POST, probe of page 1 alone",
        Helpdesk,
        {"method": "POST", "endpoint": "/tickets", "json": {"subject": "Kettle", "ref": KEY}},
        _TICKETS,
    ),
    Row(
        "helpdesk: POST, no probe", Helpdesk, {"method": "POST", "endpoint": "/tickets", "json": {"subject": "Kettle"}}
    ),
    Row(
        "helpdesk: PATCH, probe",
        Helpdesk,
        {"method": "PATCH", "endpoint": "/tickets/7", "json": {"status": "solved"}},
        {"endpoint": "/tickets/7", "found": {"$.status": "solved"}},
    ),
    Row(
        "helpdesk: POST on a created one, probe",
        Helpdesk,
        {"method": "POST", "endpoint": "/tickets", "json": {"subject": "Kettle", "ref": KEY, "of": CREATED}},
        {**_TICKETS, "query": {"of": CREATED}, "next": "$.next_page"},
        earlier="7",
    ),
    Row("CMS: POST, probe, 403 is absent", Cms, _POST, _POSTS, {"answers": "hidden"}),
    Row("CMS: POST, probe by id alone", Cms, _POST, {"endpoint": "/posts/kettle"}, {"answers": "hidden"}),
    Row("CMS: POST, the slug is taken", TakenCms, _POST, _POSTS, {"answers": "hidden"}, ours=False),
    Row("CMS: POST, taken, probe by id alone", TakenCms, _POST, {"endpoint": "/posts/kettle"}, ours=False),
    Row(
        "CMS: DELETE, probe",
        CmsWithout,
        {"method": "DELETE", "endpoint": "/posts/pan"},
        {"endpoint": "/posts/pan"},
        {"answers": "hidden"},
    ),
    Row(
        "store: PUT if absent, probe",
        Store,
        {"method": "PUT", "endpoint": "/records/kettle", "json": {"value": 7}, **_NEW},
        _RECORD,
    ),
    Row(
        "store: PUT if absent, taken",
        TakenStore,
        {"method": "PUT", "endpoint": "/records/kettle", "json": {"value": 7}, **_NEW},
        {"endpoint": "/records/kettle"},
        ours=False,
    ),
    Row(
        "store: PATCH if unchanged, probe",
        Store,
        {"method": "PATCH", "endpoint": "/records/pan", "json": {"value": 7}, "headers": {"If-Match": '"1"'}},
        {"endpoint": "/records/pan", "found": {"$.value": 7}},
    ),
    Row(
        "store: PUT, idempotent",
        Store,
        {"method": "PUT", "endpoint": "/records/kettle", "json": {"value": 7}},
        None,
        {"idempotent": True, "resends": 3},
    ),
    Row(
        "store: PUT, busy (409), probe",
        BusyStore,
        {"method": "PUT", "endpoint": "/records/kettle", "json": {"value": 7}},
        _RECORD,
    ),
    Row(
        "store: PATCH of nothing, verified",
        Store,
        {"method": "PATCH", "endpoint": "/records/kettle", "json": {"value": 7}},
        _RECORD,
        {"verify": True},
        ours=False,
    ),
)


MAIL_ROWS = (
    MailRow("mail: plain", "plain"),
    MailRow("mail: STARTTLS and a login", "STARTTLS"),
    MailRow("mail: TLS and a login", "TLS"),
)


@dataclass(frozen=True)
class Cell:
    """What came of one row under one fault.

    :param state: what the ledger says: the effect's state, or ``held`` where a person has to say.
    :param count: how often the write stands in the target.
    :param sent: how many requests the target got.
    :param applied: how many of them it applied.
    """

    row: Row | MailRow
    fault: str
    state: str
    count: int
    sent: int
    applied: int
    note: str

    @property
    def wrong(self) -> str:
        """What is wrong with it, in a word; empty where nothing is."""
        if self.row.adds and self.applied > 1:
            return "double"
        if self.state == "applied" and not (self.count and self.row.ours):
            return "false applied"
        if self.state in ("refused", "planned") and self.row.ours and self.count:
            return "false refused"
        return "unbounded" if self.sent > 1 + TRIES + 3 else ""


def play(ledger: Ledger, row: Row, fault: str, number: int) -> Cell:
    """Let one effect run to its end, as Airflow would run its task."""
    system = row.system(fault)
    with serving(system) as port:
        os.environ["AIRFLOW_CONN_GRID"] = json.dumps(
            {"conn_type": "http", "host": "127.0.0.1", "port": port, "schema": "http"}
        )
        plan = plan_request("grid", name="write", **row.request)
        probe = None if row.probe is None else plan_probe("grid", row.probe, "write")
        patience = PATIENCE if fault in SLOW_FAULTS else LONG_PATIENCE
        target = HttpTarget("write", patience, "$.id", probe_plan=probe, grace_seconds=0.2, **row.options)
        planned = EffectPlan(
            "write",
            "http",
            plan,
            digest(plan),
            plan,
            after=("create",),
            names=tuple(earlier_names(plan)),
            other_names=tuple(target.names()),
        )
        create = EffectPlan("create", "http", plan, digest("create"), plan)
        state, note = _end_of(ledger, [create, planned], target, number, earlier=row.earlier)
        return Cell(row, fault, state, system.count(), system.sent, system.applied, note)


def play_mail(ledger: Ledger, row: MailRow, fault: str, number: int) -> Cell:
    """Let one e-mail run to its end."""
    server = MailServer(fault, row.security)
    with serving_mail(server) as connection:
        os.environ["AIRFLOW_CONN_GRID"] = connection
        to = ["ann@example.com", "bob@example.com"]
        words: dict[str, Any] = {"subject": "Kettle", "text": "It boils.", "html": None, "headers": None}
        plan = plan_mail("grid", sender=None, to=to, **words, name="write")
        planned = EffectPlan("write", "email", plan, digest(plan), plan)
        patience = MAIL_PATIENCE if fault in SLOW_MAIL_FAULTS else LONG_PATIENCE
        state, note = _end_of(ledger, [planned], EmailTarget("write", patience), number)
    return Cell(row, fault, state, server.count(), server.sent, server.count(), note)


def _end_of(
    ledger: Ledger, plans: Sequence[EffectPlan], target: Target, number: int, *, earlier: str | None = None
) -> tuple[str, str]:
    """What the ledger says of the last effect at its end, and what its probe saw.

    :param earlier: the external id of the effect before it, where there is one.
    """
    end_pauses(ledger)  # that a fault before this one may have led to
    spec = job_spec(job_key=f"grid:{number}")
    job = approve(ledger, ask(ledger, draft(ledger, spec, response_id=f"resp_{number}"), *plans))
    for before in plans[:-1]:
        claim = ledger.effects.claim(job.job_id, before, lease=LEASE, actor=ACTOR)
        ledger.effects.confirm(claim, external_id=earlier, result=None, actor=ACTOR)
    held = _run(ledger, job.job_id, plans[-1], target)
    effect = ledger.record(job.job_id).current_effects[-1]
    state = "held" if held and effect.state == "unknown" else effect.state.value
    return state, effect.probe_note or ""


def _run(ledger: Ledger, job_id: int, plan: EffectPlan, target: Target) -> bool:
    """Whether it ends with a person."""
    tries, not_now = 1, 0
    while tries <= TRIES:
        try:
            done = apply_effect(ledger, job_id, plan, target, actor=ACTOR, not_now=not_now, last_try=tries == TRIES)
        except EffectRefused:
            return False
        except (EffectNotNow, EffectUnknown, ClaimLost):
            tries, not_now = tries + 1, 0
            continue
        if isinstance(done, Effect):
            return False
        if done.seconds is None:
            return True
        not_now = done.not_now
        later(ledger, done.seconds)
    return False


def applicable(row: Row | MailRow, fault: str) -> bool:
    """Whether a fault differs from an answer that is true, and can befall it."""
    if isinstance(row, MailRow):
        return row.security != "plain" or not fault.startswith("login")
    return row.probe is not None or bool(row.options.get("idempotent")) or fault not in _NEEDS_PROBE


def table(cells: list[Cell], faults: Sequence[str]) -> str:
    """A grid: a line a declaration, a column a fault, each cell a letter and how often the write stands there."""
    letters = {"applied": "A", "held": "H", "refused": "R", "planned": "N"}
    found = {(cell.row.what, cell.fault): cell for cell in cells}
    lines = [f"{number:>3}  {fault}" for number, fault in enumerate(faults, 1)]
    lines += ["", " " * 40 + "".join(f"{number:<4}" for number in range(1, len(faults) + 1)).rstrip()]
    for what in dict.fromkeys(cell.row.what for cell in cells):
        row = [found.get((what, fault)) for fault in faults]
        shown = ["-" if cell is None else cell.wrong.upper() or f"{letters[cell.state]}{cell.count}" for cell in row]
        lines.append(f"{what:<40}" + "".join(f"{text:<4}" for text in shown).rstrip())
    wrong = Counter(cell.wrong for cell in cells)
    words = ("double", "false applied", "false refused", "unbounded")
    sent = max(cell.sent for cell in cells)
    lines += ["", f"{len(cells)} cells; at most {sent} sent; " + ", ".join(f"{wrong[word]} {word}" for word in words)]
    return "\n".join(lines)


@contextmanager
def ledger_of_its_own() -> Iterator[Ledger]:
    """An empty ledger on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = open_postgres(Path(folder) / "data", {})
        server.start()
        try:
            server.create_database("grid")
            schema.upgrade(server.connection_kwargs("grid"))
            with Ledger(server.connection_kwargs("grid")) as ledger:
                yield ledger
        finally:
            if isinstance(server, PostgresServer):
                server.kill()
                server.destroy()


def main() -> None:
    """Print the grids."""
    logging.disable(logging.CRITICAL)
    numbers = count(1)
    with ledger_of_its_own() as ledger:
        cells = [play(ledger, row, fault, next(numbers)) for row in ROWS for fault in FAULTS if applicable(row, fault)]
        mails = [
            play_mail(ledger, row, fault, next(numbers))
            for row in MAIL_ROWS
            for fault in MAIL_FAULTS
            if applicable(row, fault)
        ]
    print(table(cells, FAULTS), table(mails, MAIL_FAULTS), sep="\n\n")


if __name__ == "__main__":
    main()
