"""E-mails as effects: exactly the approved one, at most once, and left to a person where its outcome is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.effect_store import Effects
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, Policy
from tests.mail import AnsweringMailbox, mail_server
from tests.target import Target

Record = Callable[[], JobRecord]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringMailbox]:
    server = AnsweringMailbox()
    with mail_server(server) as connection:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", connection)
        yield server


def announce(**arguments: Any) -> EmailSideEffectOperator:
    """A task that sends the note of the first job."""
    defaults: dict[str, Any] = {
        "to": ["Ann <ann@example.com>"],
        "bcc": "archive@example.com",
        "subject": "{{ job.output.title }}",
        "text": "{{ job.output.body }}",
        "hold_timeout": timedelta(0),
    }
    return EmailSideEffectOperator(task_id="announce", job=1, **{**defaults, **arguments})


@pytest.mark.usefixtures("review")
def test_the_mail_that_is_sent_is_the_one_that_was_approved(
    run: RunDag, record: Record, server: AnsweringMailbox
) -> None:
    policy = Policy()

    def define() -> None:
        ApprovalSensor(task_id="approve", job=1, policy=policy) >> announce()

    done = run(define)

    (mail,) = server.mails
    (effect,) = record().current_effects
    ((_, (plan,)),) = policy.asked
    assert plan == effect.plan
    assert (plan["to"], plan["bcc"], plan["text"]) == (["Ann <ann@example.com>"], ["archive@example.com"], NOTE["body"])
    assert (mail["To"], mail["Subject"], mail["Bcc"]) == ("Ann <ann@example.com>", "Kettle", None)
    assert server.recipients == [["ann@example.com", "archive@example.com"]]
    assert (effect.kind, effect.state) == ("email", EffectState.APPLIED)
    assert effect.external_id == mail["Message-ID"] == f"<{effect.effect_key}@example.com>"
    assert done.xcoms["announce"]["external_id"] == effect.external_id
    assert record().job.state is JobState.COMPLETED


@pytest.mark.usefixtures("accepted")
class TestAtMostOnce:
    def test_a_cleared_run_sends_no_second_mail(self, dags: Dags, server: AnsweringMailbox) -> None:
        dag = dags.make(announce)
        first = dags.run(dag)
        again = dags.run(dag, again=first)
        assert again.xcoms["announce"] == first.xcoms["announce"]
        assert len(server.mails) == 1

    def test_a_connection_that_breaks_after_the_mail_leaves_it_to_a_person(
        self, dags: Dags, record: Record, server: AnsweringMailbox
    ) -> None:
        server.cut = "DATA"
        dag = dags.make(announce)
        done = dags.run(dag)
        (effect,) = record().current_effects
        assert (done.states["announce"], effect.state) == ("failed", EffectState.UNKNOWN)
        assert "the connection broke after the mail was sent" in done.error("announce")

        server.cut = ""
        again = dags.run(dag, again=done)

        assert (again.states["announce"], len(server.mails)) == ("failed", 1)

    @pytest.mark.usefixtures("short_claims")
    def test_an_attempt_that_was_killed_before_its_result_leaves_the_mail_to_a_person(
        self, run: RunDag, record: Record, server: AnsweringMailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def confirm(self: Effects, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("killed")

        monkeypatch.setattr(Effects, "confirm", confirm)

        done = run(announce)

        assert (done.states["announce"], record().current_effects[0].state) == ("failed", EffectState.UNKNOWN)
        assert len(server.mails) == 1

    def test_a_mail_server_that_is_unavailable_gets_the_mail_with_the_retry(
        self, run: RunDag, record: Record, server: AnsweringMailbox
    ) -> None:
        server.at_recipient = {"archive@example.com": "450 busy"}

        def first(context: Any) -> None:
            server.at_recipient = {}

        done = run(lambda: announce(on_retry_callback=first))

        assert (done.states["announce"], done.tries["announce"], len(server.mails)) == ("success", 2, 1)
        assert record().current_effects[0].attempt == 2

    def test_a_server_that_refuses_a_recipient_fails_the_task_without_a_retry(
        self, run: RunDag, record: Record, server: AnsweringMailbox
    ) -> None:
        server.at_recipient = {"archive@example.com": "550 no such user"}

        done = run(announce)

        assert (done.states["announce"], done.tries["announce"], server.mails) == ("failed", 1, [])
        assert record().current_effects[0].state is EffectState.REFUSED

    def test_a_line_break_in_what_the_model_wrote_does_not_become_a_header(
        self, run: RunDag, record: Record, server: AnsweringMailbox
    ) -> None:
        done = run(lambda: announce(subject="{{ job.output.body }}"))

        assert "`subject` of the effect 'announce' has a line break" in done.error("announce")
        assert (done.tries["announce"], record().effects, server.mails) == (1, [], [])

    def test_a_mail_is_undone_by_another_kind_of_target_where_its_author_says_so(
        self, run: RunDag, record: Record, server: AnsweringMailbox, target: Target
    ) -> None:
        recall = {"kind": "http", "connection": "cms", "method": "POST", "endpoint": "/recalls/{external_id}"}
        run(lambda: announce(undo=recall))
        (effect,) = record().current_effects
        assert effect.undo is not None
        assert (effect.undo["kind"], effect.undo["plan"]["method"]) == ("http", "POST")

        done = run(lambda: announce(undo={"endpoint": "/recalls"}))

        assert "has the kind 'email', which cannot undo anything" in done.error("announce")
