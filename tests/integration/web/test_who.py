"""The rules of a job's author: who decides, how many have to, and that the page says why one may not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Column, ForeignKey, Integer, String, create_engine
from sqlalchemy.orm import Session, declarative_base, relationship
from sqlalchemy.pool import StaticPool

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web import auth, event_stream
from airflow_provider_aihandoff.web.auth import Viewer
from tests.factories import ask, draft, effect_plan, job_spec
from tests.integration.web.conftest import Login, Page


def _job(ledger: Ledger, requested_by: str = "alice", triggered_by: str | None = None, **rules: Any) -> Job:
    spec = job_spec(requested_by=requested_by, triggered_by=triggered_by)
    return ask(ledger, draft(ledger, spec), rules=ReviewRules(**rules))


def _post(client: TestClient, job: Job, verdict: str = "approve", comment: str = "Words.") -> Any:
    form = {"verdict": verdict, "digest": str(job.review_digest), "comment": comment}
    return client.post(f"/aihandoff/jobs/{job.job_id}/decision", data=form)


def _show(client: TestClient, job: Job) -> Page:
    return Page(client.get(f"/aihandoff/jobs/{job.job_id}").text)


def _refused(client: TestClient, job: Job, why: str) -> None:
    page = _show(client, job)
    assert why in page.text
    assert "approve" not in page.buttons
    answer = _post(client, job)
    assert answer.status_code == 403
    assert why in answer.text
    assert "Words." in answer.text
    record = client.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()
    assert (record["may_decide"], record["why_not"], record["decisions"]) == (False, why, [])


@pytest.mark.parametrize("username", ["bob", "admin"])
@pytest.mark.parametrize("asked", ["requested_by", "triggered_by"])
def test_the_requester_cannot_decide_even_as_an_admin(login: Login, ledger: Ledger, username: str, asked: str) -> None:
    job = _job(ledger, **{asked: username})
    _refused(login(username), job, "You asked for this work; another user has to decide on it.")
    assert _post(login("carol"), job).status_code == 303


def test_the_requester_decides_if_the_author_allows_it(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, "bob", requester_may_approve=True)
    assert _post(login("bob"), job).status_code == 303
    assert ledger.job(job.job_id).state is JobState.APPROVED


def test_the_requester_may_still_cancel(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, "bob")
    bob = login("bob")
    assert [form["action"] for form in _show(bob, job).all("form")] == [f"/aihandoff/jobs/{job.job_id}/cancel"]
    assert bob.post(f"/aihandoff/jobs/{job.job_id}/cancel", data={"reason": "Not needed."}).status_code == 303
    assert ledger.job(job.job_id).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("approvers", "may", "may_not"),
    [
        (Approvers(users=("bob",)), "bob", "carol"),
        (Approvers(users=("carol",)), "carol", "admin"),
        (Approvers(roles=("admin",)), "admin", "bob"),
    ],
)
def test_only_approvers_named_by_the_author_decide(
    login: Login, ledger: Ledger, approvers: Approvers, may: str, may_not: str
) -> None:
    job = _job(ledger, approvers=approvers)
    _refused(login(may_not), job, f"Only these may decide on it: {approvers}.")
    assert f"Approvers: {approvers}." in _show(login(may_not), job).text
    assert _post(login(may), job).status_code == 303


def test_a_named_approver_without_the_permission_cannot_decide(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvers=Approvers(users=("vic",)))
    _refused(
        login("vic"),
        job,
        "You can see this job, but you cannot decide on it. You need permission to answer human-in-the-loop tasks of "
        "the Dag publishing.",
    )


def test_two_approvals_are_needed_where_the_author_says_so(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2)
    bob, carol = login("bob"), login("carol")
    assert "0 of 2 approvals so far" in _show(carol, job).text
    assert [_post(bob, job).status_code for _ in range(2)] == [303, 303]  # a double click is one vote
    page = _show(bob, job)
    assert "1 of 2 approvals so far, by you." in page.text
    assert page.buttons[:2] == ["reject", "request changes"]
    assert "1 of 2 approvals so far, by bob." in _show(carol, job).text
    assert ledger.job(job.job_id).state is JobState.REVIEW
    assert "You approved" in Page(bob.get("/aihandoff/").text).text
    assert bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["votes"] == ["bob"]
    assert _post(carol, job).status_code == 303
    assert ledger.job(job.job_id).state is JobState.APPROVED


def test_who_has_not_voted_does_not_see_how_others_have_where_the_author_wants_blind_readers(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "LIFETIME", 0.2)
    monkeypatch.setattr(event_stream, "HEARTBEAT", 0.05)
    job = _job(ledger, approvals=2, blind=True)
    bob, carol, vic = login("bob"), login("carol"), login("vic")
    api = f"/aihandoff/api/v1/jobs/{job.job_id}"
    assert _post(bob, job, comment="Fine, I think.").status_code == 303
    for client in (carol, vic):
        page = _show(client, job)
        assert "2 people have to approve. Each reads it alone" in page.text
        assert "approvals so far" not in page.text
        assert "bob" not in page.text
        assert "Fine, I think." not in page.text
        assert "The history of this job is broken" not in page.text
        record = client.get(api).json()
        assert (record["votes"], record["decisions"]) == ([], [])
        assert "vote counted" not in {event["event"] for event in record["events"]}
        stream = client.get(f"{api}/stream").text
        assert "event: planned" in stream
        assert "vote counted" not in stream
        (queued,) = client.get("/aihandoff/api/v1/reviews").json()["reviews"]
        assert queued["votes"] == []
        assert "approvals" not in Page(client.get("/aihandoff/").text).text
    assert "1 of 2 approvals so far, by you." in _show(bob, job).text
    assert bob.get("/aihandoff/api/v1/reviews").json()["reviews"][0]["votes"] == ["bob"]
    assert _post(carol, job).status_code == 303
    for client in (bob, carol, vic):
        record = client.get(api).json()
        assert [decision["decided_by"] for decision in record["decisions"]] == ["bob", "carol"]
        assert "vote counted" in {event["event"] for event in record["events"]}
        assert "vote counted" in client.get(f"{api}/stream").text


def test_an_approval_is_bound_to_whether_its_readers_were_blind(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2, blind=True)
    _post(login("bob"), job)
    asked = ask(ledger, job, rules=ReviewRules(approvals=2))
    assert asked.review_digest != job.review_digest
    assert "0 of 2 approvals so far" in _show(login("carol"), job).text


def test_one_rejection_is_enough(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2)
    _post(login("bob"), job)
    _post(login("carol"), job, "reject")
    assert ledger.job(job.job_id).state is JobState.REJECTED


def test_a_changed_plan_voids_earlier_approvals(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2)
    _post(login("bob"), job)
    ask(ledger, job, effect_plan("announce"), rules=ReviewRules(approvals=2))
    assert "0 of 2 approvals so far" in _show(login("bob"), job).text


def test_a_vote_stays_void_when_the_plan_is_changed_back(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2)
    bob = login("bob")
    _post(bob, job)
    ask(ledger, job, effect_plan("announce"), rules=ReviewRules(approvals=2))
    assert ask(ledger, job, rules=ReviewRules(approvals=2)).review_digest == job.review_digest
    page = _show(bob, job)
    assert "0 of 2 approvals so far." in page.text
    assert page.buttons[:3] == ["approve", "reject", "request changes"]
    assert bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["votes"] == []


def test_a_person_who_approved_at_a_terminal_has_approved_on_the_page_too(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, approvals=2)
    digest = str(job.review_digest)
    ledger.reviews.decide(job.job_id, "approve", digest=digest, person=Person("bob", at_terminal=True))
    page = _show(login("bob"), job)
    assert "1 of 2 approvals so far, by you." in page.text
    assert page.buttons[:2] == ["reject", "request changes"]


def test_the_page_shows_the_reason_for_the_review(login: Login, ledger: Ledger) -> None:
    job = _job(ledger, because={"policy": "prices@3", "reason": "the price <b> is above 40"})
    assert "Reason for review: the price <b> is above 40 (policy prices@3)" in _show(login("bob"), job).text


class TestRequestChanges:
    def test_the_comment_of_requested_changes_goes_to_the_model(self, login: Login, ledger: Ledger) -> None:
        job = _job(ledger)
        bob = login("bob")
        assert _post(bob, job, "request changes", "Shorter,\r\nplease.").status_code == 303
        page = _show(bob, job)
        assert "Shorter,\nplease." in page.text
        assert "Changes requested by you" in page.text
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.changes) == (JobState.QUEUED, "Shorter,\nplease.")

    def test_requested_changes_need_a_comment(self, login: Login, ledger: Ledger) -> None:
        job = _job(ledger)
        answer = _post(login("bob"), job, "request changes", " ")
        assert answer.status_code == 409
        assert "Changes were not requested" in answer.text
        assert ledger.job(job.job_id).state is JobState.REVIEW

    def test_a_refused_request_for_changes_names_the_limit_and_keeps_the_comment(
        self, login: Login, ledger: Ledger
    ) -> None:
        job = ask(ledger, draft(ledger, job_spec(max_revisions=1)))
        answer = _post(login("bob"), job, "request changes", "Shorter.")
        assert answer.status_code == 409
        assert "The model has made 1 of 1 revisions" in answer.text
        assert Page(answer.text).form["comment"] == "Shorter."
        path = f"/aihandoff/api/v1/jobs/{job.job_id}/decisions"
        body = {"verdict": "request changes", "digest": job.review_digest, "comment": "Shorter."}
        assert login("bob").post(path, json=body).json()["type"] == "cannot-change"

    def test_an_old_page_cannot_approve_after_changes_were_requested(self, login: Login, ledger: Ledger) -> None:
        job = _job(ledger)
        _post(login("bob"), job, "request changes", "Shorter.")
        answer = _post(login("carol"), job)
        assert answer.status_code == 409
        assert ledger.job(job.job_id).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("user", "roles", "groups"),
    [
        ({"role": "admin", "teams": ["red"]}, {"admin"}, {"red"}),
        ({"role": None}, set(), set()),
        (
            {"roles": [SimpleNamespace(name="Op")], "groups": [SimpleNamespace(name="editors")]},
            {"Op"},
            {"editors"},
        ),
        ({"get_groups": lambda: ["aws-editors"]}, set(), {"aws-editors"}),
        ({"get_groups": lambda: None}, set(), set()),
        ({"roles": None, "groups": None}, set(), set()),
    ],
)
def test_roles_and_groups_come_from_the_auth_manager(user: dict[str, Any], roles: set[str], groups: set[str]) -> None:
    person = Viewer(SimpleNamespace(get_name=lambda: "bob", get_id=lambda: "7", **user)).person
    assert (person.actor.label, person.names) == ("bob (7)", frozenset({"bob", "7"}))
    assert (person.roles, person.groups) == (frozenset(roles), frozenset(groups))


#: In the way that SQLAlchemy 1.4 knows as well, which Airflow 3.1 has.
_Table: Any = declarative_base()


class _Role(_Table):  # type: ignore[misc]
    __tablename__ = "role"
    id = Column(Integer, primary_key=True)
    name = Column(String)
    group_id = Column(Integer, ForeignKey("team.id"))


class _Group(_Table):  # type: ignore[misc]
    __tablename__ = "team"
    id = Column(Integer, primary_key=True)
    name = Column(String)
    user_id = Column(Integer, ForeignKey("person.id"))
    roles = relationship(_Role)


class _User(_Table):  # type: ignore[misc]
    """As the FAB auth manager has them."""

    __tablename__ = "person"
    id = Column(Integer, primary_key=True)
    groups = relationship(_Group)

    def get_name(self) -> str:
        return "bob"

    def get_id(self) -> str:
        return str(self.id)


def test_groups_and_roles_are_read_for_a_user_without_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    _Table.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(_User(id=7, groups=[_Group(name="editors", roles=[_Role(name="Op")])]))
        session.commit()
        user = session.get(_User, 7)
    monkeypatch.setattr(auth, "create_session", lambda: Session(engine))
    person = Viewer(user).person
    assert person.actor.label == "bob (7)"
    assert (person.roles, person.groups) == (frozenset({"Op"}), frozenset({"editors"}))
