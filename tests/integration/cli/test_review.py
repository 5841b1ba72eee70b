"""`airflow aihandoff review`: what a person at a terminal sees, decides and edits."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import OWNER, TEST, draft, effect_plan, in_an_hour, job_spec
from tests.integration.cli.conftest import Airflow

OUTPUT = {"title": "Kettle", "lines": [1, 2]}

CAROL = Actor.terminal("carol")


def in_review(ledger: Ledger, output: Any = "A kettle.", key: str = "post:kettle", **rules: Any) -> Job:
    """A job that waits for a decision; its Dag is called as the key begins."""
    owner = replace(OWNER, dag_id=key.partition(":")[0])
    job = draft(ledger, job_spec(job_key=key, owner=owner), output, response_id=f"resp_{key}")
    return ledger.reviews.ask(
        job.job_id,
        [effect_plan()],
        policy="plain@1",
        deadline=in_an_hour(),
        actor=TEST,
        rules=ReviewRules(because={"policy": "plain@1", "reason": "it is delicate"}, **rules),
    )


class Editor:
    """An editor that puts a text in the place of what it is given, and keeps what that was."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seen = folder / "seen"
        self._folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.setattr("tempfile.tempdir", str(folder))

    def types(self, text: str | None, *, status: int = 0, variable: str = "EDITOR") -> None:
        """Type a text, or leave what is there; and end."""
        program = self._folder / "editor.py"
        program.write_text(
            "import pathlib, sys\n"
            "file = pathlib.Path(sys.argv[-1])\n"
            f"pathlib.Path({str(self._seen)!r}).write_text(file.read_text())\n"
            f"text = {text!r}\n"
            "if text is not None: file.write_text(text)\n"
            f"sys.exit({status})\n"
        )
        self._monkeypatch.delenv("VISUAL", raising=False)
        self._monkeypatch.setenv(variable, f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} --wait")

    @property
    def saw(self) -> str:
        return self._seen.read_text()

    @property
    def left(self) -> list[str]:
        """What was typed, in the files that are left."""
        return [file.read_text() for file in sorted(self._folder.glob("job-*"))]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    return Editor(tmp_path, monkeypatch)


class TestShowing:
    def test_the_review_queue_is_listed_oldest_first_with_who_may_not_decide(
        self, airflow: Airflow, on_ledger: Ledger
    ) -> None:
        first = in_review(on_ledger, key="a:1")
        second = in_review(on_ledger, key="b:1", approvers=Approvers(users=("bob",)), approvals=2)
        assert second.review_digest is not None
        on_ledger.reviews.decide(second.job_id, "approve", digest=second.review_digest, person=Person("bob"))
        listed = json.loads(airflow("review", "list", "-o", "json"))
        assert [(row["job_id"], row["digest"], row["approvals"]) for row in listed] == [
            (first.job_id, first.review_digest, "0 of 1"),
            (second.job_id, second.review_digest, "1 of 2"),
        ]
        assert listed[0]["why_not"] is None
        assert "bob" in listed[1]["why_not"]

    def test_a_person_with_two_accounts_is_one_approval(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger, approvals=2)
        for person in (Person("bob"), Person("bob", at_terminal=True)):
            on_ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=person)
        (listed,) = json.loads(airflow("review", "list", "-o", "json"))
        (shown,) = json.loads(airflow("review", "show", job.job_id, "-o", "json"))
        assert (listed["approvals"], shown["approvals"], len(shown["votes"])) == ("1 of 2", "1 of 2", 1)

    def test_who_has_not_voted_does_not_see_how_others_have_where_readers_are_blind(
        self, airflow: Airflow, on_ledger: Ledger
    ) -> None:
        job = in_review(on_ledger, approvals=2, blind=True)
        on_ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=Person("bob"))
        (listed,) = json.loads(airflow("review", "list", "-o", "json"))
        (shown,) = json.loads(airflow("review", "show", job.job_id, "-o", "json"))
        assert (listed["approvals"], shown["approvals"], shown["votes"]) == ("? of 2", "? of 2", [])

    def test_the_table_has_no_digest_that_a_line_break_could_spoil(self, airflow: Airflow, on_ledger: Ledger) -> None:
        in_review(on_ledger)
        listed = airflow("review", "list")
        assert "0 of 1" in listed
        assert "digest" not in listed

    def test_the_review_queue_is_listed_for_one_dag(self, airflow: Airflow, on_ledger: Ledger) -> None:
        in_review(on_ledger, key="a:1")
        job = in_review(on_ledger, key="b:1")
        assert [row["job_id"] for row in json.loads(airflow("review", "list", "--dag-id", "b", "-o", "json"))] == [
            job.job_id
        ]

    def test_a_job_is_shown_with_all_that_a_reviewer_needs(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger, approvals=2)
        airflow("review", "approve", job.job_id, "--digest", job.review_digest, "--comment", "fine")
        shown = airflow("review", "show", job.job_id)
        for part in ("A kettle.", "http://cms/posts/kettle", "it is delicate", "1 of 2", "cli:carol", "fine"):
            assert part in shown
        assert shown.rstrip().endswith(f"digest: {job.review_digest}")
        (data,) = json.loads(airflow("review", "show", job.job_id, "-o", "json"))
        assert (data["output"], data["plan"][0]["plan"]["method"]) == ("A kettle.", "PUT")
        assert [(revision["number"], revision["author"]) for revision in data["revisions"]] == [(1, "model")]
        assert (data["cost_usd"], data["cost_of_changes"]["held"]) == ("0", None)
        assert float(data["cost_of_changes"]["worst_usd"]) > 0

    def test_a_model_output_cannot_move_the_cursor(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger, "\x1b[2Jharmless\x9b1A")
        shown = airflow("review", "show", job.job_id)
        assert "\x1b" not in shown
        assert "\x9b" not in shown
        assert "harmless" in shown


