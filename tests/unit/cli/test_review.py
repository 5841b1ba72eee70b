"""`airflow aihandoff review`: what is printed of a review, what was typed, and the editor."""

from __future__ import annotations

import json
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.cli import review
from airflow_provider_aihandoff.cli.review import _choices, _parsed, _read
from airflow_provider_aihandoff.core.errors import StaleBulkDecision, StaleDecision
from airflow_provider_aihandoff.core.models import Actor, PendingReview
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.unit.cli.conftest import Airflow
from tests.unit.core.jobs.records import DIGEST, NOW, decision, effect, record, revision

CAROL = Person("carol", at_terminal=True)
TWO = ReviewRules(Approvers(users=("cli:carol", "bob")), approvals=2)


def waiting(**changes: Any) -> PendingReview:
    values: dict[str, Any] = dict.fromkeys(PendingReview.__dataclass_fields__)
    values |= {"job_id": 7, "job_type": "publishing", "job_key": "post:kettle", "dag_id": "publishing"}
    values |= {"run_id": "manual__1", "requested_by": "alice", "review": TWO.to_json(), "review_digest": DIGEST}
    return PendingReview(**{**values, "voters": [Actor.user("bob")], "created_at": NOW, **changes})


class TestList:
    def test_it_says_how_many_have_approved_and_whether_you_may(self, airflow: Airflow, ledger: Any) -> None:
        ledger.reviews.pending.return_value = [waiting(), waiting(job_id=8, requested_by="cli:carol")]
        first, second = json.loads(airflow("review", "list", "--dag-id", "publishing", "-o", "json"))
        assert (first["approvals"], first["why_not"], first["digest"]) == ("1 of 2", None, DIGEST)
        assert second["why_not"] == "You asked for this work; another user has to decide on it."
        ledger.reviews.pending.assert_called_once_with(dag_ids=["publishing"], set_id=None)

    def test_a_blind_reader_does_not_see_how_many(self, airflow: Airflow, ledger: Any) -> None:
        blind = ReviewRules(approvals=2, blind=True).to_json()
        ledger.reviews.pending.return_value = [waiting(review=blind)]
        (row,) = json.loads(airflow("review", "list", "-o", "json"))
        assert row["approvals"] == "? of 2"

    def test_a_table_leaves_out_what_it_would_break(self, airflow: Airflow, ledger: Any) -> None:
        ledger.reviews.pending.return_value = [waiting()]
        assert "digest" not in airflow("review", "list", "-o", "table")


def test_one_is_shown_with_all_that_a_decision_needs(
    airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "change_cost", lambda *_: None)
    monkeypatch.setattr(review, "facts_for", lambda conn_id: None)
    found = record(
        JobState.REVIEW,
        effect(EffectState.PLANNED),
        of=revision(output="A kettle.", cost_usd=Decimal("0.25")),
        review=TWO.to_json(),
        reassigned={**Reviewers(Approvers(users=("eve",))).to_json(), "by": [["user", "admin", "1"]], "number": 1},
    )
    ledger.record.return_value = found
    ledger.reviews.votes.return_value = [decision(by="bob")]
    (row,) = json.loads(airflow("review", "show", 7, "-o", "json"))
    assert (row["output"], row["cost_usd"], row["approvals"]) == ("A kettle.", "0.25", "1 of 2")
    assert row["reassigned"] == "by admin (1); its author has named: cli:carol, bob"
    assert row["why_not"] == "Only these may decide on it: eve."
    assert [vote["by"] for vote in row["votes"]] == ["bob"]
    assert row["plan"][0]["name"] == "publish"
    assert row["digest"] == DIGEST


