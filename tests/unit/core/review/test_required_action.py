"""What Airflow's Required Actions shows of a review, and what an answer there means."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.review.required_action import answer_in, options_for, required_action
from airflow_provider_aihandoff.core.review.rules import Approvers, ReviewRules
from airflow_provider_aihandoff.core.states import EffectState
from tests.unit.core.review.test_reassignment import job

LINK = "https://airflow.test/aihandoff/jobs/1"
DIGEST, OTHER = "a" * 64, "b" * 64
BOB = {"id": "7", "name": "bob"}
JOB = replace(
    job(ReviewRules()),
    job_type="publishing",
    job_key="post:kettle",
    review_digest=DIGEST,
    review_deadline=datetime(2026, 2, 2, 9, 17, tzinfo=UTC),
)


def effect(name: str, kind: str = "http", state: EffectState = EffectState.PLANNED, undoes: int | None = None) -> Any:
    return SimpleNamespace(name=name, kind=kind, state=state, undoes=undoes)


def event(*chosen: str, user: Any = BOB, **form: Any) -> dict[str, Any]:
    """How Airflow resumes a task that was answered."""
    return {"chosen_options": list(chosen), "params_input": form, "responded_by_user": user, "timedout": False}


def test_it_says_which_job_waits_where_to_review_it_and_until_when() -> None:
    asked = required_action(JOB, [effect("publish")], LINK)
    assert asked.subject == "publishing post:kettle waits for a decision"
    for part in (f"[Review it]({LINK})", "Decide by 2026-02-02 09:17 UTC.", f"`{'a' * 32}` alone"):
        assert part in asked.body
    assert asked.options == (f"Approve {'a' * 32}", f"Reject {'a' * 32}")


@pytest.mark.parametrize(
    ("effects", "sentence"),
    [
        ([], "If you approve, no external write is made."),
        ([effect("publish")], "If you approve, 1 write is sent: `publish` (`http`)."),
        (
            [effect("publish"), effect("store", "postgres"), effect("left out", state=EffectState.SKIPPED)],
            "If you approve, 2 writes are sent: `publish` (`http`), `store` (`postgres`).",
        ),
        ([effect("publish"), effect("undo:publish", undoes=3)], "If you approve, 1 write is sent:"),
        (
            [effect(f"line[{number}]") for number in range(1200)],
            "1,200 writes are sent: `line[0]` (`http`), `line[1]` (`http`), `line[2]` (`http`), `line[3]` (`http`), "
            "`line[4]` (`http`) and 1,195 more.",
        ),
    ],
)
def test_a_sentence_says_what_would_be_written(effects: list[Any], sentence: str) -> None:
    assert sentence in required_action(JOB, effects, LINK).body


def test_it_names_who_may_decide_and_why_an_answer_was_not_recorded() -> None:
    rules = ReviewRules(approvers=Approvers(users=("alice",), roles=("Editor",)))
    asked = required_action(replace(JOB, review=rules.to_json()), [], LINK, "bob: You asked for this work.")
    assert "May decide: `alice, the role Editor`." in asked.body
    assert asked.body.startswith("**An answer was not recorded:** `bob: You asked for this work.`")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("[Approve](https://evil.test)", "`publishing [Approve](https://evil.test)`"),
        ("`</code>` x", "``publishing `</code>` x``"),
        ("ends with `", "`` publishing ends with ` ``"),
        ("two\n\n# lines", r"`publishing two\n\n# lines`"),
    ],
)
def test_a_name_is_shown_as_it_is_and_is_no_markup(key: str, shown: str) -> None:
    assert shown in required_action(replace(JOB, job_key=key), [], LINK).body


@pytest.mark.parametrize(("place", "verdict"), [(0, "approve"), (1, "reject")])
def test_an_option_is_a_verdict_on_the_digest_that_it_names(place: int, verdict: str) -> None:
    answer = answer_in(event(options_for(DIGEST)[place], comment="Fine."), DIGEST)
    assert answer is not None
    assert (answer.verdict, answer.login, answer.user_id, answer.comment) == (verdict, "bob", "7", "Fine.")


@pytest.mark.parametrize(
    "chosen",
    [
        [options_for(OTHER)[0]],
        ["Approve"],
        list(options_for(DIGEST)),
        ["Approve " + DIGEST],
        ["approve " + "a" * 32],
        ["Approve " + "a" * 12],
    ],
)
def test_anything_else_is_no_verdict(chosen: list[str]) -> None:
    answer = answer_in(event(*chosen), DIGEST)
    assert answer is not None
    assert answer.verdict is None


@pytest.mark.parametrize(
    "other", [None, {}, {"job_id": 1}, {"error": "no response", "error_type": "timeout"}, event(), {"revision": 2}]
)
def test_what_resumes_a_task_otherwise_is_no_answer(other: Any) -> None:
    assert answer_in(other, DIGEST) is None


def test_an_answer_without_a_user_names_no_one_and_a_comment_has_an_end() -> None:
    answer = answer_in(event(options_for(DIGEST)[0], user=None, comment="x" * 20_000), DIGEST)
    assert answer is not None
    assert (answer.login, answer.user_id, len(answer.comment or "")) == (None, None, 10_000)
    assert getattr(answer_in(event(options_for(DIGEST)[0], comment=3), DIGEST), "comment", "") is None