class TestDeciding:
    @pytest.mark.parametrize(
        ("answer", "verdict", "state"),
        [("approve", "approve", JobState.APPROVED), ("reject", "reject", JobState.REJECTED)],
    )
    def test_a_job_is_decided_on_by_the_person_at_the_terminal(
        self, airflow: Airflow, on_ledger: Ledger, answer: str, verdict: str, state: JobState
    ) -> None:
        job = in_review(on_ledger)
        said = airflow("review", answer, job.job_id, "--digest", job.review_digest, "--comment", "I looked")
        assert said == f"{job.label}: {state.value}.\n"
        record = on_ledger.record(job.job_id)
        assert record.job.state is state
        assert [(d.verdict, d.decider, d.comment) for d in record.decisions] == [(verdict, CAROL, "I looked")]

    @pytest.mark.parametrize("answer", ["approve", "reject", "request-changes", "edit"])
    def test_an_outdated_digest_changes_nothing(
        self, airflow: Airflow, on_ledger: Ledger, answer: str, editor: Editor
    ) -> None:
        job = in_review(on_ledger)
        editor.types("Another.")
        more = ("--comment", "shorter") if answer == "request-changes" else ()
        with pytest.raises(SystemExit, match="has changed since you opened it"):
            airflow("review", answer, job.job_id, "--digest", "0" * 64, *more)
        assert on_ledger.job(job.job_id) == job
        assert editor.left == []

    @pytest.mark.parametrize("answer", ["approve", "reject", "request-changes", "edit"])
    def test_every_decision_needs_a_digest(self, airflow: Airflow, on_ledger: Ledger, answer: str) -> None:
        with pytest.raises(SystemExit) as ended:
            airflow("review", answer, 1, "--comment", "fine")
        assert ended.value.code == 2

    def test_approvals_are_counted(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger, approvals=2)
        said = airflow("review", "approve", job.job_id, "--digest", job.review_digest)
        assert said == f"{job.label}: 1 of 2 approvals.\n"
        assert on_ledger.job(job.job_id).state is JobState.REVIEW

    def test_requested_changes_need_words(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger)
        comment = ("--comment", "shorter, please")
        said = airflow("review", "request-changes", job.job_id, "--digest", job.review_digest, *comment)
        assert "the model" in said
        record = on_ledger.record(job.job_id)
        assert record.job.state is JobState.QUEUED
        assert (record.revision.number, record.revision.changes) == (2, "shorter, please")

    @pytest.mark.parametrize("answer", ["approve", "reject", "request-changes", "edit", "decide-many"])
    @pytest.mark.parametrize(
        ("rules", "requested_by", "why"),
        [
            ({"approvers": Approvers(users=("carol",))}, "alice", "Only these may decide"),
            ({"approvers": Approvers(roles=("Admin",))}, "alice", "Only these may decide"),
            ({}, "carol", "You asked for this work"),
            ({}, "cli:carol", "You asked for this work"),
        ],
        ids=["named", "role", "asked in Airflow", "asked in a terminal"],
    )
    def test_the_rules_of_the_author_apply_in_a_terminal(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        answer: str,
        rules: dict[str, Any],
        requested_by: str,
        why: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        asked = draft(on_ledger, job_spec(requested_by=requested_by))
        job = on_ledger.reviews.ask(
            asked.job_id,
            [effect_plan()],
            policy=None,
            deadline=in_an_hour(),
            actor=TEST,
            rules=ReviewRules(**rules),
        )
        words: list[object] = [answer, job.job_id, "--digest", job.review_digest]
        if answer == "decide-many":
            words = [answer, "--approve"]
            monkeypatch.setattr("sys.stdin", StringIO(f"{job.job_id} {job.review_digest}\n"))
        elif answer == "edit":
            monkeypatch.setattr("sys.stdin", StringIO("Another."))
            words += ["--file", "-"]
        else:
            words += ["--comment", "fine"]
        with pytest.raises(SystemExit) as ended:
            airflow("review", *words)
        assert why in f"{ended.value.code} {capsys.readouterr().err}"
        assert on_ledger.job(job.job_id) == job

    def test_a_terminal_user_may_be_a_named_approver(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = in_review(on_ledger, approvers=Approvers(users=("cli:carol",)))
        airflow("review", "approve", job.job_id, "--digest", job.review_digest)
        assert on_ledger.job(job.job_id).state is JobState.APPROVED


class TestEditing:
    def test_an_output_is_edited_in_the_editor(self, airflow: Airflow, on_ledger: Ledger, editor: Editor) -> None:
        job = in_review(on_ledger, OUTPUT)
        editor.types(json.dumps({**OUTPUT, "title": "Käse"}, ensure_ascii=False))
        assert "edited" in airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        record = on_ledger.record(job.job_id)
        assert json.loads(editor.saw) == OUTPUT
        assert record.revision.output == {**OUTPUT, "title": "Käse"}
        assert (record.revision.editor, record.revision.based_on) == (CAROL, 1)
        assert record.revisions[0].output == OUTPUT
        assert editor.left == []

    def test_the_variable_visual_wins_over_editor(
        self, airflow: Airflow, on_ledger: Ledger, editor: Editor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = in_review(on_ledger)
        editor.types("Another.", variable="VISUAL")
        monkeypatch.setenv("EDITOR", "/nowhere/editor")
        airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert on_ledger.record(job.job_id).revision.output == "Another."

    @pytest.mark.parametrize(
        ("before", "typed", "after"),
        [("One.", "Two.\n", "Two."), ("One.\n", "Two.\n", "Two.\n"), ("One.", '{"a": 1}', '{"a": 1}')],
        ids=["end of line of the editor", "end of line of the output", "a text that looks like JSON"],
    )
    def test_a_text_output_stays_a_text_after_an_edit(
        self, airflow: Airflow, on_ledger: Ledger, editor: Editor, before: str, typed: str, after: str
    ) -> None:
        job = in_review(on_ledger, before)
        editor.types(typed)
        airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert on_ledger.record(job.job_id).revision.output == after

    @pytest.mark.parametrize("typed", [None, "A kettle.\n"], ids=["nothing", "the end of a line"])
    def test_an_editor_that_changes_nothing_changes_nothing(
        self, airflow: Airflow, on_ledger: Ledger, editor: Editor, typed: str | None
    ) -> None:
        job = in_review(on_ledger)
        editor.types(typed)
        with pytest.raises(SystemExit, match="you changed nothing"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert on_ledger.job(job.job_id) == job
        assert editor.left == []

    @pytest.mark.parametrize("typed", ["{", '{"title": NaN}'])
    def test_invalid_json_is_kept_in_a_file(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        editor: Editor,
        typed: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        job = in_review(on_ledger, OUTPUT)
        editor.types(typed)
        with pytest.raises(SystemExit, match="Not valid JSON"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert "is kept in" in capsys.readouterr().err
        assert editor.left == [typed]
        assert on_ledger.job(job.job_id) == job

    def test_typed_text_is_kept_when_the_job_has_changed(
        self, airflow: Airflow, on_ledger: Ledger, editor: Editor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = in_review(on_ledger)
        assert job.review_digest is not None
        editor.types("Another.")

        def decided_meanwhile(path: Path) -> None:
            opened(path)
            on_ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"))

        opened = sys.modules["airflow_provider_aihandoff.cli.review"]._open_editor
        monkeypatch.setattr("airflow_provider_aihandoff.cli.review._open_editor", decided_meanwhile)
        with pytest.raises(SystemExit, match="no longer waits"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert editor.left == ["Another."]

    def test_an_editor_that_fails_or_is_missing_changes_nothing(
        self, airflow: Airflow, on_ledger: Ledger, editor: Editor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = in_review(on_ledger)
        editor.types("Another.", status=3)
        with pytest.raises(SystemExit, match="exited with 3"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        monkeypatch.setenv("EDITOR", "/nowhere/editor")
        with pytest.raises(SystemExit, match="Set VISUAL or EDITOR"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest)
        assert on_ledger.job(job.job_id) == job

    @pytest.mark.parametrize("source", ["file", "-"])
    def test_an_output_is_taken_from_a_file_or_the_standard_input(
        self, airflow: Airflow, on_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        job = in_review(on_ledger, OUTPUT)
        text = json.dumps({"title": "Another"})
        if source == "file":
            (tmp_path / "output.json").write_text(text)
            source = str(tmp_path / "output.json")
        monkeypatch.setattr("sys.stdin", StringIO(text))
        airflow("review", "edit", job.job_id, "--digest", job.review_digest, "--file", source)
        assert on_ledger.record(job.job_id).revision.output == {"title": "Another"}

    def test_a_missing_file_is_named(self, airflow: Airflow, on_ledger: Ledger, tmp_path: Path) -> None:
        job = in_review(on_ledger)
        with pytest.raises(SystemExit, match="cannot be read"):
            airflow("review", "edit", job.job_id, "--digest", job.review_digest, "--file", tmp_path / "nothing")


class TestDecidingOnMany:
    @pytest.mark.parametrize("flag", ["--approve", "--reject"])
    def test_decide_many_records_one_decision_for_each_job(
        self, airflow: Airflow, on_ledger: Ledger, tmp_path: Path, flag: str
    ) -> None:
        jobs = [in_review(on_ledger, key=f"post:{number}") for number in range(3)]
        lines = tmp_path / "lines"
        lines.write_text("\n" + "".join(f"{job.job_id}\t{job.review_digest}\n" for job in jobs[:2]))
        said = airflow("review", "decide-many", flag, "--file", lines, "--comment", "all alike")
        verdict, state = ("approve", "approved") if flag == "--approve" else ("reject", "rejected")
        assert said.splitlines() == [f"{job.label}: {state}." for job in jobs[:2]]
        for job in jobs[:2]:
            (decision,) = on_ledger.record(job.job_id).decisions
            assert (decision.verdict, decision.digest) == (verdict, job.review_digest)
            assert (decision.decider, decision.comment) == (CAROL, "all alike")
        assert on_ledger.job(jobs[2].job_id) == jobs[2]

    def test_decide_many_records_nothing_if_one_job_has_changed(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        jobs = [in_review(on_ledger, key=f"post:{number}") for number in range(3)]
        digests = [job.review_digest for job in jobs]
        changed = on_ledger.reviews.ask(
            jobs[1].job_id, [effect_plan(url="http://other")], policy=None, deadline=in_an_hour(), actor=TEST
        )
        lines = [f"{job.job_id} {digest}" for job, digest in zip(jobs, digests, strict=True)]
        monkeypatch.setattr("sys.stdin", StringIO("\n".join([*lines, "999 " + "0" * 64])))
        with pytest.raises(SystemExit, match="2 of 4 jobs"):
            airflow("review", "decide-many", "--approve")
        said = capsys.readouterr().err
        assert f"job {changed.job_id}: " in said
        assert "job 999: " in said
        assert f"job {jobs[0].job_id}: " not in said
        assert [on_ledger.job(job.job_id) for job in jobs] == [jobs[0], changed, jobs[2]]

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            ("", "no jobs were given"),
            ("1", "line 1 is not"),
            ("\nx y", "line 2 is not"),
            ("1 2 3", "line 1 is not"),
            ("-1 2", "line 1 is not"),
            ("1 a\n1 b", "line 2 names job 1 a second time"),
        ],
    )
    def test_decide_many_refuses_lines_that_cannot_be_read(
        self, airflow: Airflow, on_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, lines: str, why: str
    ) -> None:
        monkeypatch.setattr("sys.stdin", StringIO(lines))
        with pytest.raises(SystemExit, match=why):
            airflow("review", "decide-many", "--approve")

    @pytest.mark.parametrize("flags", [(), ("--approve", "--reject")])
    def test_decide_many_needs_exactly_one_verdict(
        self, airflow: Airflow, on_ledger: Ledger, flags: tuple[str, ...]
    ) -> None:
        with pytest.raises(SystemExit, match="--approve or --reject, and not both"):
            airflow("review", "decide-many", *flags)