class TestDecide:
    @pytest.mark.parametrize(
        ("command", "verdict", "state", "said"),
        [
            ("approve", "approve", JobState.APPROVED, "approved"),
            ("approve", "approve", JobState.REVIEW, "1 of 2 approvals"),
            ("reject", "reject", JobState.REJECTED, "rejected"),
            ("request-changes", "request changes", JobState.QUEUED, "its approval task requests a new revision"),
        ],
    )
    def test_it_says_what_the_job_is_then(
        self, airflow: Airflow, ledger: Any, command: str, verdict: str, state: JobState, said: str
    ) -> None:
        ledger.reviews.decide.return_value = record(state, review=TWO.to_json()).job
        ledger.reviews.votes.return_value = [decision()]
        printed = airflow("review", command, 7, "--digest", DIGEST, "--comment", "Shorter.")
        assert said in printed
        ledger.reviews.decide.assert_called_once_with(7, verdict, digest=DIGEST, person=CAROL, comment="Shorter.")

    def test_a_review_is_reassigned_as_it_was_seen(self, airflow: Airflow, ledger: Any) -> None:
        ledger.job.return_value = record(JobState.REVIEW, review=TWO.to_json()).job
        ledger.reassignments.reassign.return_value = record(JobState.REVIEW, review=TWO.to_json()).job
        printed = airflow("review", "reassign", 7, "--user", "bob", "--reason", "on holiday")
        assert "reassigned. May decide now: cli:carol, bob." in printed
        assert ledger.reassignments.reassign.call_args.args == (7, Reviewers(Approvers(users=("bob",))))
        assert ledger.reassignments.reassign.call_args.kwargs["seen"] == 0


class TestMany:
    def test_each_line_is_a_job_and_the_digest_that_was_seen(self) -> None:
        assert _choices("7 abc\n\n  8\tdef \n") == [(7, "abc"), (8, "def")]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no jobs were given"),
            ("7", "line 1 is not a job id and a digest"),
            ("7 abc\n8 def ghi", "line 2 is not a job id and a digest"),
            ("\u0667 abc", "line 1 is not a job id and a digest"),
            ("-7 abc", "line 1 is not a job id and a digest"),
            ("7 abc\n7 abc", "line 2 names job 7 a second time"),
        ],
    )
    def test_what_is_not_decides_nothing(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=f"{said}. No decision was recorded"):
            _choices(text)

    def test_all_or_none_are_decided(self, airflow: Airflow, ledger: Any, tmp_path: Path) -> None:
        file = tmp_path / "jobs"
        file.write_text(f"7 {DIGEST}\n8 {DIGEST}\n")
        approved = record(JobState.APPROVED).job
        voted = record(JobState.REVIEW, job_id=8, review=TWO.to_json()).job
        ledger.reviews.decide_many.return_value = [approved, voted]
        ledger.reviews.votes_of.return_value = {8: [decision()]}
        printed = airflow("review", "decide-many", "--approve", "--file", file)
        assert ": approved.\n" in printed
        assert ": 1 of 2 approvals.\n" in printed
        assert ledger.reviews.decide_many.call_args.args == ([(7, DIGEST), (8, DIGEST)], "approve")
        ledger.reviews.votes_of.assert_called_once_with([voted])

    def test_each_job_that_has_changed_is_named(self, airflow: Airflow, ledger: Any, tmp_path: Path) -> None:
        file = tmp_path / "jobs"
        file.write_text(f"7 {DIGEST}")
        ledger.reviews.decide_many.side_effect = StaleBulkDecision("1 of 1.", stale={7: "it has changed."})
        with pytest.raises(SystemExit, match="1 of 1"):
            airflow("review", "decide-many", "--reject", "--file", file)
        assert "job 7: it has changed." in airflow.printed  # type: ignore[attr-defined]

    @pytest.mark.parametrize("both", [(), ("--approve", "--reject")])
    def test_a_decision_is_one_of_two(self, airflow: Airflow, ledger: Any, both: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit, match="give --approve or --reject, and not both"):
            airflow("review", "decide-many", *both, "--file", "none")
        ledger.reviews.decide_many.assert_not_called()

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be read: No such file"):
            _read(str(tmp_path / "none"))


