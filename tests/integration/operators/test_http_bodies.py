"""Bodies that are not JSON: forms, texts and files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.targets import http_body
from tests.factories import draft
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, Policy, publish
from tests.target import Received, Target

Record = Callable[[], JobRecord]

WORDS = "Ü & = + % \n'\""


def parts(received: Received) -> dict[str, tuple[Any, ...]]:
    """The parts of a form with files: file name, content type and content, by the field's name."""
    head = f"Content-Type: {received.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + received.body)
    return {
        str(part.get_param("name", header="content-disposition")): (
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    }


@pytest.fixture
def note(ledger: Ledger) -> None:
    draft(ledger, output={"title": WORDS, "body": "It boils."})


def bare(**arguments: Any) -> Any:
    return publish(**{"json": None, "method": "POST", **arguments})


def approve_then(effect: Any) -> None:
    ApprovalSensor(task_id="approve", job=1, policy=Policy()) >> effect


@pytest.mark.usefixtures("note")
class TestForms:
    def test_a_form_is_sent_as_its_fields(self, run: RunDag, record: Record, target: Target) -> None:
        run(lambda: approve_then(bare(form={"title": "{{ job.output.title }}", "number": 7})))
        (received,) = target.received
        assert received.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert parse_qs(received.body.decode()) == {"title": [WORDS], "number": ["7"]}
        assert record().current_effects[0].plan["form"] == {"title": WORDS, "number": "7"}

    def test_a_secret_field_of_a_form_is_sent_and_not_kept(self, run: RunDag, record: Record, target: Target) -> None:
        run(lambda: approve_then(bare(form={"pin": "4711"}, secret_fields=["pin"])))
        assert parse_qs(target.received[0].body.decode()) == {"pin": ["4711"]}
        assert record().current_effects[0].plan["form"] == {"pin": "***"}

    def test_an_undo_can_be_a_form(self, run: RunDag, target: Target) -> None:
        undo = {"method": "POST", "endpoint": "/remove", "form": {"id": "{external_id}"}}

        def define() -> None:
            effect = bare(form={"title": "x"}, undo=undo)
            approve_then(effect)
            effect >> RollbackOperator(task_id="undo", job=1, reason="a test")

        run(define)
        assert parse_qs(target.received[1].body.decode()) == {"id": ["rec-1"]}

    def test_a_text_is_sent_as_it_is(self, run: RunDag, target: Target) -> None:
        run(lambda: approve_then(bare(text="{{ job.output.title }}")))
        (received,) = target.received
        assert (received.headers["Content-Type"], received.body.decode()) == ("text/plain; charset=utf-8", WORDS)

    def test_a_content_type_of_the_author_stays(self, run: RunDag, target: Target) -> None:
        run(lambda: approve_then(bare(text="<a/>", headers={"Content-Type": "application/xml"})))
        assert target.received[0].headers["Content-Type"] == "application/xml"


@pytest.mark.usefixtures("note")
class TestFiles:
    @pytest.fixture
    def report(self, tmp_path: Path) -> Path:
        file = tmp_path / "report.pdf"
        file.write_bytes(b"%PDF \x00\xff")
        return file

    def upload(self, report: Path, **more: Any) -> Any:
        files = {"document": {"path": str(report), "content_type": "application/pdf"}}
        return bare(files=files, form={"title": "{{ job.output.title }}"}, **more)

    def test_what_is_sent_is_what_was_approved(self, run: RunDag, record: Record, target: Target, report: Path) -> None:
        run(lambda: approve_then(self.upload(report)))
        found = parts(target.received[0])
        assert found["document"] == ("report.pdf", "application/pdf", b"%PDF \x00\xff")
        assert found["title"][2].decode() == WORDS
        kept = record().current_effects[0].plan["files"]["document"]
        assert kept["sha256"] == hashlib.sha256(b"%PDF \x00\xff").hexdigest()
        assert (kept["size"], kept["path"]) == (7, str(report))

    def test_a_file_that_changed_after_the_approval_is_not_sent(
        self, dags: Dags, ledger: Ledger, target: Target, report: Path
    ) -> None:
        dag = dags.make(lambda: approve_then(self.upload(report)))
        target.answers = []
        plans: list[Any] = []
        read = http_body._content

        def change_between(path: Any) -> bytes:
            content = read(path)
            plans.append(content)
            if len(plans) == 2:  # planned for the approval, and planned again by the effect's task
                report.write_bytes(b"other")
            return content

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_body, "_content", change_between)
            run = dags.run(dag)
        assert "is not the one that was approved" in run.error("publish")
        assert target.received == []
        assert ledger.record(1).current_effects[0].state is EffectState.REFUSED
        report.write_bytes(b"%PDF \x00\xff")
        assert dags.clear(dag, run, ["publish"]).state == "success"
        assert ledger.job(1).state is JobState.COMPLETED

    def test_a_file_that_is_not_there_is_said_before_anyone_is_asked(
        self, run: RunDag, target: Target, tmp_path: Path
    ) -> None:
        done = run(lambda: approve_then(self.upload(tmp_path / "none.pdf")))
        assert "none.pdf' of the effect 'publish' cannot be read: FileNotFoundError" in done.error("approve")
        assert target.received == []

    def test_files_that_are_too_large_are_refused(
        self, run: RunDag, report: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_body, "MAX_FILE_BYTES", 5)
        done = run(lambda: approve_then(self.upload(report)))
        assert "the files of the effect 'publish' have 6 bytes or more, and 5 are allowed" in done.error("approve")


@pytest.mark.usefixtures("note")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"json": NOTE, "text": "x"}, "has more than one body: json and text"),
        ({"form": {"a": ["x"]}}, "the form field 'a' of the effect 'publish' is a list"),
        ({"files": {"a": {}}}, "the file 'a' of the effect 'publish' lacks a path"),
        ({"files": {"a": {"path": "/x", "name": "y"}}}, "has fields that are not known: name"),
    ],
)
def test_a_body_that_cannot_be_is_refused_when_it_is_planned(
    run: RunDag, target: Target, body: dict[str, Any], said: str
) -> None:
    assert said in run(lambda: approve_then(bare(**body))).error("approve")
    assert target.received == []
