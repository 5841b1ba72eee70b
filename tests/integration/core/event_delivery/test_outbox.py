"""The outbox on a real ledger: written with the change, handed to one deliverer at a time, in order for each job."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.errors import SubscriptionNotFound, SubscriptionRefused
from airflow_provider_aihandoff.core.event_delivery import delivery_store
from airflow_provider_aihandoff.core.event_delivery.cloud_event import MAX_RESULT
from airflow_provider_aihandoff.core.event_delivery.deliver import deliver_due, deliver_round
from airflow_provider_aihandoff.core.event_delivery.delivery_store import TAKEN_AT_ONCE
from airflow_provider_aihandoff.core.event_delivery.post import Answered
from airflow_provider_aihandoff.core.event_delivery.subscription import (
    EventSubscription,
    SubscriptionState,
    WantedSubscription,
)
from airflow_provider_aihandoff.core.event_delivery.subscription_store import MAX_SUBSCRIPTIONS
from airflow_provider_aihandoff.core.job_requests.job_request import Wanted
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobEvent
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec

SECRET = f"whsec_{base64.b64encode(b's' * 32).decode()}"
ALICE = Actor.user("alice")


def subscribe(ledger: Ledger, name: str = "shop", **which: Any) -> EventSubscription:
    wanted = WantedSubscription(name, f"https://hooks.example/{name}", "shop_hook", **which)
    return ledger.event_subscriptions.subscribe(wanted, reason="to hear", actor=ALICE)


def complete(ledger: Ledger, **changes: Any) -> Job:
    job = draft(ledger, job_spec(**changes), response_id=f"resp_{changes.get('job_key', 1)}")
    approve(ledger, ask(ledger, job, effect_plan()))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="1", result={}, actor=TEST)
    return ledger.job(job.job_id)


class Receiver:
    """What a subscriber gets, and what it answers: by the key of the job."""

    def __init__(self, **answers: Answered) -> None:
        self.answers = answers
        self.got: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        event = json.loads(body)
        with self.lock:
            self.got.append({**event["data"], "url": url})
            self.ids.append(headers["webhook-id"])
        return self.answers.get(event["data"]["key"], Answered(204))

    def states(self, key: str | None = None) -> list[str]:
        return [each["state"] for each in self.got if key in (None, each["key"])]


def deliver(ledger: Ledger, receiver: Receiver) -> int:
    return deliver_due(ledger, secrets_of=lambda _: [SECRET], post=receiver)


def execute(conninfo: dict[str, Any], statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(**conninfo) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def be_due(conninfo: dict[str, Any]) -> None:
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET try_at = clock_timestamp() WHERE state = 'waiting'")
    execute(conninfo, "UPDATE aihandoff.event_subscriptions SET rest_until = NULL")


def waiting(conninfo: dict[str, Any]) -> int:
    ((count,),) = execute(conninfo, "SELECT count(*) FROM aihandoff.event_deliveries WHERE state = 'waiting'")
    return int(count)


def test_a_subscriber_hears_of_each_change_that_those_who_asked_see_in_its_order(ledger: Ledger) -> None:
    subscribe(ledger)
    job = complete(ledger)
    receiver = Receiver()
    assert deliver(ledger, receiver) == 5
    assert receiver.states() == ["queued", "working", "in review", "working", "done"]
    assert [each["seq"] for each in receiver.got] == sorted({each["seq"] for each in receiver.got})
    assert {(each["job_id"], each["type"], each["request_id"]) for each in receiver.got} == {
        (job.job_id, "publishing", None)
    }
    assert deliver(ledger, receiver) == 0


def test_steps_of_many_jobs_at_once_make_their_events_too(ledger: Ledger) -> None:
    subscribe(ledger)
    opened = ledger.submission.open_many([job_spec(job_key=f"job-{number}") for number in range(3)])
    assert len(opened) == 3
    receiver = Receiver()
    assert deliver(ledger, receiver) == 3
    assert sorted(each["key"] for each in receiver.got) == ["job-0", "job-1", "job-2"]


def test_without_a_subscription_nothing_is_written_and_no_statement_is_added(
    ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute_one = LedgerConnection.execute

    def counted(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        if query:  # a connection that was idle is asked first whether it still works
            statements.append(str(query))
        return execute_one(self, query, *args, **more)

    monkeypatch.setattr(LedgerConnection, "execute", counted)
    complete(ledger)
    assert waiting(conninfo) == 0
    without = len(statements)
    subscribe(ledger)
    statements.clear()
    complete(ledger, job_key="post:pot")
    assert waiting(conninfo) == 5
    assert len(statements) == without


@pytest.mark.parametrize(
    ("which", "states"),
    [
        ({"job_types": ["publishing"]}, ["queued", "working", "in review", "working", "done"]),
        ({"job_types": ["other", "publishing"], "states": ["done", "failed"]}, ["done"]),
        ({"states": ["in review"]}, ["in review"]),
        ({"job_types": ["other"]}, []),
    ],
)
def test_a_subscription_is_about_types_and_states(ledger: Ledger, which: dict[str, Any], states: list[str]) -> None:
    subscribe(ledger, **which)
    complete(ledger)
    receiver = Receiver()
    deliver(ledger, receiver)
    assert receiver.states() == states


def test_a_change_that_is_rolled_back_makes_no_event(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger)
    job = draft(ledger)
    before = waiting(conninfo)

    class Broken(Exception):
        pass

    def work(connection: LedgerConnection) -> None:
        history.move(connection, history.lock(connection, job.job_id), JobEvent.CANCELLED, actor=TEST, reason="no")
        raise Broken

    with pytest.raises(Broken):
        ledger._database.transact(work)
    assert waiting(conninfo) == before


def test_a_jobs_later_event_waits_for_the_earlier_one_and_those_of_other_jobs_do_not(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger)
    complete(ledger, job_key="bad")
    complete(ledger, job_key="good")
    receiver = Receiver(bad=Answered(500))
    assert deliver(ledger, receiver) == 5
    assert receiver.states("good") == ["queued", "working", "in review", "working", "done"]
    assert receiver.states("bad") == ["queued"]
    ((times, waits),) = execute(
        conninfo,
        "SELECT count(DISTINCT try_at), count(*) FROM aihandoff.event_deliveries WHERE state = 'waiting'",
    )
    assert (times, waits) == (1, 5)  # those that wait for another one are due with it
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET try_at = now() WHERE state = 'waiting' AND seq = 1")
    receiver.answers = {}
    assert deliver(ledger, receiver) == 5
    assert receiver.states("bad") == ["queued", "queued", "working", "in review", "working", "done"]
    assert receiver.ids[0] == receiver.ids[len(receiver.ids) - 5]


def test_what_fails_is_tried_later_and_not_before_the_receiver_wants_it(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger, states=["queued"])
    draft(ledger)
    receiver = Receiver(**{"post:kettle": Answered(503, 3000.0)})
    deliver(ledger, receiver)
    ((seconds, error),) = execute(
        conninfo,
        "SELECT extract(epoch FROM try_at - clock_timestamp())::float, error FROM aihandoff.event_deliveries",
    )
    assert 2900 < seconds <= 3000
    assert error == "the receiver has answered 503"
    assert deliver(ledger, receiver) == 0
    assert len(receiver.got) == 1


def test_what_was_tried_often_enough_is_given_up_and_the_next_event_goes_on(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger)
    draft(ledger)
    receiver = Receiver(**{"post:kettle": Answered(400)})
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET tries = %s WHERE seq = 1", delivery_store.MAX_TRIES - 1)
    deliver(ledger, receiver)
    (given_up,) = ledger.event_subscriptions.dead()
    assert (given_up.name, given_up.standing, given_up.error) == ("shop", "queued", "the receiver has answered 400")
    assert receiver.states() == ["queued", "working"]


def test_what_was_tried_for_three_days_is_given_up(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger, states=["queued"])
    draft(ledger)
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET first_try_at = now() - interval '3 days 1 second'")
    deliver(ledger, Receiver(**{"post:kettle": Answered(500)}))
    assert len(ledger.event_subscriptions.dead("shop")) == 1


def test_an_event_that_kills_each_deliverer_has_an_end_too(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger, states=["queued"])
    draft(ledger)
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET tries = %s", delivery_store.MAX_TRIES)
    receiver = Receiver()
    deliver(ledger, receiver)
    assert receiver.got == []
    assert [each.error for each in ledger.event_subscriptions.dead()] == ["each deliverer has died that has sent it"]


def test_what_was_given_up_is_sent_again_with_the_same_id(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger, states=["queued"])
    draft(ledger)
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET tries = %s", delivery_store.MAX_TRIES - 1)
    receiver = Receiver(**{"post:kettle": Answered(400)})
    deliver(ledger, receiver)
    assert ledger.event_subscriptions.replay("shop", reason="it is fixed", actor=ALICE) == 1
    receiver.answers = {}
    assert deliver(ledger, receiver) == 1
    assert len(set(receiver.ids)) == 1
    assert ledger.event_subscriptions.dead() == []
    # What was delivered is sent again only where it is named.
    assert ledger.event_subscriptions.replay("shop", reason="again", actor=ALICE) == 0
    ((delivery_id,),) = execute(conninfo, "SELECT delivery_id FROM aihandoff.event_deliveries")
    assert ledger.event_subscriptions.replay("shop", [delivery_id], reason="again", actor=ALICE) == 1
    assert deliver(ledger, receiver) == 1
    with pytest.raises(SubscriptionNotFound):
        ledger.event_subscriptions.replay("other", reason="again", actor=ALICE)


def test_gone_disables_the_subscription_and_what_waits_is_sent_once_it_is_active_again(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger)
    draft(ledger)
    receiver = Receiver(**{"post:kettle": Answered(410)})
    assert deliver(ledger, receiver) == 0
    view = ledger.event_subscriptions.read("shop")
    assert (view.subscription.state, view.dead) == (SubscriptionState.DISABLED, 1)
    left = view.waiting
    draft(ledger, job_spec(job_key="post:pot"), response_id="resp_2")
    assert (ledger.event_subscriptions.read("shop").waiting, len(receiver.got)) == (left, 1)
    receiver.answers = {}
    assert deliver(ledger, receiver) == 0
    assert subscribe(ledger).state is SubscriptionState.ACTIVE
    assert deliver(ledger, receiver) == left
    changes = ledger.event_subscriptions.changes(view.subscription.subscription_id)
    assert [(each.change, each.by.label) for each in changes] == [
        ("changed", "alice"),
        ("disabled", "the receiver"),
        ("subscribed", "alice"),
    ]


def test_what_the_address_before_answers_says_nothing_of_the_new_one(ledger: Ledger) -> None:
    subscribe(ledger)
    draft(ledger)
    taken = ledger.outbox.take()
    assert taken is not None
    moved = WantedSubscription("shop", "https://hooks.example/moved", "shop_hook")
    ledger.event_subscriptions.subscribe(moved, reason="it has moved", actor=ALICE)
    assert not ledger.outbox.delivered(taken, taken.events[0])
    assert not ledger.outbox.gone(taken, taken.events[0])
    view = ledger.event_subscriptions.read("shop")
    assert (view.subscription.state, view.waiting) == (SubscriptionState.ACTIVE, 3)


def test_two_deliverers_never_have_the_same_subscription(ledger: Ledger) -> None:
    subscribe(ledger)
    subscribe(ledger, "other")
    draft(ledger)
    first, second = ledger.outbox.take(), ledger.outbox.take()
    assert first is not None
    assert second is not None
    assert {first.subscription.name, second.subscription.name} == {"shop", "other"}
    draft(ledger, job_spec(job_key="post:pot"), response_id="resp_2")
    assert ledger.outbox.take() is None


def test_what_a_deliverer_records_after_its_lease_is_anothers_changes_nothing(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger)
    draft(ledger)
    slow = ledger.outbox.take(lease_seconds=0.0)
    assert slow is not None
    next_one = ledger.outbox.take()
    assert next_one is not None
    assert [event.delivery_id for event in next_one.events] == [event.delivery_id for event in slow.events]
    (event,) = slow.events
    assert not ledger.outbox.delivered(slow, event)
    assert not ledger.outbox.failed(slow, event, "no answer")
    assert not ledger.outbox.gone(slow, event)
    ledger.outbox.end(slow, [event], all_failed=True, some_delivered=False)
    subscription = ledger.event_subscriptions.read("shop").subscription
    assert subscription.lease_token == next_one.subscription.lease_token
    assert (subscription.state, subscription.failures) == (SubscriptionState.ACTIVE, 0)
    assert ledger.outbox.delivered(next_one, event)


def test_a_deliverer_that_dies_loses_nothing_and_repeats_with_the_same_id(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger)
    complete(ledger)

    class Died(BaseException):
        pass

    class Dying(Receiver):
        def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
            super().__call__(url, headers, body)
            raise Died

    dying, receiver = Dying(), Receiver()
    with pytest.raises(Died):
        deliver_round(ledger, secrets_of=lambda _: [SECRET], post=dying, lease_seconds=1.0)
    execute(conninfo, "UPDATE aihandoff.event_subscriptions SET lease_until = clock_timestamp()")
    be_due(conninfo)
    assert deliver(ledger, receiver) == 5
    assert receiver.states() == ["queued", "working", "in review", "working", "done"]
    assert receiver.ids[0] == dying.ids[0]


def test_many_jobs_reach_many_subscribers_in_order_with_many_deliverers(ledger: Ledger) -> None:
    names = ["one", "two", "three"]
    for name in names:
        subscribe(ledger, name)
    for number in range(2 * TAKEN_AT_ONCE):
        draft(ledger, job_spec(job_key=f"job-{number}"), response_id=f"resp_{number}")
    receiver = Receiver()
    with ThreadPoolExecutor(4) as pool:
        delivered = sum(pool.map(lambda _: deliver(ledger, receiver), range(4)))
    assert delivered == len(receiver.got) == len(names) * 2 * TAKEN_AT_ONCE * 3
    for name in names:
        for number in range(2 * TAKEN_AT_ONCE):
            heard = [
                each["state"]
                for each in receiver.got
                if (each["key"], each["url"]) == (f"job-{number}", f"https://hooks.example/{name}")
            ]
            assert heard == ["queued", "working", "in review"]


def test_where_everything_fails_the_receiver_is_left_alone_for_a_while(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    subscribe(ledger, states=["queued"])
    for number in range(TAKEN_AT_ONCE):
        draft(ledger, job_spec(job_key=f"job-{number}"), response_id=f"resp_{number}")
    receiver = Receiver(**{f"job-{number}": Answered(502) for number in range(TAKEN_AT_ONCE)})
    assert deliver(ledger, receiver) == 0
    subscription = ledger.event_subscriptions.read("shop").subscription
    assert (subscription.failures, subscription.rest_until is not None) == (1, True)
    assert len(receiver.got) < TAKEN_AT_ONCE
    ((sent,),) = execute(conninfo, "SELECT count(*) FROM aihandoff.event_deliveries WHERE tries > 0")
    assert sent == len(receiver.got)
    be_due(conninfo)
    receiver.answers = {}
    assert deliver(ledger, receiver) == TAKEN_AT_ONCE
    assert ledger.event_subscriptions.read("shop").subscription.failures == 0


def test_a_request_that_ends_without_a_job_makes_an_event_too(ledger: Ledger) -> None:
    subscribe(ledger, job_types=["note"])
    for key in ("refused", "cancelled"):
        wanted = Wanted("note", {"slug": key}, "alice", job_key=key)
        request = ledger.job_requests.record(wanted, recorded_by="alice", per_minute=30)
        if key == "refused":
            ledger.job_requests.refuse(request, "no such slug")
        else:
            ledger.job_requests.cancel(request.request_id, actor=ALICE)
    receiver = Receiver()
    assert deliver(ledger, receiver) == 2
    assert {(each["key"], each["state"], each["job_id"], each["seq"]) for each in receiver.got} == {
        ("refused", "failed", None, 0),
        ("cancelled", "stopped", None, 0),
    }
    assert all(each["request_id"] for each in receiver.got)


@pytest.mark.parametrize(("shows", "output"), [(True, {"title": "Kettle"}), (False, {"title": "Kettle"})])
def test_the_event_that_a_job_is_done_has_its_output_only_where_its_author_says_so(
    ledger: Ledger, shows: bool, output: Any
) -> None:
    subscribe(ledger)
    wanted = Wanted("publishing", {"slug": "kettle"}, "alice", job_key="post:kettle")
    request = ledger.job_requests.record(wanted, recorded_by="alice", per_minute=30)
    ledger.job_requests.started(request, dag_id="notes", events_show_result=shows)
    job = draft(ledger, output=output)
    approve(ledger, ask(ledger, job, effect_plan()))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="1", result={}, actor=TEST)
    receiver = Receiver()
    deliver(ledger, receiver)
    assert {each["request_id"] for each in receiver.got} == {str(request.request_id)}
    assert [each.get("result") for each in receiver.got if each["state"] == "done"] == [output if shows else None]
    assert [each["state"] for each in receiver.got if "result" in each] == (["done"] if shows else [])


def test_an_output_that_is_too_large_is_left_out(ledger: Ledger) -> None:
    subscribe(ledger, states=["done"])
    wanted = Wanted("publishing", {"slug": "kettle"}, "alice", job_key="post:kettle")
    request = ledger.job_requests.record(wanted, recorded_by="alice", per_minute=30)
    ledger.job_requests.started(request, dag_id="notes", events_show_result=True)
    job = draft(ledger, output="x" * MAX_RESULT)
    approve(ledger, ask(ledger, job, effect_plan()))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="1", result={}, actor=TEST)
    receiver = Receiver()
    deliver(ledger, receiver)
    assert [(each["result"], each["result_left_out"]) for each in receiver.got] == [(None, True)]


def test_what_is_old_is_removed_and_what_still_has_to_be_sent_is_not(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger)
    complete(ledger)
    receiver = Receiver()
    deliver(ledger, receiver)
    draft(ledger, job_spec(job_key="post:pot"), response_id="resp_2")
    left = waiting(conninfo)
    assert ledger.outbox.remove_old() == 0
    execute(
        conninfo,
        "UPDATE aihandoff.event_deliveries SET at = at - interval '100 days', "
        "settled_at = settled_at - interval '7 days 1 minute'",
    )
    assert ledger.outbox.remove_old() == 5
    assert (waiting(conninfo), ledger.outbox.remove_old()) == (left, 0)


def test_a_subscription_that_ends_leaves_nothing_to_send(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    subscribe(ledger)
    draft(ledger)
    assert ledger.event_subscriptions.end("shop", reason="enough", actor=ALICE) == waiting(conninfo) + 3
    draft(ledger, job_spec(job_key="post:pot"), response_id="resp_2")
    assert waiting(conninfo) == 0
    assert ledger.event_subscriptions.find() == []
    with pytest.raises(SubscriptionNotFound):
        ledger.event_subscriptions.read("shop")
    assert subscribe(ledger).subscription_id == 2


def test_a_subscription_needs_a_reason_and_there_are_only_so_many(ledger: Ledger) -> None:
    wanted = WantedSubscription("shop", "https://hooks.example/", "shop_hook")
    with pytest.raises(SubscriptionRefused, match="reason"):
        ledger.event_subscriptions.subscribe(wanted, reason=" ", actor=ALICE)
    for number in range(MAX_SUBSCRIPTIONS):
        subscribe(ledger, f"shop-{number}")
    with pytest.raises(SubscriptionRefused, match="as many"):
        subscribe(ledger, "one more")
    assert subscribe(ledger, "shop-0", states=["done"]).states == ["done"]


def test_the_gauges_have_the_oldest_event_and_those_that_were_given_up(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    assert ledger.gauges.read([]).since["event"] is None
    subscribe(ledger)
    draft(ledger)
    found = ledger.gauges.read([])
    since = found.since["event"]
    assert since is not None
    assert found.at - since < timedelta(minutes=5)
    execute(conninfo, "UPDATE aihandoff.event_deliveries SET state = 'dead', settled_at = now()")
    assert ledger.gauges.read([]).dead_events == 3
