"""Jobs are cancelled and rolled back by those who may decide, with a reason, and each undo is sent at most once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets import rollback_functions
from airflow_provider_aihandoff.targets.rollback_functions import rollback_function
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.web.api import schemas
from tests.factories import LEASE, OWNER, TEST, ask, draft, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page
from tests.integration.web.world import approved, cms, completed, confirm, lose, plan_of, undo_of
from tests.target import DROP, Answer, Target

WHY = {"reason": "The wrong product."}

called: list[str] = []


@rollback_function
def called_by_name(**arguments: str) -> None:
    called.append(str(arguments))


def undo_by(function: str) -> dict[str, Any]:
    """The undo that a function is, as the ledger keeps it."""
    return {"kind": "function", "plan": {"function": function, "arguments": {}}, "idempotent": False}


@pytest.fixture
def target() -> Iterator[Target]:
    with cms() as running:
        yield running


@pytest.fixture
def plans(target: Target) -> list[EffectPlan]:
    return [plan_of(target, "publish"), plan_of(target, "announce", after=("publish",))]


def send(client: TestClient, job: Job, action: str, body: dict[str, Any]) -> Any:
    return client.post(f"/aihandoff/api/v1/jobs/{job.job_id}/{action}", json=body)


def post(client: TestClient, job: Job, action: str, form: dict[str, Any]) -> Any:
    """What the form of the page sends, with its hidden fields as they are now."""
    path = f"/aihandoff/jobs/{job.job_id}"
    seen = Page(client.get(path).text).field("seen")
    return client.post(f"{path}/{action}", data={"seen": seen or "", **form})


def page_of(client: TestClient, job: Job) -> Page:
    return Page(client.get(f"/aihandoff/jobs/{job.job_id}").text)


def actions(page: Page) -> set[str]:
    return {str(form["action"]).rpartition("/")[2] for form in page.all("form")}


def requests(target: Target) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in target.received]


class TestCancel:
    @pytest.mark.parametrize("sent", [send, post])
    def test_a_cancelled_job_in_review_writes_nothing(self, login: Login, ledger: Ledger, sent: Any) -> None:
        job = ask(ledger, draft(ledger))
        bob = login("bob")
        assert "cancel" in actions(page_of(bob, job))
        assert sent(bob, job, "cancel", WHY).status_code in (200, 303)
        record = ledger.record(job.job_id)
        assert (record.job.state, record.effects[0].state) == (JobState.CANCELLED, EffectState.VOID)
        assert (record.events[-1].actor, record.events[-1].reason) == ("user:bob", "The wrong product.")
        page = page_of(bob, job)
        assert "The job was cancelled" in page.text
        assert "No external write was made." in page.text
        assert "The wrong product." in page.text
        assert page.all("form") == []

    def test_a_second_cancel_changes_nothing(self, login: Login, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        bob = login("bob")
        assert [post(bob, job, "cancel", WHY).status_code for _ in range(2)] == [303, 303]
        answer = send(bob, job, "cancel", WHY)
        assert (answer.status_code, answer.json()["job"]["state"]) == (200, "cancelled")
        assert [event.event for event in ledger.record(job.job_id).events].count("cancelled") == 1

    def test_a_running_response_is_cancelled_at_openai(
        self, login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with OpenAIStandIn(delay_seconds=60).serve() as running:
            connection = {"conn_type": "openai", "password": "sk-any", "host": running.base_url}
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
            with OpenAI(base_url=running.base_url, api_key="sk-any") as client:
                response = client.responses.create(model="gpt-5.2", input="x", background=True)
                revision = submit(ledger, job_spec(), response.id)
                job = ledger.job(revision.job_id)
                assert send(login("bob"), job, "cancel", WHY).json()["job"]["state"] == "cancelled"
                assert client.responses.retrieve(response.id).status == "cancelled"

    def test_a_cancel_waits_for_the_outcome_of_an_effect_under_way(
        self, login: Login, ledger: Ledger, plans: list[EffectPlan]
    ) -> None:
        job = approved(ledger, *plans)
        claim = ledger.effects.claim(job.job_id, plans[0], lease=LEASE, actor=TEST)
        bob = login("bob")
        answer = send(bob, job, "cancel", WHY)
        assert (answer.status_code, answer.json()["job"]["state"]) == (200, "applying")
        assert answer.json()["job"]["cancelling"] == "The wrong product."
        page = page_of(bob, job)
        assert "The job is being cancelled: effects that were not sent will not be sent." in page.text
        assert "cancel" not in actions(page)
        ledger.effects.confirm(claim, external_id="publish-1", result=None, actor=TEST)
        text = page_of(bob, job).text
        assert "The wrong product.; partly applied: 1 of 2 effects applied. Applied effects stay" in text

    def test_a_completed_job_cannot_be_cancelled_and_names_the_roll_back(
        self, login: Login, ledger: Ledger, plans: list[EffectPlan]
    ) -> None:
        job = completed(ledger, *plans)
        bob = login("bob")
        answer = send(bob, job, "cancel", WHY)
        assert (answer.status_code, answer.json()["type"]) == (409, "cannot-cancel")
        assert f"airflow aihandoff rollback {job.job_id}" in answer.json()["detail"]
        posted = post(bob, job, "cancel", WHY)
        page = Page(posted.text)
        assert posted.status_code == 409
        assert "The job was not cancelled" in page.text
        assert "This job is completed: there is nothing left to stop." in page.text
        assert "The wrong product." in page.text


class TestRollBack:
    def test_the_page_shows_every_undo_in_its_order_before_anything_starts(
        self, login: Login, ledger: Ledger, target: Target, plans: list[EffectPlan]
    ) -> None:
        job = completed(ledger, *plans)
        page = page_of(login("bob"), job)
        assert page.text.index("1. undo:announce") < page.text.index("2. undo:publish")
        assert f"http://127.0.0.1:{target.port}/publish/publish-1" in page.text
        assert actions(page) == {"rollback"}
        assert page_of(login("vic"), job).all("form") == []
        assert target.received == []

    @pytest.mark.parametrize("sent", [send, post])
    def test_all_effects_are_undone_in_reverse_order(
        self, login: Login, ledger: Ledger, target: Target, plans: list[EffectPlan], sent: Any
    ) -> None:
        job = completed(ledger, *plans)
        bob = login("bob")
        assert [sent(bob, job, "rollback", WHY).status_code for _ in range(2)] in ([200, 200], [303, 303])
        assert requests(target) == [("DELETE", "/announce/announce-1"), ("DELETE", "/publish/publish-1")]
        record = ledger.record(job.job_id)
        assert record.job.state is JobState.ROLLED_BACK
        started = next(event for event in record.events if event.event == "roll back started")
        assert (started.actor, started.reason) == ("user:bob", "The wrong product.")
        page = page_of(bob, job)
        assert "All applied effects were undone." in page.text
        assert "Applied as publish-1, and undone" in page.text
        assert page.all("form") == []

    def test_a_finished_roll_back_returns_the_job_with_nothing_unfinished(
        self, login: Login, ledger: Ledger, plans: list[EffectPlan]
    ) -> None:
        job = completed(ledger, *plans)
        answer = send(login("bob", bearer=True), job, "rollback", WHY)
        assert (answer.json()["job"]["state"], answer.json()["unfinished"]) == ("rolled_back", None)
        documented = schemas.RollBackAnswer.model_validate_json(answer.content)
        assert documented.model_dump(mode="json") == answer.json()

    @pytest.mark.parametrize(
        ("answer", "seconds", "said"),
        [
            (Answer(429, headers={"Retry-After": "120"}), 120.0, "asked for a retry after 120 s"),
            (Answer(429), None, "answered 429"),
            (Answer(403), None, "answered 403"),
            (DROP, None, "may have been applied"),
        ],
    )
    def test_a_roll_back_stops_at_the_first_wait_and_continues_when_sent_again(
        self,
        login: Login,
        ledger: Ledger,
        target: Target,
        plans: list[EffectPlan],
        answer: Answer,
        seconds: float | None,
        said: str,
    ) -> None:
        job = completed(ledger, *plans)
        target.answers = [Answer(204), answer]
        bob = login("bob")
        sent = send(bob, job, "rollback", WHY)
        assert (sent.status_code, sent.json()["job"]["state"]) == (200, "rolling_back")
        assert sent.json()["unfinished"]["retry_after"] == seconds
        assert said in sent.json()["unfinished"]["reason"]
        assert len(target.received) == 2
        page = page_of(bob, job)
        assert "The applied effects are being undone. 1 of 2 effects undone." in page.text
        assert "Continue the roll-back" in page.text
        if answer is DROP:
            unknown = ledger.record(job.job_id).undos[1]
            ledger.effects.resolve(
                unknown.effect_id, applied=False, external_id=None, actor=Actor.program("x"), why="looked"
            )
        assert send(bob, job, "rollback", WHY).json()["job"]["state"] == "rolled_back"
        assert requests(target)[2:] == [("DELETE", "/publish/publish-1")]

    def test_the_page_says_why_a_roll_back_is_not_finished(
        self, login: Login, ledger: Ledger, target: Target, plans: list[EffectPlan]
    ) -> None:
        job = completed(ledger, *plans)
        target.answers = [Answer(429, headers={"Retry-After": "120"})]
        posted = post(login("bob"), job, "rollback", WHY)
        page = Page(posted.text)
        assert posted.status_code == 200
        assert "The roll-back has started, but is not finished" in page.text
        assert "Continue in 120 s." in page.text

    def test_an_unknown_undo_is_resolved_on_the_page(self, login: Login, ledger: Ledger, target: Target) -> None:
        job = completed(ledger, plan_of(target, "publish"))
        target.answers = [DROP]
        bob = login("bob")
        post(bob, job, "rollback", WHY)
        undo = ledger.record(job.job_id).undos[0]
        page = page_of(bob, job)
        assert "The effect undo:publish may have been applied" in page.text
        assert "The effect undo:publish may have been applied" in page.text
        form = {"found": "applied", "reason": "It is gone.", "attempt": str(undo.attempt)}
        path = f"/aihandoff/jobs/{job.job_id}/effects/{undo.effect_id}/resolution"
        assert bob.post(path, data=form).status_code == 303
        assert ledger.job(job.job_id).state is JobState.ROLLED_BACK
        assert len(target.received) == 1

    def test_an_effect_without_an_undo_is_named_before_the_roll_back_starts(
        self, login: Login, ledger: Ledger, target: Target
    ) -> None:
        job = completed(ledger, plan_of(target, "publish"), plan_of(target, "mail", undo={}))
        bob = login("bob")
        page = page_of(bob, job)
        assert "No undo declared. This write can't be rolled back." in page.text
        assert "It declares no undo. Undo it by hand, and leave it out of the roll-back." in page.text
        refused = send(bob, job, "rollback", WHY)
        assert (refused.status_code, refused.json()["type"]) == (409, "cannot-roll-back")
        assert "'mail' declares no undo" in refused.json()["detail"]
        posted = post(bob, job, "rollback", WHY)
        assert posted.status_code == 409
        assert "Nothing was rolled back" in posted.text
        assert "The wrong product.</textarea>" in posted.text
        assert target.received == []
        assert post(bob, job, "rollback", {**WHY, "leave": ["mail"]}).status_code == 303
        assert requests(target) == [("DELETE", "/publish/publish-1")]
        assert "The applied effects were undone, except mail." in page_of(bob, job).text

    def test_a_roll_back_of_effects_that_the_page_did_not_show_is_refused(
        self, login: Login, ledger: Ledger, target: Target, plans: list[EffectPlan]
    ) -> None:
        job = approved(ledger, *plans)
        confirm(ledger, job, plans[0])
        bob = login("bob")
        seen = page_of(bob, job).field("seen")
        confirm(ledger, job, plans[1])
        posted = bob.post(f"/aihandoff/jobs/{job.job_id}/rollback", data={"seen": seen, **WHY})
        assert posted.status_code == 409
        assert "other effects are applied now" in Page(posted.text).text
        assert ledger.job(job.job_id).state is JobState.COMPLETED
        assert target.received == []

    def test_a_job_with_an_unknown_effect_cannot_be_rolled_back(
        self, login: Login, ledger: Ledger, target: Target, plans: list[EffectPlan]
    ) -> None:
        job = approved(ledger, *plans)
        confirm(ledger, job, plans[0])
        lose(ledger, job, plans[1])
        bob = login("bob")
        page = page_of(bob, job)
        assert "Not now: 'announce' is unknown." in page.text
        assert "rollback" not in actions(page)
        assert "'announce' is unknown" in send(bob, job, "rollback", WHY).json()["detail"]
        assert target.received == []

    def test_a_missing_connection_does_not_make_an_undo_unknown(
        self, login: Login, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = completed(ledger, plan_of(target, "publish"))
        monkeypatch.delenv("AIRFLOW_CONN_CMS")
        answer = send(login("bob"), job, "rollback", WHY)
        assert (
            "the connection 'cms' of the effect 'undo:publish' is not defined here"
            in answer.json()["unfinished"]["reason"]
        )
        assert ledger.record(job.job_id).undos[0].state is EffectState.PLANNED

    @pytest.mark.parametrize("function", ["nowhere:undo", f"{__name__}:called_by_name", "subprocess:getoutput"])
    def test_a_function_is_left_to_a_worker_and_nothing_is_imported_here(
        self, login: Login, ledger: Ledger, target: Target, function: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollback_functions, "import_module", lambda name: pytest.fail(f"imported {name}"))
        job = completed(ledger, plan_of(target, "publish", undo=undo_by(function)), plan_of(target, "announce"))
        bob = login("bob")
        said = "Trigger the Dag aihandoff_rollback with the job 1 to undo everything, or leave it out here."
        assert f"Only a worker can send undo:publish: it calls a function. {said}" in page_of(bob, job).text
        answer = send(bob, job, "rollback", WHY)
        assert (answer.status_code, answer.json()["type"]) == (409, "cannot-roll-back")
        for refused in (answer.json()["detail"], Page(post(bob, job, "rollback", WHY).text).text):
            assert "nly a worker can send 'undo:publish': it calls a function" in refused
            assert "Trigger the Dag `aihandoff_rollback` with the job 1" in refused
        assert (ledger.job(job.job_id).state, target.received, called) == (JobState.COMPLETED, [], [])
        assert post(bob, job, "rollback", {**WHY, "leave": ["publish"]}).status_code == 303
        assert ledger.job(job.job_id).state is JobState.ROLLED_BACK
        assert called == []

    def test_a_function_that_is_left_of_a_roll_back_that_has_started_is_left_to_a_worker(
        self, login: Login, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollback_functions, "import_module", lambda name: pytest.fail(f"imported {name}"))
        job = completed(ledger, plan_of(target, "publish", undo=undo_by("subprocess:getoutput")))
        ledger.roll_backs.start(job.job_id, actor=TEST, reason="no")
        bob = login("bob")
        page = page_of(bob, job)
        assert "Only a worker can send undo:publish: it calls a function." in page.text
        assert "rollback" not in actions(page)
        assert "only a worker can send" in send(bob, job, "rollback", WHY).json()["unfinished"]["reason"]

    @pytest.mark.parametrize("started", [False, True])
    def test_an_undo_that_was_changed_in_the_ledger_is_not_sent_and_the_page_says_so(
        self, login: Login, ledger: Ledger, target: Target, conninfo: dict[str, Any], started: bool
    ) -> None:
        job = completed(ledger, plan_of(target, "publish"))
        if started:
            ledger.roll_backs.start(job.job_id, actor=TEST, reason="no")
        with psycopg.connect(**conninfo) as connection:
            changed = json.dumps(undo_of(target, "others"))
            connection.execute("UPDATE aihandoff.effects SET undo = %s WHERE undoes IS NULL", [changed])
        bob = login("bob")
        said = "has an undo that is not the approved one, or was approved with another [aihandoff] digest_key"
        assert f"This write can't be rolled back: it {said}." in page_of(bob, job).text
        answer = send(bob, job, "rollback", WHY).json()
        assert said in (answer["unfinished"]["reason"] if started else answer["detail"])
        assert said in Page(post(bob, job, "rollback", WHY).text).text
        assert target.received == []

    def test_effects_left_out_of_a_roll_back_stay_left_out(self, login: Login, ledger: Ledger, target: Target) -> None:
        undo = undo_by("nowhere:undo")
        job = completed(ledger, plan_of(target, "publish", undo=undo), plan_of(target, "announce"))
        target.answers = [Answer(429)]
        bob = login("bob")
        send(bob, job, "rollback", {**WHY, "leave": ["publish"]})
        assert send(bob, job, "rollback", WHY).json()["job"]["state"] == "rolled_back"

    def test_an_undo_of_an_earlier_release_is_shown_and_not_sent(
        self, login: Login, ledger: Ledger, target: Target
    ) -> None:
        job = completed(ledger, plan_of(target, "publish", undo={"method": "DELETE", "endpoint": "/posts/1"}))
        bob = login("bob")
        assert "an earlier release kept for people to read" in page_of(bob, job).text
        assert "an earlier release kept for people to read" in send(bob, job, "rollback", WHY).json()["detail"]

    def test_a_masked_secret_is_shown_and_blocks_the_roll_back(
        self, login: Login, ledger: Ledger, target: Target
    ) -> None:
        undo = undo_of(target, "publish")
        undo["plan"]["headers"] = {"Authorization": "***"}
        job = ask(ledger, draft(ledger), plan_of(target, "publish", undo=undo))
        text = page_of(login("bob"), job).text
        assert "*** is a masked secret" in text
        assert "This write can't be rolled back: it has an undo with a masked secret" in text


def test_a_page_in_review_shows_each_undo_and_which_effect_has_none(
    login: Login, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    sales = {"conn_type": "postgres", "host": "db", "login": "shop", "password": "pw", "schema": "sales"}
    monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", json.dumps(sales))
    declared: dict[str, dict[str, Any]] = {
        "http": {"connection": "cms", "method": "DELETE", "endpoint": "/posts/{external_id}"},
        "postgres": {
            "connection": "sales_db",
            "sql": "DELETE FROM reports WHERE report_id = %(report)s",
            "parameters": {"report": "{external_id}"},
        },
        "function": {"function": f"{__name__}:called_by_name", "arguments": {"mail": "{external_id}"}},
    }
    plans = [plan_of(target, kind, undo=plan_undo(fields, kind=kind, name=kind)) for kind, fields in declared.items()]
    job = ask(ledger, draft(ledger), *plans, plan_of(target, "mail", undo={}))

    text = page_of(login("bob"), job).text

    for shown in ("/posts/{external_id}", "DELETE FROM reports WHERE report_id", f"{__name__}:called_by_name"):
        assert text.count(shown) == 1
    assert text.count("Declared undo") == 3
    assert text.count("No undo declared. This write can't be rolled back.") == 1


@pytest.mark.parametrize("action", ["cancel", "rollback"])
class TestCancelAndRollBack:
    @pytest.fixture
    def job(self, ledger: Ledger, plans: list[EffectPlan]) -> Job:
        """One that could be cancelled, and could be rolled back."""
        job = approved(ledger, *plans)
        confirm(ledger, job, plans[0])
        return ledger.job(job.job_id)

    def test_cancel_and_roll_back_need_the_permission_to_decide(
        self, login: Login, ledger: Ledger, target: Target, job: Job, action: str, grant: Grant
    ) -> None:
        grant("vic", "GET", OWNER.dag_id)
        for sent in (send, post):
            assert sent(login("vic"), job, action, WHY).status_code == 403
            assert sent(login("carol"), job, action, WHY).status_code == 404
        assert ledger.job(job.job_id) == job
        assert target.received == []

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}, {}])
    def test_another_site_cannot_make_a_browser_cancel_or_roll_back(
        self, login: Login, ledger: Ledger, target: Target, job: Job, action: str, headers: dict[str, str]
    ) -> None:
        bob = login("bob", headers=headers)
        assert [sent(bob, job, action, WHY).status_code for sent in (send, post)] == [403, 403]
        assert ledger.job(job.job_id) == job
        assert target.received == []

    @pytest.mark.parametrize("reason", ["", " \r\n", None, "x" * 10_001])
    def test_a_reason_is_required(
        self, login: Login, ledger: Ledger, job: Job, action: str, reason: str | None
    ) -> None:
        bob = login("bob")
        assert send(bob, job, action, {"reason": reason}).json()["errors"][0]["field"] == "reason"
        form = {} if reason is None else {"reason": reason}
        posted = post(bob, job, action, form)
        assert posted.status_code == 422
        assert not reason or reason.strip() in posted.text
        assert ledger.job(job.job_id) == job

    def test_a_program_cannot_name_the_actor(self, login: Login, ledger: Ledger, job: Job, action: str) -> None:
        assert send(login("bob", bearer=True), job, action, {**WHY, "actor": "eve"}).status_code == 422
        assert ledger.job(job.job_id) == job

    def test_a_get_neither_cancels_nor_rolls_back(self, login: Login, ledger: Ledger, job: Job, action: str) -> None:
        bob = login("bob")
        for path in (f"jobs/{job.job_id}/{action}", f"api/v1/jobs/{job.job_id}/{action}"):
            assert bob.get(f"/aihandoff/{path}", params=WHY).status_code == 405
        assert ledger.job(job.job_id) == job
