"""Jobs as people meet them: the review pages are seen with these."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from openai.lib._parsing._responses import type_to_text_format_param
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.bulk.bulk_run import begin, preview
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.job_requests.job_request import Wanted
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job, JobSpec
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.sets.set_record import LeftOut, LeftOutItem, LeftOutReason
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import LEASE, OWNER, TEST, ask, draft, job_spec, submit


class Figure(BaseModel):
    region: str
    sales: float
    trend: str


class Note(BaseModel):
    title: str
    tagline: str
    body: str = Field(description="Markdown, as the shop shows it")
    price: float = Field(ge=0)
    colours: list[str]
    figures: list[Figure]
    warning: str | None


SCHEMA: Any = type_to_text_format_param(Note)["schema"]  # type: ignore[typeddict-item]

BODY = """# A kettle that keeps its promise

The **Tidewater kettle** boils a litre in *three minutes*, and pours without a drip.

- Stainless steel, 1.7 l
- Keeps 80 °C for half an hour
- Repairable: every part can be ordered

> "The last kettle that we will buy." (a customer)

See [the offer](https://evil.test/?steal=1) ![pixel](https://evil.test/pixel.png)"""

NOTE = {
    "title": "Meet the Tidewater kettle",
    "tagline": "Three minutes to tea.",
    "body": BODY,
    "price": 49.9,
    "colours": ["steel", "black"],
    "figures": [
        {"region": "North", "sales": 1204.5, "trend": "rising"},
        {"region": "South", "sales": 988.0, "trend": "steady"},
    ],
    "warning": None,
}


def request_of(schema: Any = SCHEMA) -> dict[str, Any]:
    form = {"type": "json_schema", "name": "Note", "strict": True, "schema": schema}
    return {"model": "gpt-5.2", "input": "Write about the kettle.", "text": {"format": form}}


def note_spec(key: str = "post:kettle", **changes: Any) -> JobSpec:
    request = request_of()
    return job_spec(job_key=key, input={**request, "text": "as above"}, request=request, **changes)


def put(key: str, body: Any, *, current: Any = None, name: str = "publish") -> EffectPlan:
    plan = {
        "connection": "cms",
        "method": "PUT",
        "url": f"https://cms.example/posts/{key}",
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(body, ensure_ascii=False, separators=(",", ":")),
    }
    undo = {"kind": "http", "plan": {"connection": "cms", "method": "DELETE", "url": plan["url"], "headers": {}}}
    return EffectPlan(name, "http", plan, digest(plan), plan, undo, current=current)


CURRENT = {
    "at": "2026-02-02T09:00:00+00:00",
    "record": {"id": 17, "title": "The old kettle", "tagline": "Three minutes to tea.", "updated": "2025-11-01"},
}
RULES = ReviewRules(
    approvers=Approvers(users=("bob", "carol"), roles=("admin",)),
    approvals=2,
    because={"policy": "prices@3", "reason": "the price is above 40"},
)


def note(ledger: Ledger, key: str = "post:kettle", output: Any = NOTE, **asked: Any) -> Job:
    """A product note that waits for a decision."""
    job = draft(ledger, note_spec(key), output, response_id=f"resp_{key}")
    body = {name: output[name] for name in ("title", "tagline", "body")}
    return ask(ledger, job, put(key, body, current=CURRENT), **{"rules": RULES, **asked})


def edited(ledger: Ledger, job: Job, by: str = "carol") -> Job:
    """The same, after an edit whose plan is rendered."""
    assert job.review_digest is not None
    output = {**NOTE, "title": "Meet the quiet Tidewater kettle", "body": BODY.replace("three minutes", "two minutes")}
    ledger.reviews.edit(job.job_id, digest=job.review_digest, output=output, person=Person(by))
    body = {name: output[name] for name in ("title", "tagline", "body")}
    return ask(ledger, job, put(job.job_key, body, current=CURRENT), rules=RULES)


TICKETS = (
    "I was charged twice for order {number}. Please send the money back, and say when it arrives.",
    "The app shows an empty page after the login.\nThis began on Monday, with version 4.2, on both of my phones.",
    "How do I change the address of my account {number}?",
)


def tickets(ledger: Ledger, number: int, run_id: str = "scheduled__2026-02-02T06:00:00+00:00") -> list[Job]:
    """Labels of tickets, of one run, that differ in some fields."""
    made = []
    for place in range(number):
        label = {
            "category": ("billing", "bug", "account")[place % 3],
            "priority": "high" if place % 4 == 0 else "normal",
            "reply": f"Thank you for writing to us about ticket {4700 + place}. We look into it today.",
            "language": "en",
        }
        text = TICKETS[place % len(TICKETS)].format(number=4700 + place)
        spec = job_spec(
            input={"model": "gpt-5.2", "input": text},
            request={"model": "gpt-5.2", "input": text},
            job_type="ticket",
            job_key=f"ticket:{4700 + place}",
            requested_by="airflow",
            owner=replace(OWNER, dag_id="tickets", run_id=run_id, map_index=place),
        )
        job = draft(ledger, spec, label, response_id=f"resp_ticket_{run_id}_{place}")
        plan = put(f"ticket-{4700 + place}", {name: label[name] for name in ("category", "priority")}, name="label")
        rules = ReviewRules(because={"policy": "sampling@1", "reason": "one in ten goes to a person"})
        made.append(ask(ledger, job, plan, rules=rules))
    return made


def ended(ledger: Ledger, number: int) -> None:
    """Jobs that have cost something and were decided on, and a webhook that no job waits for."""
    for place in range(number):
        spec = job_spec(job_type=("report", "answer")[place % 2], job_key=f"ended:{place}")
        revision = submit(ledger, spec, f"resp_ended_{place}")
        output = Output(ResponseStatus.COMPLETED, "It is done.", cost_usd=Decimal("0.25"))
        job = ask(ledger, ledger.outputs.store(revision.job_id, 1, output, actor=TEST))
        assert job.review_digest is not None
        ledger.reviews.decide(job.job_id, "reject", digest=job.review_digest, person=Person("bob"))
    webhook(ledger, "wh_lost")


def webhook(ledger: Ledger, webhook_id: str) -> None:
    """A webhook whose response no job has."""
    response_id = f"resp_of_{webhook_id}"
    event = {"type": "response.completed", "data": {"id": response_id}}
    ledger.inbox.receive(Delivery(webhook_id, "openai_default", "response.completed", response_id, event))


def written(ledger: Ledger, key: str = "post:lamp") -> Job:
    """A product note that was approved and written; its author says where people see it."""
    plan = replace(put(key, {"title": "The lamp"}), external_url="https://cms.example/posts/{external_id}")
    job = ask(ledger, draft(ledger, note_spec(key), response_id=f"resp_{key}"), plan)
    assert job.review_digest is not None
    ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person("bob"))
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="post 17", result={"status": 201}, actor=TEST)
    return ledger.job(job.job_id)


