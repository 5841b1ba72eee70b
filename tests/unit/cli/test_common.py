from __future__ import annotations

import pwd

import pytest

from airflow_provider_aihandoff.cli.common import actor


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
