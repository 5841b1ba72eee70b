"""Writes over HTTP and probes for them: what is asked, what an answer means, and what stays out of errors."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_aihandoff.core.effects.placeholders import LITERALS
from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell, Found, UnclearAnswer
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe, plan_request
from tests.target import DROP, Answer, Target

KEY = "aih-1-r1-0123456789abcdef"


POST = {"key": KEY, "title": "Kettle", "price": 9.9, "count": 7, "published": True, "draft": False, "gone": None}
OTHER = {"key": "aih-2", "title": "Pan"}


def request(endpoint: str = "/posts/kettle", method: str = "PUT", **parts: Any) -> dict[str, Any]:
    return plan_request("cms", method, endpoint, name="publish", **parts)


@pytest.fixture
def probe_with(target: Target) -> Callable[..., Found]:
    """Probe for a write; the target answers as it is set to."""

    def probe_with(*answers: Answer, writes: Any = POST, method: str = "PUT", **probe: Any) -> Found:
        target.answers = list(answers)
        declared = {"endpoint": "/posts/{effect_key}", **probe}
        to = HttpTarget("publish", probe_plan=plan_probe("cms", declared, "publish"))
        return to.probe(request(method=method, json=writes), KEY)

    return probe_with


def said(found: Found) -> str:
    return "cannot tell" if isinstance(found, CannotTell) else "found" if isinstance(found, Applied) else "not found"


class TestConditions:
    @pytest.mark.parametrize(
        ("found", "answer", "what"),
        [
            ({}, POST, "found"),
            ({"$.key": "{effect_key}"}, POST, "found"),
            ({"$.key": "{effect_key}"}, OTHER, "not found"),
            ({"$.title": "Kettle"}, POST, "found"),
            ({"$.title": "kettle"}, POST, "not found"),
            ({"$.nothing": "Kettle"}, POST, "cannot tell"),
            ({"$.title": "Kettle", "$.key": "{effect_key}"}, POST, "found"),
            ({"$.title": "Pan", "$.key": "{effect_key}"}, POST, "not found"),
            ({"$.title": "Kettle", "$.key": "another"}, POST, "not found"),
        ],
    )
    def test_a_write_is_found_where_every_condition_holds(
        self, probe_with: Any, found: dict[str, Any], answer: Any, what: str
    ) -> None:
        assert said(probe_with(Answer(200, answer), found=found)) == what

    @pytest.mark.parametrize(
        ("found", "records", "what"),
        [
            ({"$.key": "{effect_key}"}, [OTHER, POST], "found"),
            ({"$.key": "{effect_key}"}, [OTHER], "not found"),
            ({"$.key": "{effect_key}"}, [], "not found"),
            ({"$.key": "{effect_key}", "$.title": "Kettle"}, [OTHER, POST], "found"),
            ({"$.key": "{effect_key}", "$.title": "Pan"}, [OTHER, POST], "not found"),
            ({"$.kye": "{effect_key}"}, [OTHER, POST], "cannot tell"),
            ({"$.key": "{effect_key}"}, [POST, OTHER, POST], "cannot tell"),
        ],
    )
    def test_every_condition_holds_for_one_record_of_a_list_and_for_no_other(
        self, probe_with: Any, found: dict[str, Any], records: list[Any], what: str
    ) -> None:
        for path, answer in (("$.items", {"items": records}), ("$", records), ("$.a[0]", {"a": [records]})):
            assert said(probe_with(Answer(200, answer), endpoint="/posts", found_in=path, found=found)) == what

    @pytest.mark.parametrize(
        "path", ["$[*].key", "$..key", "$.items[?(@.key == '{effect_key}')].title", "$.items[0:2]"]
    )
    @pytest.mark.parametrize("field", ["found", "external_id_path", "found_in"])
    def test_a_path_that_can_lead_to_several_records_is_refused_with_what_to_write(self, path: str, field: str) -> None:
        declared = {"endpoint": "/posts", "found": {"$.key": "x"}, field: {path: "x"} if field == "found" else path}
        with pytest.raises(PlanError, match=r"can lead to several values.*Name the list in found_in"):
            plan_probe("cms", declared, "publish")

    def test_a_record_that_may_be_anyones_proves_nothing(self, probe_with: Any) -> None:
        someone = {"title": "A kettle of Ann's", "state": "live"}
        for found in (None, {"$.state": "live"}):
            probe = {"endpoint": "/posts/kettle", **({"found": found} if found else {})}
            cannot = probe_with(Answer(200, someone), **probe)
            assert isinstance(cannot, CannotTell)
            assert cannot.found == 1
        assert (
            said(probe_with(Answer(200, someone), endpoint="/posts/kettle", found={"$.title": "Kettle"})) == "not found"
        )

    def test_the_probe_of_a_delete_sees_whether_the_record_is_gone(self, probe_with: Any) -> None:
        record, lists = {"endpoint": "/posts/7"}, {"endpoint": "/posts", "found_in": "$", "found": {"$.title": "Pan"}}
        asked = {"writes": None, "method": "DELETE"}
        assert said(probe_with(Answer(200, OTHER), **record, **asked)) == "not found"
        assert said(probe_with(Answer(404), **record, **asked)) == "found"
        assert said(probe_with(Answer(200, [POST, OTHER]), **lists, **asked)) == "not found"
        assert said(probe_with(Answer(200, [POST]), **lists, **asked)) == "found"

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("$.count", 7),
            ("$.count", "7"),
            ("$.price", 9.9),
            ("$.price", "9.9"),
            ("$.published", True),
            ("$.published", "true"),
            ("$.published", "True"),
            ("$.draft", False),
            ("$.draft", "False"),
            ("$.gone", None),
            ("$.gone", "null"),
            ("$.gone", "None"),
            ("$.tags", ["a", 1]),
            ("$.tags", '["a", 1]'),
            ("$.tags", "['a', 1]"),
        ],
    )
    def test_an_expected_value_is_what_a_template_makes_of_it_or_its_json(
        self, probe_with: Any, path: str, expected: Any
    ) -> None:
        written = {**POST, "tags": ["a", 1]}
        assert said(probe_with(Answer(200, written), found={path: expected}, writes=written)) == "found"

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("$.count", "70"),
            ("$.count", True),
            ("$.published", 1),
            ("$.published", "yes"),
            ("$.draft", ""),
            ("$.gone", ""),
            ("$.gone", False),
        ],
    )
    def test_a_value_other_than_the_expected_one_is_not_a_find(self, probe_with: Any, path: str, expected: Any) -> None:
        assert said(probe_with(Answer(200, POST), found={path: expected})) == "not found"

    def test_an_answer_without_the_expected_value_may_leave_the_write_unknown(self, probe_with: Any) -> None:
        found = {"$.key": "{effect_key}"}
        assert said(probe_with(Answer(200, OTHER), found=found, otherwise="unknown")) == "cannot tell"
        assert said(probe_with(Answer(200, POST), found=found, otherwise="unknown")) == "found"

    def test_an_invalid_path_is_refused_while_the_effect_is_planned(self) -> None:
        for fields in ({"found": {"$.items[": "x"}}, {"external_id_path": "$.items["}):
            with pytest.raises(PlanError, match=r"'\$\.items\['"):
                plan_probe("cms", {"endpoint": "/posts", **fields}, "publish")


class TestStatus:
    @pytest.mark.parametrize("status", [404, 410])
    def test_404_and_410_say_that_there_is_no_trace_of_the_write(self, probe_with: Any, status: int) -> None:
        assert said(probe_with(Answer(status))) == "not found"
        assert said(probe_with(Answer(status), otherwise="unknown")) == "not found"

    @pytest.mark.parametrize("status", [301, 400, 401, 403, 408, 429, 500, 502, 503])
    def test_any_other_status_of_a_probe_leaves_the_write_unknown(
        self, probe_with: Any, target: Target, status: int
    ) -> None:
        elsewhere = {"Location": f"http://127.0.0.1:{target.port}/elsewhere"}
        cannot = probe_with(Answer(status, POST, elsewhere), found={"$.title": "Kettle"})
        assert isinstance(cannot, CannotTell)
        assert f"it was answered {status}" in cannot.why
        assert '"title": "Kettle"' in cannot.why  # the target's own words
        assert len(target.received) == 1

    @pytest.mark.parametrize("body", [b"<html>maintenance</html>", None, b"\xff"])
    def test_a_probe_answer_that_is_not_json_leaves_the_write_unknown(
        self, probe_with: Any, body: bytes | None
    ) -> None:
        assert said(probe_with(Answer(200, body), found={"$.title": "Kettle"})) == "cannot tell"
        assert said(probe_with(Answer(200, body))) == "found"

    def test_a_probe_whose_connection_breaks_leaves_the_write_unknown(self, probe_with: Any) -> None:
        with pytest.raises(UnclearAnswer):
            probe_with(DROP)


class TestExternalId:
    @pytest.mark.parametrize(
        ("path", "answer", "external_id"),
        [
            ("$.id", {"id": 7}, "7"),
            ("$.id", {"id": "post-7"}, "post-7"),
            ("$.id", {"id": True}, "true"),
            ("$.id", {"id": None}, None),
            ("$.id", {"title": "Kettle"}, None),
        ],
    )
    def test_a_probe_reads_the_external_id_where_the_author_says(
        self, probe_with: Any, path: str, answer: Any, external_id: str | None
    ) -> None:
        for found in ({}, {"$.title": "Kettle"}):
            answer = {**answer, "title": "Kettle"}
            assert probe_with(Answer(200, answer), found=found, external_id_path=path) == Applied(external_id)

    def test_the_external_id_is_that_of_the_record_that_matches(self, probe_with: Any) -> None:
        records = [{**OTHER, "id": 1}, {**POST, "id": 2}]
        probe = {"found_in": "$.items", "found": {"$.key": "{effect_key}"}, "external_id_path": "$.id"}
        assert probe_with(Answer(200, {"items": records}), **probe) == Applied("2")

    @pytest.mark.parametrize(("value", "external_id"), [(7, "7"), ("p-7", "p-7"), (None, None), (1.5, "1.5")])
    def test_a_write_reads_the_external_id_where_the_author_says(
        self, target: Target, value: Any, external_id: str | None
    ) -> None:
        target.answers = [Answer(201, {"id": value})]
        applied = HttpTarget("publish", external_id_path="$.id").apply(request(), KEY)
        assert applied == Applied(external_id, {"status": 201})


class TestEffectKey:
    def test_the_effect_key_is_filled_in_everywhere_in_the_probe_and_nowhere_else(
        self, probe_with: Any, target: Target
    ) -> None:
        probe_with(
            Answer(200),
            endpoint="/posts/by-key/{effect_key}",
            query={"key": "{effect_key}", "tag": ["kettle", "k:{effect_key}"], "limit": 1},
            headers={"X-Key": "<{effect_key}>"},
        )

        (received,) = target.received
        assert received.method == "GET"
        assert received.path == f"/posts/by-key/{KEY}?key={KEY}&tag=kettle&tag=k%3A{KEY}&limit=1"
        assert (received.headers["X-Key"], received.body) == (f"<{KEY}>", b"")
        assert "Idempotency-Key" not in received.headers

    def test_the_effect_key_is_filled_into_a_write_where_its_author_wrote_it_and_nowhere_else(
        self, target: Target
    ) -> None:
        plan = request(
            "/posts/{effect_key}",
            json={"ref": "{effect_key}", "note": "a text that says {effect_key}"},
            headers={"X-Key": "<{effect_key}>"},
            query={"key": "{effect_key}"},
        )
        assert plan["body"].count("{effect_key}") == 2
        HttpTarget("publish").apply({**plan, LITERALS: [["body", 1]]}, KEY)
        (received,) = target.received
        assert received.path == f"/posts/{KEY}?key={KEY}"
        assert received.json == {"ref": KEY, "note": "a text that says {effect_key}"}
        assert (received.headers["X-Key"], received.headers["Idempotency-Key"]) == (f"<{KEY}>", KEY)

    def test_a_header_may_be_a_number(self, probe_with: Any, target: Target) -> None:
        assert said(probe_with(Answer(200), headers={"X-Version": 2})) == "found"
        assert target.received[0].headers["X-Version"] == "2"


class TestPlan:
    @pytest.mark.parametrize(
        ("declared", "what"),
        [
            ({"endpoint": "/posts", "fuond": {}, "method": "GET"}, "fields that are not known: fuond, method"),
            ({"found": {}}, "lacks an endpoint"),
            ({"endpoint": "/posts", "otherwise": "maybe"}, "must be 'not applied' or 'unknown'"),
        ],
    )
    def test_a_probe_that_cannot_be_sent_is_refused(self, declared: dict[str, Any], what: str) -> None:
        with pytest.raises(PlanError, match=f"the probe of the effect 'publish'.*{what}"):
            plan_probe("cms", declared, "publish")

    @pytest.mark.parametrize(
        "endpoint",
        [
            "/posts/..",
            "/posts/../users",
            "/posts/.",
            "/posts/%2E%2e/users",
            "/c#-notes",
            "/posts/..%2fusers",
            "/posts/%2e%2e%2Fusers",
            "/posts/..\\users",
            "/posts/..%5cusers",
            "/posts/%252e%252e%252fusers",
            "/posts/%25%32%65%252e/users",
            "/posts/%" + "25" * 9 + "2e",
            "/posts/..;v=1/users",
            "/posts/x%2f..",
            "/posts/a\\b",
            "/posts/a\nb",
            "/posts/.\t./users",
            "/posts/%2e%20/users",
        ],
    )
    def test_a_path_that_leads_to_another_place_than_it_says_is_refused(self, endpoint: str) -> None:
        with pytest.raises(PlanError, match="the effect 'publish' would not be sent to"):
            request(endpoint)
        with pytest.raises(PlanError, match="the effect 'publish' would not be sent to"):
            plan_probe("cms", {"endpoint": endpoint}, "publish")

    @pytest.mark.parametrize(
        "endpoint",
        [
            "/posts/a..b",
            "/posts/...",
            "/posts/a%2Fb",
            "/posts/100%25",
            "/posts?path=/../x",
            "/c%23",
            "/@evil.test",
            "/:80",
        ],
    )
    def test_any_other_path_reaches_the_target_unchanged(self, target: Target, endpoint: str) -> None:
        HttpTarget("publish").apply(request(endpoint), KEY)
        assert target.received[0].path == endpoint

    def test_an_endpoint_cannot_name_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps({"conn_type": "http", "schema": "https"}))
        for endpoint in ("evil.test/posts", "/evil.test", "//evil.test"):
            with pytest.raises(PlanError, match="its connection 'cms' names no host"):
                request(endpoint)

    @pytest.mark.parametrize(
        "base", ["http://cms.test", "http://cms.test/", "http://cms.test/v1", "http://cms.test:81"]
    )
    @pytest.mark.parametrize(
        "endpoint", ["@evil.test", "//evil.test", ".evil.test", ":99/x", "?x", "https://evil.test"]
    )
    def test_no_endpoint_changes_the_host(self, monkeypatch: pytest.MonkeyPatch, base: str, endpoint: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps({"conn_type": "http", "host": base}))
        assert urlsplit(request(endpoint)["url"]).netloc == urlsplit(base).netloc

    @pytest.mark.parametrize(
        "value", ["a\r\nX-Admin: 1", "a\nb", "\x00", "a\x7f", " a", "a ", "\u2028", "K\u00e9\u0142"]
    )
    def test_a_header_that_would_begin_another_one_or_cannot_be_sent_is_refused(self, value: str) -> None:
        for plan in (request, lambda **parts: plan_probe("cms", {"endpoint": "/posts", **parts}, "publish")):
            with pytest.raises(PlanError, match="the header 'X-Note' of the effect 'publish' cannot be sent"):
                plan(headers={"X-Note": value})

    def test_a_header_may_have_what_its_encoding_has(self, target: Target) -> None:
        HttpTarget("publish").apply(request(headers={"X-Note": "K\u00e9; a=b"}), KEY)
        assert target.received[0].headers["X-Note"] == "K\u00e9; a=b"


class TestErrors:
    SECRET = "k3y-of-the-cms"

    def whole(self, error: BaseException) -> str:
        """What a log shows of an error: its causes as well."""
        return "".join(traceback.format_exception(error))

    def secretive(self) -> dict[str, Any]:
        return request(f"/posts/kettle?api_key={self.SECRET}", query={"token": self.SECRET})

    def test_the_error_of_a_connection_that_breaks_does_not_show_the_query(self, target: Target) -> None:
        target.answers = [DROP]
        with pytest.raises(UnclearAnswer, match="ConnectionError") as broken:
            HttpTarget("publish").apply(self.secretive(), KEY)
        assert self.SECRET not in self.whole(broken.value)

    def test_the_error_of_a_failed_tls_handshake_does_not_show_the_query(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": target.port, "schema": "https"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))
        with pytest.raises(EffectNotNow, match=r"SSLError: .*/posts/kettle") as broken:
            HttpTarget("publish").apply(self.secretive(), KEY)
        assert not broken.value.answered
        assert self.SECRET not in self.whole(broken.value)

    def test_the_error_of_a_connection_that_was_never_made_does_not_show_the_query(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))
        with pytest.raises(EffectNotNow, match="no connection to the target") as never:
            HttpTarget("publish").apply(self.secretive(), KEY)
        assert self.SECRET not in self.whole(never.value)

    def test_the_error_of_a_connection_that_leads_elsewhere_does_not_show_the_query(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = self.secretive()
        connection = {"conn_type": "http", "host": "localhost", "port": target.port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))
        with pytest.raises(EffectRefused, match="leads to http://localhost") as elsewhere:
            HttpTarget("publish").apply(plan, KEY)
        assert self.SECRET not in self.whole(elsewhere.value)

    @pytest.mark.parametrize("status", [401, 500, 503])
    def test_the_error_of_an_answer_does_not_show_the_query(self, target: Target, status: int) -> None:
        target.answers = [Answer(status)]
        with pytest.raises((EffectRefused, EffectNotNow, UnclearAnswer), match=f"answered {status}") as answered:
            HttpTarget("publish").apply(self.secretive(), KEY)
        assert self.SECRET not in self.whole(answered.value)

    def test_the_error_of_a_probe_without_a_result_does_not_show_the_query(
        self, probe_with: Any, target: Target
    ) -> None:
        cannot = probe_with(Answer(500), query={"api_key": self.SECRET})
        assert self.SECRET in target.received[0].path
        assert cannot.why == "it was answered 500 Internal Server Error"
