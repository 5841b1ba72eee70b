"""What is a secret is shown nowhere, what is none is shown as it is, and a digest covers both."""

from __future__ import annotations

import hashlib
import hmac
import json
import traceback
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.log import mask_secret, redact

from airflow_provider_aihandoff.core.digests import canonical_json, keyed_digest
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.models import EffectPlan
from airflow_provider_aihandoff.operators import masking
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.masking import MASK, configured_names, hide_from_logs, masked
from airflow_provider_aihandoff.targets.function import FunctionTarget
from airflow_provider_aihandoff.targets.http import HttpTarget
from airflow_provider_aihandoff.targets.postgres import database_of
from airflow_provider_aihandoff.targets.rollback_functions import rollback_function

SECRET = "s3cret-of-these-tests"


@rollback_function
def unsend(**arguments: Any) -> None:
    """What an undo of these tests names."""


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "Authorization",
            "proxy-authorization",
            "Cookie",
            "Set-Cookie",
            "X-Api-Key",
            "X-Auth-Token",
            "api_key",
            "apiKey",
            "APIKEY",
            "client_secret",
            "clientSecret",
            "access_token",
            "accessToken",
            "password",
            "dbPassword",
            "private_key",
            "privateKey",
            "credentials",
            "service_account",
            "webhook_url",
        ],
    )
    def test_the_value_of_a_secret_name_is_masked_at_any_depth(self, name: str) -> None:
        assert masked({"tools": [{"headers": {name: SECRET}}]}) == {"tools": [{"headers": {name: MASK}}]}

    @pytest.mark.parametrize(
        "name",
        [
            "max_output_tokens",
            "maxTokens",
            "prompt_cache_key",
            "Idempotency-Key",
            "title",
            "tokenizer",
            "secretary",
            "Secretary",
            "cookies_allowed",
            "public_key",
            "input_tokens_details",
            "value",
        ],
    )
    def test_a_name_that_is_not_secret_keeps_its_value(self, name: str) -> None:
        assert masked({name: "value"}) == {name: "value"}

    def test_a_name_that_airflow_is_configured_to_hide_is_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert masked({"customer_pin": SECRET}) == {"customer_pin": SECRET}
        monkeypatch.setenv("AIRFLOW__CORE__SENSITIVE_VAR_CONN_NAMES", "customer_pin,other")
        monkeypatch.setattr(masking, "configured_names", configured_names.__wrapped__)  # as a new process reads it
        assert masked({"customer_pin": SECRET, "customerPin": SECRET}) == {"customer_pin": MASK, "customerPin": MASK}
        assert masked({"url": f"/posts?customer_pin={SECRET}"}) == {"url": f"/posts?customer_pin={MASK}"}

    @pytest.mark.parametrize("name", ["password", "X-Auth-Token", "client_secret", "api_key", "Authorization"])
    def test_a_credential_is_masked_where_airflow_shows_such_names(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(_secrets_masker(), "hide_sensitive_var_conn_fields", False, raising=False)
        assert masked({name: SECRET}) == {name: MASK}

    @pytest.mark.parametrize("value", [SECRET, 1234567, 1.5, ""])
    def test_a_text_or_a_number_under_a_secret_name_is_masked(self, value: Any) -> None:
        assert masked({"pin": 1, "password": value}) == {"pin": 1, "password": MASK}

    @pytest.mark.parametrize("value", [None, True, False])
    def test_true_false_and_null_under_a_secret_name_are_not_masked(self, value: Any) -> None:
        assert masked({"password": value}) == {"password": value}

    def test_each_item_of_a_list_is_masked_and_an_object_goes_by_its_own_names(self) -> None:
        shown = masked({"Authorization": [SECRET, SECRET], "credentials": {"user": "shop", "password": SECRET}})
        assert shown == {"Authorization": [MASK, MASK], "credentials": {"user": "shop", "password": MASK}}

    def test_a_business_field_that_sounds_like_a_secret_is_shown_and_one_that_is_named_like_one_is_where_asked(
        self,
    ) -> None:
        plan = {"authorization_code_type": "B2", "credentials": "MSc", "deep": [{"credentials": {"level": "MSc"}}]}
        assert masked(plan) == {**plan, "credentials": MASK}
        assert masked(plan, shown_fields=["credentials"]) == plan
        url = {"url": "/x?token=1&sig=2"}
        assert masked(url, shown_fields=["token"]) == {"url": f"/x?token=1&sig={MASK}"}

    def test_a_field_that_is_named_secret_and_shown_is_secret(self) -> None:
        assert masked({"credentials": "MSc"}, ["credentials"], ["credentials"]) == {"credentials": MASK}


class TestKnown:
    """Texts that Airflow's masker knows, such as the password of a connection."""

    @pytest.mark.parametrize("word", ["publish", "Publish", "PUBLISH", "123456", "a-b-c"])
    def test_one_that_could_be_a_word_is_masked_only_where_it_is_the_whole_value(self, word: str) -> None:
        mask_secret(word)
        plan = {"action": word, "body": f'{{"text":"to {word} the note","{word}er":1}}', "url": f"/{word}/7"}
        assert masked(plan) == {**plan, "action": MASK}
        assert masked(plan, shown_fields=["action"]) == plan

    def test_another_one_is_masked_anywhere_and_is_shown_by_no_name(self) -> None:
        mask_secret("correct-horse-7")
        plan = {"action": "a correct-horse-7!", "list": ["xcorrect-horse-7x"], "rest": "publish"}
        shown = {"action": f"a {MASK}!", "list": [f"x{MASK}x"], "rest": "publish"}
        assert masked(plan) == masked(plan, shown_fields=["action", "list"]) == {**shown, "rest": masked("publish")}

    def test_words_and_others_in_one_text_are_masked_each_by_itself(self) -> None:
        mask_secret("correct-horse-7")
        mask_secret("publishing")
        assert masked("publishing correct-horse-7 publishing") == f"publishing {MASK} publishing"


class TestUrls:
    @pytest.mark.parametrize("field", ["url", "endpoint"])
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            (f"http://cms/posts?api_key={SECRET}", f"http://cms/posts?api_key={MASK}"),
            (f"https://shop:{SECRET}@cms/posts", f"https://{MASK}@cms/posts"),
            (f"https://hooks.slack.com/services/T1/B2/{SECRET}", f"https://hooks.slack.com/services/T1/B2/{MASK}"),
            (f"/posts?page=2&access_token={SECRET}&all=1", f"/posts?page=2&access_token={MASK}&all=1"),
            (f"/posts?token={SECRET}&token={SECRET}#top", f"/posts?token={MASK}&token={MASK}#top"),
            ("/posts/token/a=b?page=2", "/posts/token/a=b?page=2"),
            ("/posts?max_tokens=5&x", "/posts?max_tokens=5&x"),
        ],
    )
    def test_a_secret_parameter_of_a_query_is_masked(self, field: str, url: str, shown: str) -> None:
        assert masked({field: url}) == {field: shown}

    def test_a_parameter_of_a_query_that_the_author_names_is_masked(self) -> None:
        assert masked({"url": f"/posts?pin={SECRET}&x=1"}, ["pin"]) == {"url": f"/posts?pin={MASK}&x=1"}

    def test_a_query_that_stands_by_itself_is_masked_by_its_names(self) -> None:
        assert masked({"query": {"api_key": SECRET, "page": 2}}) == {"query": {"api_key": MASK, "page": 2}}


