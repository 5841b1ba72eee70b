"""Calls over HTTP as they break: bounded as a whole, known to have left or not; and what their answers mean."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell, NotApplied, UnclearAnswer
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.targets import http_exchange
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe, plan_request
from airflow_provider_aihandoff.targets.http_answers import EXTRA, rules_of
from tests.talking import dripping, listening
from tests.target import Answer, Target, serve

KEY = "aih-1-r1-0123456789abcdef"


@pytest.fixture(scope="module")
def _served() -> Iterator[Target]:
    with serve() as served:
        yield served


@pytest.fixture(autouse=True)
def target(_served: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A business system that answers as a test says; the connection `cms` leads to it."""
    _served.reset()
    lead_to(monkeypatch, _served.port)
    return _served


def request(method: str = "POST", **parts: Any) -> dict[str, Any]:
    return plan_request("cms", method, "/posts", name="publish", **parts)


def send(to: HttpTarget | None = None, plan: dict[str, Any] | None = None) -> Applied:
    return (to or HttpTarget("publish", external_id_path="$.id")).apply(plan or request(), KEY)


def send_soon() -> Applied:
    """The same, within two seconds, of which one is for the connection."""
    return send(HttpTarget("publish", timeout=1, external_id_path="$.id"))


def lead_to(monkeypatch: pytest.MonkeyPatch, port: int, **more: Any) -> None:
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": port, "schema": "http", **more}
    monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))


class TestBounds:
    def test_an_answer_that_drips_is_cut_off_at_the_end_of_the_whole_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with listening(dripping(b"HTTP/1.1 ")) as port:
            lead_to(monkeypatch, port)
            with pytest.raises(UnclearAnswer, match="the whole answer took too long"):
                send_soon()

    @pytest.mark.parametrize("begins", [b"Content-Length: 9000\r\n\r\n", b"X-Slow: "])
    def test_what_drips_after_the_status_is_cut_off_and_the_status_counts(
        self, monkeypatch: pytest.MonkeyPatch, begins: bytes
    ) -> None:
        with listening(dripping(b"HTTP/1.1 201 Created\r\n" + begins)) as port:
            lead_to(monkeypatch, port)
            began = time.monotonic()
            assert send_soon() == Applied(None, {"status": 201})
            assert time.monotonic() - began < 5

    def test_a_tls_handshake_that_drips_is_cut_off_and_nothing_has_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with listening(dripping(b"\x16\x03\x03\x40\x00")) as port:
            lead_to(monkeypatch, port, schema="https")
            began = time.monotonic()
            with pytest.raises(EffectNotNow):
                send_soon()
            assert time.monotonic() - began < 5

    def test_an_answer_is_read_up_to_a_bound_also_where_it_is_compressed(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_exchange, "ANSWER_LIMIT", 1000)
        bomb = gzip.compress(b'{"id": "' + b"x" * 100_000 + b'"}')
        for body, headers in ((b"x" * 1001, {}), (bomb, {"Content-Encoding": "gzip"})):
            target.answers = [Answer(201, body, headers)]
            assert send() == Applied(None, {"status": 201})

    def test_a_compressed_answer_is_read(self, target: Target) -> None:
        target.answers = [Answer(201, gzip.compress(b'{"id": 7}'), {"Content-Encoding": "gzip"})]
        assert send().external_id == "7"
        assert target.received[0].headers["Accept-Encoding"] == "identity"

    def test_the_body_of_a_redirect_is_bounded_too(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_exchange, "ANSWER_LIMIT", 1000)
        target.answers = [Answer(302, b"x" * 1001, {"Location": "/elsewhere"})]
        with pytest.raises(EffectRefused, match="its answer is longer than 1000 bytes"):
            send()
        assert len(target.received) == 1


