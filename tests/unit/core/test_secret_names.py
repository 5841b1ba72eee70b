"""Names and places of secrets: whole words, where they stand, and nothing that only sounds like one."""

from __future__ import annotations

import pytest
from airflow.sdk._shared.secrets_masker.secrets_masker import DEFAULT_SENSITIVE_FIELDS

from airflow_provider_aihandoff.core.secret_names import has_words_of, hidden_in_url, is_secret_name, without_login


@pytest.mark.parametrize("name", sorted(DEFAULT_SENSITIVE_FIELDS))
def test_every_name_that_airflow_hides_by_default_is_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "signature", "X-Hub-Signature", "sig", "jwt", "session", "sessionId", "access_key", "secretKey",
        "AWS_SECRET_ACCESS_KEY", "db_password_2", "Authorization-Header", "refresh_tokens", "x-amz-security-token",
        "subscription-key", "password_value", "csrf",
    ],
)  # fmt: skip
def test_a_name_that_ends_as_one_of_a_secret_is_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "authorization_code_type", "token_count", "max_output_tokens", "tokenizer", "password_policy", "secretary",
        "design", "sign", "signal", "assignature", "keynote", "prompt_cache_key", "Idempotency-Key", "session_count",
        "passwordless", "cookies_allowed", "sidebar", "author", "proxy_host", "bearing", "",
    ],
)  # fmt: skip
def test_a_name_that_only_has_such_a_word_is_not(name: str) -> None:
    assert not is_secret_name(name)


def test_a_name_has_the_words_of_another_one_wherever_they_stand_together() -> None:
    assert has_words_of("customerSsnHash", ["ssn", "x"])
    assert has_words_of("bank-account-1", ["bank_account"])
    assert not has_words_of("classname", ["ssn", "", " "])
    assert not has_words_of("account_of_bank", ["bank_account"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.slack.com/services/T012/B345/abcDEF", "https://hooks.slack.com/services/T012/B345/#"),
        ("/services/T012/B345/abcDEF", "/services/T012/B345/#"),
        ("https://hooks.slack.com/workflows/T01/A02/123/abc/x", "https://hooks.slack.com/workflows/T01/A02/123/#"),
        ("https://discord.com/api/webhooks/123/abc-_d", "https://discord.com/api/webhooks/123/#"),
        ("https://discord.com/api/v10/webhooks/1/abc/messages/1", "https://discord.com/api/v10/webhooks/1/#/messages/1"),
        ("https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/c/d", "https://x.webhook.office.com/webhookb2/#"),
        ("https://api.telegram.org/bot123:AA-bb_c/sendMessage", "https://api.telegram.org/bot123:#/sendMessage"),
        ("https://hooks.zapier.com/hooks/catch/12/abc/", "https://hooks.zapier.com/hooks/catch/12/#/"),
        ("https://chat.test/hooks/abcdefghijklmnopqrstuvwxyz", "https://chat.test/hooks/#"),
        ("https://user:pass@cms/posts", "https://#@cms/posts"),
        ("user:pass@db:5432/sales", "#@db:5432/sales"),
        ("/posts?sig=abc&page=2;token=x#top", "/posts?sig=#&page=2;token=##top"),
        ("/services/42/orders/7", "/services/42/orders/7"),
        ("/bots/12/hooks/list", "/bots/12/hooks/list"),
    ],
)  # fmt: skip
def test_the_secrets_of_a_url_are_hidden_where_they_stand(url: str, shown: str) -> None:
    assert hidden_in_url(url, is_secret_name, lambda secret: "#") == shown


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("https://user:pass@cms:8080/base", "https://cms:8080/base"),
        ("http://token@cms", "http://cms"),
        ("user:pass@db", "db"),
        ("db.internal", "db.internal"),
        ("http://cms/@7", "http://cms/@7"),
    ],
)
def test_a_host_is_shown_without_a_login(host: str, shown: str) -> None:
    assert without_login(host) == shown