class TestBodies:
    @pytest.mark.parametrize("field", ["body", "json"])
    def test_the_json_text_of_a_body_is_masked_by_its_names(self, field: str) -> None:
        body = json.dumps({"title": "Ü", "auth": {"client_secret": SECRET}, "list": [{"token": SECRET}]})
        shown = masked({field: body})[field]
        assert json.loads(shown) == {"title": "Ü", "auth": {"client_secret": MASK}, "list": [{"token": MASK}]}

    @pytest.mark.parametrize(
        "body", ['{ "b": 1.10,\n "a": "\\u00dc" }', "token=abc", "", "[]", '"text"', "17", "{broken", "null"]
    )
    def test_a_body_without_a_secret_is_shown_unchanged(self, body: str) -> None:
        assert masked({"body": body}) == {"body": body}

    def test_a_field_that_the_author_names_is_masked_in_a_body(self) -> None:
        shown = masked({"body": '{"pin":1234,"keep":{"pin":["a"]}}'}, ["pin"])["body"]
        assert json.loads(shown) == {"pin": MASK, "keep": {"pin": MASK}}

    def test_a_text_that_airflow_knows_as_a_secret_is_masked_in_a_body(self) -> None:
        mask_secret("correct horse battery staple")
        assert masked({"body": '{"note":"say: correct horse battery staple!"}'}) == {
            "body": f'{{"note":"say: {MASK}!"}}'
        }