class TestNeverLeft:
    @pytest.mark.parametrize("text", ["Zażółć", "東京", "a\r\nX-Evil: 1", "a\nb", " a", "a ", "\x00", "\x7f"])
    def test_a_header_that_cannot_be_sent_is_refused_when_it_is_planned(self, text: str) -> None:
        for headers in ({"X-Title": text}, {f"X{text}": "a"}):
            with pytest.raises(PlanError, match=r"(?s)the header .* cannot be sent") as refused:
                request(headers=headers)
        with pytest.raises(PlanError, match="the header 'X-Title'"):
            plan_probe("cms", {"endpoint": "/posts", "headers": {"X-Title": text}}, "publish")
        assert "X-Evil" not in str(refused.value) or "X-Evil" in text

    def test_a_header_of_latin_1_is_sent(self, target: Target) -> None:
        send(plan=request(headers={"X-Title": "Grüße, naïve"}))
        assert target.received[0].headers["X-Title"] == "Grüße, naïve"

    @pytest.mark.parametrize("part", [{"json": {"a": "\ud83d"}}, {"query": {"a": "\ud83d"}}])
    def test_half_of_a_character_is_refused_when_it_is_planned(self, part: dict[str, Any]) -> None:
        with pytest.raises(PlanError, match="has half of a character"):
            request(**part)

    def test_https_on_a_plain_port_is_not_now_and_nothing_was_sent(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lead_to(monkeypatch, target.port, schema="https")
        with pytest.raises(EffectNotNow, match="SSLError") as never:
            send()
        assert (never.value.answered, target.received) == (False, [])

    @pytest.mark.parametrize("says", [b"", b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 407 Who are you\r\n\r\n"])
    def test_a_proxy_that_makes_no_tunnel_is_not_now_and_nothing_was_sent(
        self, monkeypatch: pytest.MonkeyPatch, says: bytes
    ) -> None:
        def proxy(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(says)

        with listening(proxy) as port:
            proxies = {"proxies": {"https": f"http://127.0.0.1:{port}"}}
            lead_to(monkeypatch, 443, schema="https", host="cms.example", extra=json.dumps(proxies))
            with pytest.raises(EffectNotNow) as never:
                send()
        assert not never.value.answered

    def test_a_proxy_that_is_down_is_not_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for schema in ("http", "https"):
            proxies = {"proxies": {schema: "http://127.0.0.1:1"}}
            lead_to(monkeypatch, 8000, schema=schema, host="cms.example", extra=json.dumps(proxies))
            with pytest.raises(EffectNotNow) as never:
                send()
            assert not never.value.answered

    def test_no_log_announces_a_retry_that_does_not_happen(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with listening(lambda connection: connection.close()) as port:
            lead_to(monkeypatch, port)
            with pytest.raises(UnclearAnswer):
                send()
        assert "Tenacity" not in caplog.text + capsys.readouterr().out


GRAPHQL_ERRORS = {"errors": [{"message": "no such blog"}]}


class TestMeaning:
    @pytest.mark.parametrize(
        ("answers", "answer", "means"),
        [
            ("graphql", Answer(200, {"data": {"post": {"id": 7}}}), Applied),
            ("graphql", Answer(200, {**GRAPHQL_ERRORS, "data": None}), EffectRefused),
            ("graphql", Answer(200, GRAPHQL_ERRORS), EffectRefused),
            ("graphql", Answer(200, {**GRAPHQL_ERRORS, "data": {"post": None}}), EffectRefused),
            ("graphql", Answer(200, {**GRAPHQL_ERRORS, "data": {"post": {"id": 7}}}), UnclearAnswer),
            ("graphql", Answer(200, b"<html>"), UnclearAnswer),
            ("ok", Answer(200, {"ok": True, "id": 7}), Applied),
            ("ok", Answer(200, {"ok": False, "error": "channel_not_found"}), EffectRefused),
            ("ok", Answer(200, {"ok": False, "error": "ratelimited"}), EffectNotNow),
            ("ok", Answer(200, {"ok": False, "error": "fatal_error"}), UnclearAnswer),
            ({"applied_when": [409]}, Answer(409), Applied),
            ({"refused_when": "5xx"}, Answer(502), EffectRefused),
            (
                {"not_now": {"status": [403, 404], "json": {"$.code": "busy"}}},
                Answer(403, {"code": "busy"}),
                EffectNotNow,
            ),
            ({"not_now": {"status": 403, "json": {"$.code": "busy"}}}, Answer(403, {"code": "no"}), EffectRefused),
            ({"unknown": "4xx"}, Answer(422), UnclearAnswer),
            ([{"unknown": 422}, "ok"], Answer(422), UnclearAnswer),
            ('{"unknown": 422}', Answer(422), UnclearAnswer),
            ({"refused_when": {"has": "$.error", "lacks": "$.id"}}, Answer(200, {"error": "x"}), EffectRefused),
            ({"refused_when": {"has": "$.error", "lacks": "$.id"}}, Answer(200, {"error": "x", "id": 7}), Applied),
        ],
    )
    @pytest.mark.parametrize("by", ["its author", "its connection"])
    def test_an_answer_means_what_its_author_or_its_connection_declares(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, answers: Any, answer: Answer, means: Any, by: str
    ) -> None:
        target.answers = [answer]
        declared = answers if isinstance(answers, str) else json.dumps(answers)
        if by == "its connection":
            lead_to(monkeypatch, target.port, extra=json.dumps({EXTRA: declared}))
        to = HttpTarget("publish", answers=answers if by == "its author" else None)
        if means is Applied:
            assert send(to).own
        else:
            with pytest.raises(means):
                send(to)
        assert EXTRA not in target.received[0].headers

    def test_what_is_there_already_is_applied_by_another_unless_a_probe_can_tell(self, target: Target) -> None:
        taken = Answer(400, {"error": "must be unique"})
        target.answers = [taken, taken]
        assert not send(HttpTarget("publish", answers={"already_there": 400})).own
        probe = plan_probe("cms", {"endpoint": "/posts/kettle"}, "publish")
        with pytest.raises(EffectRefused):
            send(HttpTarget("publish", answers={"already_there": 400}, probe_plan=probe))

    @pytest.mark.parametrize("status", [404, 410, 403])
    def test_a_record_that_was_gone_is_deleted_by_another_unless_a_probe_can_tell(
        self, target: Target, status: int
    ) -> None:
        target.answers = [Answer(status)] * 2
        gone = send(HttpTarget("publish", answers="hidden"), request("DELETE"))
        assert gone == Applied(None, {"status": status, "note": "it was gone"}, own=False)
        probe = plan_probe("cms", {"endpoint": "/posts/7"}, "publish")
        with pytest.raises(EffectRefused):
            send(HttpTarget("publish", answers="hidden", probe_plan=probe), request("DELETE"))

    def test_a_probe_reads_answers_in_the_same_way(self, target: Target) -> None:
        probe = plan_probe("cms", {"endpoint": "/posts/kettle", "found": {"$.title": "Kettle"}}, "publish")
        to = HttpTarget("publish", probe_plan=probe, answers=["hidden", "ok"])
        target.answers = [Answer(403), Answer(200, {"ok": False, "error": "x"}), Answer(200, {"title": "Kettle"})]
        plan = request(json={"title": "Kettle"})
        assert isinstance(to.probe(plan, KEY), NotApplied)
        assert isinstance(to.probe(plan, KEY), CannotTell)
        assert to.probe(plan, KEY) == Applied()

    @pytest.mark.parametrize(
        "declared", ["slack", 5, {"when": 200}, {"unknown": "9xx"}, {"unknown": {"stat": 1}}, {"unknown": {}}, "[1]"]
    )
    def test_a_declaration_that_says_nothing_is_refused_when_it_is_planned(self, declared: Any) -> None:
        with pytest.raises(PlanError, match="says nothing of the answers"):
            rules_of(declared, "publish")

    def test_an_extra_that_says_nothing_refuses_before_anything_is_sent(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lead_to(monkeypatch, target.port, extra=json.dumps({EXTRA: "slack"}))
        with pytest.raises(EffectRefused, match="says nothing of the answers") as refused:
            send()
        assert (refused.value.answered, target.received) == (False, [])


class TestWords:
    def test_the_words_of_the_target_are_in_the_error_on_one_line_and_bounded(self, target: Target) -> None:
        target.answers = [Answer(422, {"error": "the title\nis too long", "x": "y" * 5000}), Answer(500, b"<h1>Oh\nno")]
        with pytest.raises(EffectRefused, match=r"answered 422 .*the title\\nis too long") as refused:
            send()
        assert len(str(refused.value)) < 2500
        with pytest.raises(UnclearAnswer, match="answered 500 Internal Server Error: <h1>Oh no"):
            send()

    def test_a_secret_in_them_is_masked(self, target: Target) -> None:
        target.answers = [Answer(400, {"request": {"password": "s3cr3t-of-a-target"}})]
        with pytest.raises(EffectRefused) as refused:
            send()
        assert "s3cr3t-of-a-target" not in str(refused.value)
        assert "***" in str(refused.value)


class TestPages:
    RECORD: dict[str, Any] = {"key": KEY, "id": 7}  # noqa: RUF012 - it is never changed
    OTHER: dict[str, Any] = {"key": "another", "id": 1}  # noqa: RUF012

    def probe(self, **declared: Any) -> Any:
        fields = {"found_in": "$.items", "found": {"$.key": "{effect_key}"}, "external_id_path": "$.id", **declared}
        probe = plan_probe("cms", {"endpoint": "/posts", **fields}, "publish")
        return HttpTarget("publish", probe_plan=probe).probe(request(), KEY)

    @pytest.mark.parametrize(
        ("following", "first", "second"),
        [
            ("$.next", Answer(200, {"items": [OTHER], "next": "/posts?page=2&a=b"}), "/posts?page=2&a=b"),
            ("link", Answer(200, {"items": [OTHER]}, {"Link": '</posts?after=1>; rel="next"'}), "/posts?after=1"),
            ({"parameter": "page"}, Answer(200, {"items": [OTHER]}), "/posts?page=2"),
            ({"parameter": "offset", "first": 0}, Answer(200, {"items": [OTHER]}), "/posts?offset=1"),
            (
                {"parameter": "cursor", "path": "$.meta.cursor"},
                Answer(200, {"items": [OTHER], "meta": {"cursor": "c+1"}}),
                "/posts?cursor=c%2B1",
            ),
        ],
    )
    def test_every_page_is_read_until_there_is_no_other(
        self, target: Target, following: Any, first: Answer, second: str
    ) -> None:
        last = Answer(200, {"items": [], "next": None})
        target.answers = [first, Answer(200, {"items": [self.RECORD]}), last]
        assert self.probe(next=following) == Applied("7")
        assert target.received[1].path == second

        target.reset()
        target.answers = [first, last]
        assert isinstance(self.probe(next=following), NotApplied)

    def test_more_pages_than_may_be_read_prove_nothing(self, target: Target) -> None:
        target.answers = [Answer(200, {"items": [self.OTHER], "next": f"/posts?page={page}"}) for page in range(2, 9)]
        cannot = self.probe(next="$.next", pages=3)
        assert cannot.why == "it sees no trace, and there are more pages than it may read"
        assert len(target.received) == 3

    def test_a_list_that_leads_back_to_itself_ends(self, target: Target) -> None:
        target.answers = [Answer(200, {"items": [self.OTHER], "next": "/posts"})] * 9
        assert "leads back to a page" in self.probe(next="$.next").why
        assert len(target.received) <= 2

    def test_a_page_on_another_host_is_not_asked_for(self, target: Target) -> None:
        target.answers = [Answer(200, {"items": [], "next": "http://127.0.0.1:1/posts"})]
        assert self.probe(next="$.next").why == "its next page is on another host"

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (Answer(200, {"items": [OTHER], "next": "/posts?page=2"}), r"the list has a further page (next)"),
            (Answer(200, {"items": [OTHER], "has_more": True}), "has a further page (has_more)"),
            (Answer(200, {"items": [OTHER], "total": 57}), "is longer than what it sees (total: 57)"),
            (Answer(200, {"items": [OTHER]}, {"Link": '</posts?after=1>; rel="next"'}), "a further page (Link)"),
            (Answer(200, {"rows": []}), "its answer has no list at $.items"),
        ],
    )
    def test_a_list_that_goes_on_proves_nothing_where_no_one_says_how_to_read_on(
        self, target: Target, answer: Answer, why: str
    ) -> None:
        target.answers = [answer]
        assert why in self.probe().why

    def test_a_filter_that_the_target_ignores_proves_nothing(self, target: Target) -> None:
        target.answers = [Answer(200, {"items": [self.OTHER] * 20})]
        assert "the target ignores what it asks for" in self.probe(query={"key": "{effect_key}"}).why

    def test_two_records_are_a_write_that_was_made_twice(self, target: Target) -> None:
        target.answers = [Answer(200, {"items": [self.RECORD, {**self.RECORD, "id": 8}]})]
        cannot = self.probe()
        assert (cannot.found, cannot.why) == (2, "it sees 2 records that could be this write")

    @pytest.mark.parametrize(
        "declared",
        [
            {"found": None},
            {"found_in": None, "next": "link"},
            {"next": 5},
            {"next": {"path": "$.next"}},
            {"next": {"parameter": "page", "size": 5}},
            {"pages": 0},
            {"pages": True},
            {"pages": 201},
        ],
    )
    def test_a_probe_that_cannot_work_is_refused_when_it_is_planned(self, declared: dict[str, Any]) -> None:
        with pytest.raises(PlanError, match="the probe of the effect 'publish'"):
            self.probe(**declared)
