"""The decision links in a notification: one for each person and verdict, hidden from logs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.operators import notice_links
from airflow_provider_aihandoff.operators.notice_links import NoticeLinks
from airflow_provider_aihandoff.operators.notices import Handoff, handoff
from tests.unit.core.review.test_reassignment import job

JOB = job(ReviewRules())
BASE = "https://airflow.example/prefix"


class Links:
    """What stands in for the ledger's links."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, timedelta | None]] = []
        self.open = True

    def make(self, job: Any, verdict: str, person: str, *, lifetime: timedelta | None) -> str | None:
        self.made.append((verdict, person, lifetime))
        return f"token-{len(self.made)}" if self.open else None


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Airflow's masker was given."""
    found: list[str] = []
    monkeypatch.setattr(notice_links, "mask_secret", found.append)
    return found


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
def about(links: Links) -> Handoff:
    ledger: Any = SimpleNamespace(decision_links=links)
    return replace(handoff(JOB, "asked"), links=NoticeLinks(ledger, JOB, BASE))


def render(text: str, about: Handoff) -> str:
    return SandboxedEnvironment().from_string(text).render(handoff=about)


def test_a_template_names_the_person_and_the_verdict(about: Handoff, links: Links, hidden: list[str]) -> None:
    text = render("{{ handoff.approve_link('bob') }} {{ handoff.reject_link('bob', hours=8) }}", about)
    assert text == f"{BASE}/aihandoff/decide/token-1 {BASE}/aihandoff/decide/token-2"
    assert links.made == [("approve", "bob", None), ("reject", "bob", timedelta(hours=8))]
    assert hidden == ["token-1", "token-2"]


def test_all_notifiers_of_a_notification_send_the_same_link(about: Handoff, links: Links, hidden: list[str]) -> None:
    assert len({about.approve_link("bob") for _ in range(3)} | {about.approve_link("carol")}) == 2
    assert [person for _, person, _ in links.made] == ["bob", "carol"]


def test_where_there_is_nothing_to_decide_the_link_is_that_of_the_job(
    about: Handoff, links: Links, hidden: list[str]
) -> None:
    links.open = False
    assert about.approve_link("bob") == about.link
    assert replace(about, links=None).reject_link("bob") == about.link
    assert hidden == []


def test_a_notification_does_not_show_its_links(about: Handoff, hidden: list[str]) -> None:
    token = about.approve_link("bob").rpartition("/")[2]
    assert token not in repr(about) + render("{{ handoff }} {{ handoff.links }}", about)


@pytest.mark.parametrize("hours", [0, -1, float("nan")])
def test_no_time_is_not_a_time(about: Handoff, links: Links, hours: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        about.approve_link("bob", hours)
    assert links.made == []