class TestSecretFields:
    @pytest.mark.parametrize("value", [SECRET, 1234, ["a", "b"], {"a": {"b": 1}}, None, True])
    def test_every_value_of_a_secret_field_is_masked_at_any_depth(self, value: Any) -> None:
        assert masked({"parameters": [{"pin": value}], "pins": "kept"}, ["pin"]) == {
            "parameters": [{"pin": MASK}],
            "pins": "kept",
        }

    def test_the_name_of_a_secret_field_matches_exactly(self) -> None:
        assert masked({"PIN": "kept", "my_pin": "kept"}, ["pin"]) == {"PIN": "kept", "my_pin": "kept"}


def test_a_text_that_airflow_knows_as_a_secret_is_masked_wherever_it_stands() -> None:
    mask_secret("correct horse battery staple")
    plan = {"sql": "SELECT 'correct horse battery staple'", "list": ["correct horse battery staple"], "n": 1}
    assert masked(plan) == {"sql": f"SELECT '{MASK}'", "list": [MASK], "n": 1}


def test_masking_does_not_change_the_original_value() -> None:
    plan = {"headers": {"Authorization": "value"}, "body": '{"token":"x"}', "count": 3, "flag": None}
    masked(plan, ["count"])
    assert plan == {"headers": {"Authorization": "value"}, "body": '{"token":"x"}', "count": 3, "flag": None}


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("header", lambda secret: {"headers": {"Authorization": f"Bearer {secret}"}}),
        ("query", lambda secret: {"url": f"http://cms/?api_key={secret}"}),
        ("body", lambda secret: {"body": json.dumps({"password": secret})}),
        ("named", lambda secret: {"parameters": {"pin": secret}}),
    ],
)
def test_what_is_masked_is_hidden_from_logs_as_well(field: str, place: Any) -> None:
    secret = f"{SECRET}-in-a-{field}"
    hide_from_logs(place(secret), ["pin"])
    assert secret not in str(redact(f"said: Bearer {secret}!"))


def test_what_is_hidden_from_logs_comes_back_as_it_may_be_shown() -> None:
    secret = f"{SECRET}-that-a-note-repeats"
    assert hide_from_logs({"note": f"with {secret}", "pin": secret}, ["pin"]) == {"note": f"with {MASK}", "pin": MASK}
    assert hide_from_logs({"note": f"with {secret}", "title": "Kettle"}) == {"note": f"with {MASK}", "title": "Kettle"}


