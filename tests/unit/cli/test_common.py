from __future__ import annotations

import json
import pwd
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_aihandoff.cli.common import actor, fail, print_rows, say

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202egnp.exe\u202c a\u00adb \U000e0041 [bold red]no[/] :bomb: \\[red]"


def test_a_person_at_a_terminal_cannot_choose_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = actor()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    assert actor() == before


def test_an_account_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unnamed(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unnamed)
    monkeypatch.setattr("os.getuid", lambda: 50123)
    assert str(actor()) == "user:cli:50123"


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml"])
def test_what_the_ledger_holds_is_printed_as_text(capsys: pytest.CaptureFixture[str], output: str) -> None:
    rows: list[dict[str, Any]] = [{"key": HOSTILE, HOSTILE: {"deep": [HOSTILE]}, "lines": "a\nforged"}]
    print_rows(rows, output)
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x07\x9b\u202e\u202c\u00ad\U000e0041")
    assert "[bold red]no[/] :bomb:" in printed
    if output == "json":
        assert json.loads(printed) == rows
    elif output == "yaml":
        assert yaml.safe_load(printed) == rows
    else:
        assert "\nforged" not in printed


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(TEXT, TEXT | st.lists(TEXT))))
def test_printed_yaml_means_what_the_ledger_holds(
    capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]]
) -> None:
    print_rows(rows, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == rows


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("job 1 (post a\njob 2: approved.\r\x1b[1A, revision 1): rejected.", error=True)
    shown = capsys.readouterr()
    assert shown.err == "job 1 (post a\\njob 2: approved.\\r\\u001b[1A, revision 1): rejected.\n"
    assert shown.out == ""


def test_an_error_is_one_line() -> None:
    with pytest.raises(SystemExit) as ended:
        fail("it \x1b[2J failed\nok.")
    assert ended.value.code == "aihandoff: it \\u001b[2J failed\\nok."