def bulk(ledger: Ledger) -> int:
    """A bulk action of Bob that has not taken a step yet."""
    bob = Actor.user("bob")
    shown = preview(ledger, BulkAction.CANCEL, JobFilter(job_type="ticket"), answerable=list, actor=bob)
    return begin(ledger, shown, count=shown.count, digest=shown.digest, reason="A wrong prompt", actor=bob)


def budget(ledger: Ledger) -> int:
    """A budget of which something is spent, something is reserved, and for which a job waits; and a second one."""
    alice = Actor.user("alice")
    for name, amount, scope in (("nightly", 20, {"tag": "nightly"}), ("all of it", "1500.50", {})):
        spec = checked_spec(name, amount, scope=scope, period="day", time_zone="Europe/Berlin", owner="finance")
        ledger.budgets.add(spec, why="Agreed in the meeting of May", actor=alice)
    for number, need in enumerate((8, 6, 9)):
        opened = ledger.submission.open(job_spec(job_key=f"nightly:{number}", tags=("nightly",)))
        job_id, worst = opened.job.job_id, WorstCase(cost_usd=Decimal(need))
        intent = ledger.submission.intend(job_id, 1, actor=TEST, lease=LEASE, worst=worst)
        if number == 0 and intent.token is not None:
            ledger.submission.submitted(
                job_id,
                1,
                token=intent.token,
                response_id="resp_nightly",
                status=ResponseStatus.QUEUED,
                actor=TEST,
            )
            output = Output(ResponseStatus.COMPLETED, "A kettle.", cost_usd=Decimal("7.2"))
            ledger.outputs.store(job_id, 1, output, actor=TEST, response_id="resp_nightly")
    view = ledger.budgets.read("nightly")
    ledger.budgets.raise_once("nightly", Decimal(1), why="The end of the month", actor=alice)
    return view.budget.budget_id


def job_set(ledger: Ledger) -> int:
    """A set of which some jobs wait for the model and some for a decision, one failed, and one item has no job."""
    left_out = LeftOut()
    left_out.add(LeftOutItem(7, LeftOutReason.DUPLICATE, "its key 'ticket-1' is that of item 1"))
    spec = SetSpec("ticket", "triage/label/2026-02-02", "alice", OWNER, timedelta(hours=1))
    found = ledger.sets.open(spec, left_out)
    wanted = [job_spec(job_key=f"of-a-set-{number}", set_id=found.set_id) for number in range(6)]
    ledger.submission.open_many(wanted)
    for number, each in enumerate(wanted[:4]):
        revision = submit(ledger, each, f"resp_of_a_set_{number}")
        output = Output(ResponseStatus.COMPLETED, "Text")
        if number == 3:
            output = Output(ResponseStatus.COMPLETED, error={"kind": "mismatch"})
        ledger.outputs.store(
            revision.job_id, 1, output, actor=TEST, reason="it does not match" if number == 3 else None
        )
    return ledger.sets.opened(found.set_id, 7, left_out).set_id


def job_request(ledger: Ledger) -> str:
    """A request of bob's, whose job waits for a decision."""
    wanted = Wanted("publishing", {"slug": "teapot"}, "bob", job_key="post:teapot")
    request = ledger.job_requests.record(wanted, recorded_by="shop", per_minute=30)
    ask(ledger, draft(ledger, job_spec(job_key="post:teapot", requested_by="bob"), response_id="resp_teapot"))
    return str(request.request_id)