class TestDigest:
    PLAN: ClassVar[dict[str, Any]] = {"headers": {"Authorization": SECRET}, "body": "Ü"}

    def test_a_secret_digest_is_the_keyed_hash_of_the_canonical_json(self) -> None:
        expected = hmac.new(b"the key", canonical_json(self.PLAN).encode(), hashlib.sha256).hexdigest()
        assert keyed_digest(self.PLAN, "the key") == expected
        assert keyed_digest(dict(reversed(self.PLAN.items())), "the key") == expected

    def test_another_secret_or_another_key_has_another_digest(self) -> None:
        other = {**self.PLAN, "headers": {"Authorization": "another"}}
        digests = {keyed_digest(plan, key) for plan in (self.PLAN, other) for key in ("the key", "another key")}
        assert len(digests) == 4

    @pytest.fixture
    def planned(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The plan of an effect, as it is kept, with one more part."""
        cms = {"conn_type": "http", "host": "cms", "port": 80, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))

        def planned(*, key: str = "the key", after: tuple[str, ...] = (), **parts: Any) -> EffectPlan:
            given = {"endpoint": "/posts", "http_conn_id": "cms", **parts}
            job: Any = SimpleNamespace(job_id=1)
            task = HttpSideEffectOperator(task_id="publish", job=1, secret_fields=["pin"], **given)
            return task.effect_plan(job, key=key, after=after)

        return planned

    @pytest.mark.parametrize(
        "part",
        [
            lambda secret: {"headers": {"Authorization": f"Bearer {secret}"}},
            lambda secret: {"headers": {"Cookie": f"session={secret}"}},
            lambda secret: {"endpoint": f"/posts?access_token={secret}"},
            lambda secret: {"query": {"api_key": secret}},
            lambda secret: {"json": {"deep": [{"pin": secret}]}},
            lambda secret: {"undo": {"method": "DELETE", "endpoint": "/posts", "headers": {"X-Api-Key": secret}}},
        ],
    )
    def test_the_digest_of_an_effect_covers_its_secrets_and_the_stored_plan_has_none(
        self, planned: Any, part: Any
    ) -> None:
        one, same, other = (planned(**part(secret)) for secret in (SECRET, SECRET, f"other-{SECRET}"))
        assert one.plan_digest == same.plan_digest != other.plan_digest
        assert (one.shown, one.undo) == (other.shown, other.undo)
        assert SECRET not in json.dumps([one.shown, one.undo])
        assert SECRET in json.dumps(one.plan) or "undo" in part(SECRET)

    def test_the_digest_of_an_effect_covers_its_order_and_depends_on_the_key(self, planned: Any) -> None:
        digests = [planned(), planned(after=("store",)), planned(key="another key")]
        assert len({each.plan_digest for each in digests}) == 3

    def test_an_error_of_a_plan_that_cannot_be_made_does_not_quote_its_secrets(
        self, planned: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mail = {"conn_type": "smtp", "host": "mail", "port": 25}
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(mail))
        task = EmailSideEffectOperator(
            task_id="mail", job=1, smtp_conn_id="mail", from_email="a@x.test", to="b@x.test", subject="s", text="t",
            headers={"X-Auth-Token": f"{SECRET}\nX: y"},
        )  # fmt: skip
        job: Any = SimpleNamespace(job_id=1)
        with pytest.raises(PlanError, match="has a line break") as refused:
            task.effect_plan(job, key="the key", after=())
        assert SECRET not in "".join(traceback.format_exception(refused.value))

    def test_what_the_kind_of_an_undo_sends_as_secrets_is_masked_and_registered(
        self, planned: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FunctionTarget, "secret_fields", frozenset({"voucher"}))
        undo = {
            "kind": "function",
            "function": f"{__name__}:unsend",
            "arguments": {"voucher": "v0ucher-of-an-undo", "pin": SECRET},
        }
        plan = planned(json={"voucher": "shown"}, undo=undo)
        assert plan.undo["plan"]["arguments"] == {"voucher": MASK, "pin": MASK}
        assert plan.undo["masked"] is True
        assert json.loads(plan.shown["body"]) == {"voucher": "shown"}
        assert redact("a v0ucher-of-an-undo") == "a ***"

    def test_what_the_kind_of_a_target_sends_as_secrets_is_masked(
        self, planned: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(HttpTarget, "secret_fields", frozenset({"voucher"}))
        plan = planned(
            json={"voucher": SECRET, "keep": 1}, undo={"method": "DELETE", "endpoint": "/", "json": {"voucher": 1}}
        )
        assert json.loads(plan.shown["body"]) == {"voucher": MASK, "keep": 1}
        assert json.loads(plan.undo["plan"]["body"]) == {"voucher": MASK}

    def test_an_undo_that_says_stars_by_itself_has_no_masked_secret(self, planned: Any) -> None:
        plan = planned(undo={"method": "DELETE", "endpoint": "/posts", "json": {"title": "***"}})
        assert plan.undo["masked"] is False

    def test_a_login_in_a_connections_host_is_in_no_plan(self, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        cms = {"conn_type": "http", "host": f"http://shop:{SECRET}@cms:8080"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))
        assert planned().plan["url"] == "http://cms:8080/posts"
        sales = {"conn_type": "postgres", "host": f"shop:{SECRET}@db", "schema": "sales"}
        monkeypatch.setenv("AIRFLOW_CONN_SALES", json.dumps(sales))
        assert database_of("sales") == "db:5432/sales"
