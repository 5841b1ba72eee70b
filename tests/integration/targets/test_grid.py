"""The grid: no fault on the way to a target makes a second write, or makes the ledger say what is not so."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.integration.targets.grid import MAIL_ROWS, ROWS, MailRow, Row, applicable, play, play_mail
from tests.integration.targets.mail_systems import MAIL_FAULTS
from tests.integration.targets.systems import FAULTS

_numbers = count(1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_no_fault_makes_a_second_write_or_a_word_of_the_ledger_that_is_not_so(
    ledger: Ledger, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GRID", "")  # the grid sets it; the fixture restores it
    cells = [play(ledger, row, fault, next(_numbers)) for fault in FAULTS if applicable(row, fault)]
    assert [f"{cell.fault}: {cell.wrong}" for cell in cells if cell.wrong] == []
    assert cells[0].state == ("applied" if row.ours else cells[0].state)


def test_the_published_grids_have_every_declaration_and_every_fault() -> None:
    page = Path(__file__).parents[3].joinpath("docs", "reliability.md").read_text("utf-8")
    lines = page.partition("tests.integration.targets.grid")[2].splitlines()
    printed = [f"{number:>3}  {fault}" for faults in (FAULTS, MAIL_FAULTS) for number, fault in enumerate(faults, 1)]
    assert [line for line in printed if line not in lines] == []
    assert [
        row.what for row in (*ROWS, *MAIL_ROWS) if not any(line.startswith(f"{row.what}  ") for line in lines)
    ] == []


@pytest.mark.parametrize("row", MAIL_ROWS, ids=lambda row: row.what)
def test_no_fault_makes_a_second_mail_or_a_word_of_the_ledger_that_is_not_so(
    ledger: Ledger, row: MailRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GRID", "")
    cells = [play_mail(ledger, row, fault, next(_numbers)) for fault in MAIL_FAULTS if applicable(row, fault)]
    assert [f"{cell.fault}: {cell.wrong}" for cell in cells if cell.wrong] == []
    states = {cell.fault: cell.state for cell in cells}
    assert {fault for fault, state in states.items() if state == "held"} == {
        "accepted, dropped",
        "accepted, no answer in time",
        "accepted, slow drip",
        "accepted, answer without end",
        "dropped in the mail",
    }
    assert states["none"] == "applied"


def test_a_request_that_an_intermediary_made_twice_is_seen_in_the_target_and_on_the_record(ledger: Ledger) -> None:
    cell = play(ledger, ROWS[0], "sent twice on the way", next(_numbers))
    assert (cell.count, cell.state) == (2, "applied")
    assert "it sees 2 records that could be this write" in cell.note