class TestTyped:
    @pytest.mark.parametrize(
        ("before", "text", "output"),
        [
            ("A kettle.", "A teapot.\n", "A teapot."),
            ("A kettle.\n", "A teapot.\n", "A teapot.\n"),
            ("A kettle.", "A teapot.\n\n", "A teapot.\n"),
            ({"title": "a"}, '{"title": "b"}', {"title": "b"}),
            (None, "[1]", [1]),
        ],
    )
    def test_a_text_is_as_typed_and_the_rest_is_json(self, before: Any, text: str, output: Any) -> None:
        assert _parsed(text, before) == output

    @pytest.mark.parametrize("text", ["{", "NaN", "", '{"a": 1} {}'])
    def test_what_is_not_json_changes_nothing(self, text: str) -> None:
        with pytest.raises(ValueError, match="The output stays as it is"):
            _parsed(text, {})


class TestEdit:
    @pytest.fixture(autouse=True)
    def _job(self, ledger: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        ledger.record.return_value = record(JobState.REVIEW, of=revision(output={"title": "a kettle"}))
        ledger.reviews.edit.return_value = record(JobState.REVIEW).job
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.delenv("VISUAL", raising=False)

    def editor(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
        """Edit with a program that runs this on the file."""
        program = tmp_path / "editor"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", str(program))

    def kept(self, tmp_path: Path) -> list[str]:
        return [each.read_text() for each in tmp_path.glob("job-7-*.json")]

    def test_what_the_editor_leaves_is_the_output(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.editor(monkeypatch, tmp_path, "sed -i s/kettle/teapot/ $1")
        printed = airflow("review", "edit", 7, "--digest", DIGEST)
        ledger.reviews.edit.assert_called_once_with(7, digest=DIGEST, output={"title": "a teapot"}, person=CAROL)
        assert "edited. Its plan is rendered now." in printed
        assert self.kept(tmp_path) == []

    def test_what_was_not_changed_is_not_sent(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.editor(monkeypatch, tmp_path, "echo >> $1")
        with pytest.raises(SystemExit, match="you changed nothing"):
            airflow("review", "edit", 7, "--digest", DIGEST)
        ledger.reviews.edit.assert_not_called()
        assert self.kept(tmp_path) == []

    @pytest.mark.parametrize(
        ("script", "said"),
        [("echo '{' > $1", "The output stays as it is"), ("sed -i s/a/b/ $1; exit 4", "exited with 4")],
    )
    def test_what_was_typed_is_kept_where_it_is_not_accepted(
        self,
        airflow: Airflow,
        ledger: Any,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        script: str,
        said: str,
    ) -> None:
        self.editor(monkeypatch, tmp_path, script)
        with pytest.raises(SystemExit, match=said):
            airflow("review", "edit", 7, "--digest", DIGEST)
        ledger.reviews.edit.assert_not_called()
        assert len(self.kept(tmp_path)) == 1

    def test_what_the_ledger_refuses_is_kept_too(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.editor(monkeypatch, tmp_path, "sed -i s/kettle/teapot/ $1")
        ledger.reviews.edit.side_effect = StaleDecision("it has changed.")
        with pytest.raises(SystemExit, match="it has changed"):
            airflow("review", "edit", 7, "--digest", DIGEST)
        assert "a teapot" in self.kept(tmp_path)[0]
        assert "Your text is kept in" in airflow.printed  # type: ignore[attr-defined]

    def test_an_editor_that_is_not_there_is_named(
        self, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("EDITOR", str(tmp_path / "none"))
        with pytest.raises(SystemExit, match="cannot be started"):
            airflow("review", "edit", 7, "--digest", DIGEST)

    def test_no_editor_is_opened_on_what_has_changed(self, airflow: Airflow, ledger: Any) -> None:
        with pytest.raises(SystemExit, match="it has changed since you opened it"):
            airflow("review", "edit", 7, "--digest", "e" * 64)

    def test_a_file_needs_no_editor(self, airflow: Airflow, ledger: Any, tmp_path: Path) -> None:
        file = tmp_path / "output.json"
        file.write_text('{"title": "a teapot"}')
        airflow("review", "edit", 7, "--digest", DIGEST, "--file", file)
        assert ledger.reviews.edit.call_args.kwargs["output"] == {"title": "a teapot"}
