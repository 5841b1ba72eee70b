"""The declared undo: what an author may write, what becomes of it, and what the applied effect fills in."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.effects.undo import plan_undo, undo_plan, undo_steps, why_not
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.targets.rollback_functions import rollback_function

KEY = "aih-1-r1-0123456789abcdef"
DELETE = {"method": "DELETE", "endpoint": "/posts/{external_id}"}
UNMAIL = {"function": f"{__name__}:unsend"}
REMOVE = {"sql": "DELETE FROM reports WHERE report_id = %(id)s", "parameters": {"id": "{external_id}"}}

#: What targets have called their records, and worse.
HOSTILE = [
    "7/../../users/1",
    "7?all=true",
    "7#",
    "a b",
    '"}, "all": {"',
    "back\\slash",
    "line\nbreak",
    "Ü☕",
    "100%25",
    "{effect_key}",
    "{external_id}",
    "'; DROP TABLE reports; --",
]


@rollback_function
def unsend(mail: str) -> None: ...


@rollback_function
def is_sent(mail: str) -> None: ...


def effect(undo: dict[str, Any] | None, external_id: str | None = "post-7", **changes: Any) -> Effect:
    fields: dict[str, Any] = dict.fromkeys(Effect.__dataclass_fields__)
    own = {"effect_id": 1, "name": "publish", "effect_key": KEY, "state": EffectState.APPLIED}
    return Effect(**{**fields, **own, "undo": undo, "external_id": external_id, **changes})


def http(**plan: Any) -> dict[str, Any]:
    return {"kind": "http", "plan": {"connection": "cms", "method": "POST", "url": "http://cms/undo", **plan}}


def filled(undo: dict[str, Any], external_id: str = "post-7") -> dict[str, Any]:
    return undo_plan(effect(undo, external_id), None).plan


@pytest.fixture(autouse=True)
def _connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, port in (("CMS", 80), ("ARCHIVE", 8080)):
        connection = {"conn_type": "http", "host": name.lower(), "port": port, "schema": "http"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    sales = {"conn_type": "postgres", "host": "db", "login": "shop", "password": "pw", "schema": "sales"}
    monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", json.dumps(sales))


def plan(declared: dict[str, Any], kind: str = "http", connection: str | None = "cms") -> dict[str, Any]:
    defaults = {"connection": connection} if connection else {}
    return plan_undo(declared, kind=kind, name="publish", defaults=defaults)


class TestDeclared:
    def test_an_undo_over_http_is_planned_to_the_exact_request(self) -> None:
        assert plan({**DELETE, "headers": {"If-Match": 3}, "query": {"hard": True}}) == {
            "kind": "http",
            "plan": {
                "connection": "cms",
                "method": "DELETE",
                "url": "http://cms:80/posts/{external_id}",
                "headers": {"If-Match": "3"},
                "query": {"hard": True},
            },
            "idempotent": True,
        }

    @pytest.mark.parametrize(
        ("method", "declared", "idempotent"),
        [
            ("PUT", {}, True),
            ("delete", {}, True),
            ("POST", {}, False),
            ("patch", {}, False),
            ("POST", {"idempotent": True}, True),
            ("DELETE", {"idempotent": False}, False),
        ],
    )
    def test_sending_it_twice_is_safe_where_the_method_or_the_author_says_so(
        self, method: str, declared: dict[str, Any], idempotent: bool
    ) -> None:
        planned = plan({"method": method, "endpoint": "/posts/7", **declared})
        assert (planned["plan"]["method"], planned["idempotent"]) == (method.upper(), idempotent)

    def test_the_body_of_an_undo_is_the_json_that_is_sent(self) -> None:
        declared = {"method": "POST", "endpoint": "/undo", "json": {"id": "{external_id}", "why": "Ü"}}
        assert plan(declared)["plan"]["body"] == '{"id":"{external_id}","why":"Ü"}'
        assert plan({**declared, "json": '{"id": "{external_id}"}'})["plan"]["body"] == '{"id":"{external_id}"}'

    def test_the_probe_of_an_undo_is_planned_with_it(self) -> None:
        probe = {"endpoint": "/posts/{external_id}", "found": {"$.state": "deleted"}}
        planned = plan({**DELETE, "probe": probe, "timeout": 5, "grace": "60"})
        assert planned["probe"] == {"url": "http://cms:80/posts/{external_id}", "found": {"$.state": "deleted"}}
        assert (planned["timeout"], planned["grace"]) == (5.0, 60.0)

    def test_an_undo_may_go_to_another_system_than_the_effect(self) -> None:
        assert plan({**DELETE, "connection": "archive"})["plan"]["url"] == "http://archive:8080/posts/{external_id}"
        planned = plan({**REMOVE, "kind": "postgres", "connection": "sales_db"})
        assert planned == {
            "kind": "postgres",
            "plan": {"connection": "sales_db", "database": "db:5432/sales", **REMOVE},
            "marker_table": "aihandoff_marker",
        }

    def test_a_function_needs_no_connection(self) -> None:
        assert plan({**UNMAIL, "arguments": {"mail": "{external_id}"}}, "function", None) == {
            "kind": "function",
            "plan": {"function": f"{__name__}:unsend", "arguments": {"mail": "{external_id}"}},
            "idempotent": False,
        }
        planned = plan({**UNMAIL, "kind": "function", "probe": f"{__name__}:is_sent", "idempotent": True})
        assert (planned["probe"], planned["idempotent"], planned["plan"]["arguments"]) == (
            f"{__name__}:is_sent",
            True,
            {},
        )

    @pytest.mark.parametrize(
        ("declared", "kind", "what"),
        [
            (
                {"kind": "ftp"},
                "http",
                "has the kind 'ftp': no target of the kind 'ftp' is installed here. This step made no external write.",
            ),
            ({"kind": "email"}, "http", "has the kind 'email', which cannot undo anything"),
            ({"delete": "the note"}, "crm note", "has the kind 'crm note': no target of the kind"),
            ({**DELETE, "endpont": 1, "body": 2}, "http", "fields that its kind 'http' does not know: body, endpont"),
            ({**REMOVE, "method": "DELETE"}, "postgres", "fields that its kind 'postgres' does not know: method"),
            ({**UNMAIL, "connection": "cms"}, "function", "fields that its kind 'function' does not know: connection"),
            ({"endpoint": "/posts/7"}, "http", "lacks 'method'"),
            ({"method": "DELETE"}, "http", "lacks 'endpoint'"),
            ({"parameters": {}}, "postgres", "lacks 'sql'"),
            ({"arguments": {}}, "function", "lacks 'function'"),
            ({**REMOVE, "kind": "postgres"}, "http", "lacks 'connection'"),
            ({**REMOVE, "sql": "DELETE FROM t WHERE id = {external_id}"}, "postgres", "names {external_id} or"),
            ({**REMOVE, "sql": "SELECT '{effect_key}'"}, "postgres", "names {external_id} or {effect_key}"),
            ({**DELETE, "json": "{not json"}, "http", "did not render to JSON"),
            ({**DELETE, "endpoint": "/posts/../{external_id}"}, "http", "would not be sent to"),
            ({**DELETE, "probe": {"found": {}}}, "http", "the probe of the effect 'publish' lacks an endpoint"),
        ],
    )
    def test_an_undo_that_cannot_be_sent_is_refused_with_the_reason(
        self, declared: dict[str, Any], kind: str, what: str
    ) -> None:
        with pytest.raises(PlanError) as refused:
            plan(declared, kind)
        assert what in str(refused.value)
        assert "'publish'" in str(refused.value)

    def test_an_effect_without_a_connection_needs_one_for_its_undo(self) -> None:
        with pytest.raises(PlanError, match="lacks 'connection'"):
            plan(DELETE, "http", None)

    def test_a_refusal_says_what_there_is_instead(self) -> None:
        with pytest.raises(PlanError, match="and can undo: function, http, postgres"):
            plan({"kind": "ftp"})
        with pytest.raises(PlanError, match="It takes: connection, marker_table, parameters, rows, sql"):
            plan({"table": "reports"}, "postgres")


class TestWhyNot:
    @pytest.mark.parametrize(
        ("undo", "why"),
        [
            (None, "declares no undo"),
            ({"method": "DELETE", "endpoint": "/posts/1"}, "an earlier release kept for people to read"),
            ({"kind": "http", "plan": "DELETE /posts/1"}, "an earlier release kept for people to read"),
            ({"kind": 1, "plan": {}}, "an earlier release kept for people to read"),
            (http(headers={"X-Key": "***"}), "a masked secret, which the ledger does not keep"),
            (http(url="http://cms/undo?api_key=***"), "a masked secret"),
            ({**http(), "probe": {"query": {"tags": ["a", "***"]}}}, "a masked secret"),
        ],
    )
    def test_an_effect_that_cannot_be_undone_says_why(self, undo: dict[str, Any] | None, why: str) -> None:
        assert why in str(why_not(effect(undo)))

    @pytest.mark.parametrize(
        "undo",
        [
            http(url="http://cms/posts/{external_id}"),
            http(body='{"id":"{external_id}"}'),
            {**http(), "probe": {"url": "http://cms/{external_id}"}},
            {"kind": "function", "plan": {"function": "m:f", "arguments": {"ids": ["{external_id}"]}}},
        ],
    )
    def test_an_undo_that_names_an_external_id_needs_it(self, undo: dict[str, Any]) -> None:
        for unknown in (None, ""):
            assert "{external_id}, and its external id is not known" in str(why_not(effect(undo, unknown)))
        assert why_not(effect(undo, "post-7")) is None

    def test_an_undo_that_names_no_external_id_does_not_need_it(self) -> None:
        assert why_not(effect(http(query={"key": "{effect_key}"}), None)) is None

    @pytest.mark.parametrize("external_id", [".", ".."])
    def test_an_external_id_that_is_a_step_in_a_path_is_put_into_no_request(self, external_id: str) -> None:
        why = why_not(effect(http(url="http://cms/posts/{external_id}"), external_id))
        assert f"its external id is '{external_id}'" in str(why)
        assert why_not(effect({"kind": "postgres", "plan": REMOVE}, external_id)) is None


class TestFilledIn:
    @pytest.mark.parametrize("external_id", HOSTILE)
    def test_in_a_url_it_is_one_part_of_the_path(self, external_id: str) -> None:
        url = filled(http(url="http://cms/posts/{external_id}/undo"), external_id)["url"]
        parts = urlsplit(url)
        assert [unquote(part) for part in parts.path.split("/")] == ["", "posts", external_id, "undo"]
        assert (parts.netloc, parts.query, parts.fragment) == ("cms", "", "")

    @pytest.mark.parametrize("external_id", HOSTILE)
    def test_in_a_body_it_is_one_text(self, external_id: str) -> None:
        body = filled(http(body='{"id":"{external_id}","keep":1}'), external_id)["body"]
        assert json.loads(body) == {"id": external_id, "keep": 1}

    @given(st.text(st.characters(codec="utf-8"), min_size=1))
    def test_whatever_it_is_a_body_stays_what_was_approved(self, external_id: str) -> None:
        body = filled(http(body='{"ids":["{external_id}"],"all":false}'), external_id)["body"]
        assert json.loads(body) == {"ids": [external_id], "all": False}

    @pytest.mark.parametrize("external_id", HOSTILE)
    def test_anywhere_else_it_stands_as_it_is_and_its_protocol_quotes_it(self, external_id: str) -> None:
        query = {"id": "{external_id}", "url": "{external_id}", "body": ["{external_id}"]}
        sent = filled(http(query=query, headers={"X-Id": "<{external_id}>"}), external_id)
        assert sent["query"] == {"id": external_id, "url": external_id, "body": [external_id]}
        assert sent["headers"] == {"X-Id": f"<{external_id}>"}
        assert filled({"kind": "postgres", "plan": REMOVE}, external_id) == {
            **REMOVE,
            "parameters": {"id": external_id},
        }
        arguments = {"url": "{external_id}", "body": {"url": "{external_id}"}}
        called = filled({"kind": "function", "plan": {"function": "m:f", "arguments": arguments}}, external_id)
        assert called["arguments"] == {"url": external_id, "body": {"url": external_id}}

    def test_the_probe_is_filled_in_as_well(self) -> None:
        probe = {"url": "http://cms/{external_id}", "found": {"url": "/{external_id}", "$.key": "{effect_key}"}}
        planned = undo_plan(effect({**http(), "probe": probe}, "a/b"), None)
        assert planned.undo == {"probe": {"url": "http://cms/a%2Fb", "found": {"url": "/a/b", "$.key": KEY}}}

    def test_a_placeholder_inside_a_filled_in_value_is_not_filled_in(self) -> None:
        both = {"headers": {"X-Id": "{external_id}{effect_key}"}}
        assert filled(http(**both), "{effect_key}")["headers"] == {"X-Id": "{effect_key}" + KEY}
        assert filled(http(**both), "{external_id}")["headers"] == {"X-Id": "{external_id}" + KEY}

    def test_braces_that_are_not_a_placeholder_stay(self) -> None:
        body = '{"a":"{other}","b":"{ external_id }","n":1}'
        assert filled(http(body=body, query={"n": 1, "flag": None}))["body"] == body


class TestPlan:
    def test_an_undo_is_an_effect_of_its_own_named_after_the_one_that_it_undoes(self) -> None:
        undo = {**http(url="http://cms/{external_id}"), "idempotent": True, "timeout": 5.0}
        planned = undo_plan(effect(undo), "undo:announce")
        assert (planned.name, planned.kind, planned.after) == ("undo:publish", "http", ("undo:announce",))
        assert planned.undo == {"idempotent": True, "timeout": 5.0}
        assert planned.plan == planned.shown
        assert undo_plan(effect(http()), None).after == ()
        assert undo_plan(effect(http()), None).undo is None

    @pytest.mark.parametrize(
        "other",
        [
            effect(http(url="http://cms/{external_id}"), "post-8"),
            effect(http(url="http://cms/posts/{external_id}")),
            effect({**http(url="http://cms/{external_id}"), "idempotent": True}),
            effect(http(url="http://cms/{external_id}"), effect_key="aih-1-r2-0"),
        ],
    )
    def test_a_different_record_request_promise_or_effect_has_a_different_digest(self, other: Effect) -> None:
        one = effect(http(url="http://cms/{external_id}"))
        assert undo_plan(one, None).plan_digest == undo_plan(one, "undo:a").plan_digest
        assert undo_plan(one, None).plan_digest != undo_plan(other, None).plan_digest

    def test_the_declared_undo_is_not_changed(self) -> None:
        undo = http(url="http://cms/{external_id}")
        undo_plan(effect(undo), None)
        assert undo == http(url="http://cms/{external_id}")


class TestSteps:
    UNDO = http(url="http://cms/{external_id}")

    def applied(self, number: int, **changes: Any) -> Effect:
        own = {"undo": self.UNDO, "external_id": f"id-{number}", "effect_id": number, "name": f"e{number}"}
        return effect(**{**own, **changes})

    def test_the_last_effect_is_undone_first_by_its_exact_request(self) -> None:
        void = self.applied(2, state=EffectState.VOID)
        effects = [self.applied(1), void, self.applied(3, undo=None), self.applied(4)]
        steps = undo_steps(effects, {4: "was changed"})
        assert [step.effect.effect_id for step in steps] == [4, 3, 1]
        assert [step.plan and step.plan.plan["url"] for step in steps] == [None, None, "http://cms/id-1"]
        assert [step.why_not for step in steps] == ["was changed", "declares no undo", None]
        assert [step.effect.effect_id for step in undo_steps(effects, {}, leave=["e3"])] == [4, 1]

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"undo": {"method": "DELETE", "endpoint": "/posts/1"}}, "an earlier release"),
            ({"undo": http(headers={"Authorization": "***"})}, "masked secret"),
            ({"external_id": None}, "its external id is not known"),
        ],
    )
    def test_an_undo_that_cannot_be_sent_has_no_request_and_says_why(self, changes: dict[str, Any], why: str) -> None:
        (step,) = undo_steps([self.applied(1, **changes)], {})
        assert step.plan is None
        assert why in str(step.why_not)
