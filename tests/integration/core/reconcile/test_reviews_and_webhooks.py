"""Reviews that have expired, and webhooks that could not be correlated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.errors import WebhookSettled
from airflow_provider_aihandoff.core.reconcile import findings
from airflow_provider_aihandoff.core.states import Disposition
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import TEST, approve, ask, draft
from tests.integration.core.reconcile.world import World, kinds


class TestReviews:
    @pytest.mark.parametrize(("on_timeout", "state"), [("reject", "rejected"), ("fail", "failed")])
    def test_an_expired_review_ends_as_its_author_configured(self, world: World, on_timeout: Any, state: str) -> None:
        job = world.in_review(on_timeout=on_timeout)
        assert kinds(world.reconcile()) == ["review over"]
        assert (world.state(job), world.ledger.job(job.job_id).state_reason) == (state, "no one decided in time")
        assert len(world.events(job, "timeout")) == 1
        assert world.reconcile() == []

    def test_a_review_from_an_older_release_is_left_to_its_task(self, world: World) -> None:
        job = world.in_review(on_timeout=None)
        before = world.dump()
        (finding,) = world.reconcile()
        assert "clear its approval task" in finding.step
        assert (finding.done, world.dump(), world.state(job)) == (None, before, "review")

    def test_the_task_of_an_expired_review_comes_first(self, world: World) -> None:
        job = world.in_review(since=50)
        assert world.reconcile() == []
        assert world.state(job) == "review"

    def test_a_review_before_its_deadline_is_left(self, world: World) -> None:
        ask(world.ledger, draft(world.ledger))
        assert world.reconcile() == []

    def test_a_review_that_is_asked_for_again_before_the_step_is_left(self, world: World) -> None:
        first, second = world.in_review("r1"), world.in_review("r2")
        ended = world.ledger.reviews.expire

        def expire(job_id: int, **arguments: Any) -> Any:
            if job_id == first.job_id:
                world.ledger.reviews.ask(
                    second.job_id, [], policy=None, deadline=datetime.now(UTC) + timedelta(hours=1), actor=TEST
                )
            return ended(job_id, **arguments)

        world.ledger.reviews.expire = expire  # type: ignore[method-assign]
        found = world.reconcile()
        assert [finding.done for finding in found] == ["the job is rejected", findings.MOVED_ON]
        assert world.state(second) == "review"

    def test_a_review_of_another_digest_has_a_deadline_of_its_own(self, world: World) -> None:
        job = approve(world.ledger, ask(world.ledger, draft(world.ledger)))
        asked = world.ledger.reviews.ask(
            job.job_id, [], policy=None, deadline=datetime.now(UTC), actor=TEST, on_timeout="fail"
        )
        assert (asked.state.value, asked.review_on_timeout) == ("review", "fail")


class TestWebhooks:
    def test_openai_is_asked_about_those_that_are_due(self, world: World) -> None:
        world.webhook("wh_1", world.created("delay=0"))
        (finding,) = world.reconcile()
        assert (finding.kind, finding.webhook_id) == ("webhook due", "wh_1")
        assert "foreign" in str(finding.done)
        assert world.ledger.inbox.read("wh_1").disposition is Disposition.FOREIGN

    def test_a_webhook_about_which_openai_is_no_longer_asked_is_left_to_a_person(self, world: World) -> None:
        world.webhook("wh_1", None)
        before = world.dump()
        (finding,) = world.reconcile()
        assert (finding.kind, finding.done) == ("webhook unexplained", None)
        assert world.dump() == before

    def test_a_safety_notice_is_left_to_a_person_until_it_is_discarded(self, world: World) -> None:
        world.ledger.inbox.receive(
            Delivery("wh_1", "openai_default", "safety.warning_issued", "C-abc123", {"type": "safety.warning_issued"})
        )
        (finding,) = world.reconcile()
        assert (finding.kind, finding.done) == ("safety notice", None)
        assert "C-abc123" in finding.found
        assert "act on it at OpenAI" in finding.step
        with pytest.raises(WebhookSettled):
            world.ledger.inbox.replay("wh_1", actor=TEST)
        assert world.ledger.inbox.read("wh_1").poll_at is None  # no one asks OpenAI for a response of that id
        world.ledger.inbox.discard("wh_1", actor=TEST, why="the user is known")
        assert world.reconcile() == []

    def test_a_webhook_whose_response_is_known_by_now_is_given_to_its_job(self, world: World) -> None:
        """The protocol has no way there."""
        world.webhook("wh_1", "resp_other")
        job = world.running()
        response_id = world.ledger.revision(job.job_id, 1).response_id
        world.sql("UPDATE aihandoff.inbox SET response_id = %s, poll_at = NULL", response_id)

        assert kinds(world.reconcile())[0] == "webhook matched"
        entry = world.ledger.inbox.read("wh_1")
        assert (entry.disposition, entry.job_id) == (Disposition.APPLIED, job.job_id)

    def test_a_removed_connection_is_recorded_and_blocks_no_other(self, world: World) -> None:
        world.webhook("wh_1", "resp_1", conn_id="removed")
        world.webhook("wh_2", "resp_2")
        found = world.reconcile()
        assert [(finding.webhook_id, finding.failed) for finding in found] == [("wh_1", True), ("wh_2", False)]
        entry = world.ledger.inbox.read("wh_1")
        assert (entry.polls, entry.poll_at is not None) == (1, True)
        assert "removed" in str(entry.note)

    def test_old_ones_are_removed_except_those_in_quarantine(self, world: World) -> None:
        job = world.running(words="delay=0")
        world.webhook("wh_1", world.ledger.revision(job.job_id, 1).response_id)
        world.webhook("wh_2", None)
        world.sql("UPDATE aihandoff.inbox SET received_at = clock_timestamp() - interval '31 days'")
        world.webhook("wh_3", "resp_new")
        world.sql("UPDATE aihandoff.inbox SET poll_at = NULL")

        (finding,) = [found for found in world.reconcile() if found.kind == "old webhooks"]

        assert (finding.found.split()[0], finding.done) == ("1", "removed 1")
        assert {entry.webhook_id for entry in world.ledger.inbox.entries()} == {"wh_2", "wh_3"}

    def test_no_webhook_is_removed_that_could_be_delivered_again(self, world: World) -> None:
        world.webhook("wh_1", "resp_1")
        world.sql(
            "UPDATE aihandoff.inbox SET received_at = received_at - interval '95 hours', poll_at = NULL, "
            "disposition = 'foreign'"
        )
        (finding,) = world.reconcile(inbox_retention=timedelta(hours=95) - timedelta(minutes=1))
        assert finding.failed
        assert "4 days" in str(finding.done)
        assert world.ledger.inbox.read("wh_1")
