"""Only what one of the secrets has signed, and lately, is taken; whatever else comes is refused in one way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import standardwebhooks.webhooks
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from airflow_provider_aihandoff.core.webhooks import signature as signature_module
from airflow_provider_aihandoff.core.webhooks.signature import (
    MAX_SIGNATURES,
    TOLERANCE,
    Reason,
    Rejected,
    SecretRefused,
    Verifier,
)
from tests.unit.core.webhooks.signing import OTHER_SECRET, SECRET, raw, signature, signed

BODY = b'{"type": "response.completed"}'

#: The test vector that every implementation of the specification shares.
SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SPEC_BODY = b'{"test": 2432232314}'
SPEC_HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


@pytest.fixture
def in_the_time_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    class Then(standardwebhooks.webhooks.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(1614265330, tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Then)
    monkeypatch.setattr(time, "time", lambda: 1614265330.0)


def why_not(headers: dict[str, str], body: bytes = BODY, *secrets: str) -> Reason:
    with pytest.raises(Rejected) as caught:
        Verifier(secrets or [SECRET]).verify(body, raw(headers))
    return caught.value.reason


@pytest.mark.usefixtures("in_the_time_of_the_specification")
def test_the_vector_of_the_specification_is_verified() -> None:
    assert Verifier([SPEC_SECRET]).verify(SPEC_BODY, raw(SPEC_HEADERS)) == SPEC_HEADERS["webhook-id"]
    assert why_not(SPEC_HEADERS, SPEC_BODY + b" ", SPEC_SECRET) is Reason.SIGNATURE


@pytest.mark.usefixtures("in_the_time_of_the_specification")
def test_the_prefix_of_a_secret_may_be_missing() -> None:
    assert Verifier([SPEC_SECRET.removeprefix("whsec_")]).verify(SPEC_BODY, raw(SPEC_HEADERS))


def test_the_padding_of_a_secret_may_be_missing() -> None:
    padded = SECRET
    assert padded.endswith("=")
    assert Verifier([padded.rstrip("=")]).verify(BODY, raw(signed(BODY)))


def test_a_signature_of_the_package_is_verified() -> None:
    at = standardwebhooks.webhooks.datetime.now(tz=standardwebhooks.webhooks.timezone.utc)
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": Webhook(SECRET).sign("msg_1", at, BODY.decode()),
    }
    assert Verifier([SECRET]).verify(BODY, raw(headers)) == "msg_1"


@pytest.mark.parametrize(
    "secrets",
    [(SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET)],
)
@pytest.mark.parametrize("signers", [(SECRET,), (OTHER_SECRET,), (SECRET, OTHER_SECRET)])
def test_every_active_secret_verifies_while_one_is_rotated(secrets: tuple[str, ...], signers: tuple[str, ...]) -> None:
    assert Verifier(secrets).verify(BODY, raw(signed(BODY, *signers))) == "wh_1"


def test_every_secret_is_tried_even_after_one_has_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Webhook] = []
    verify = Webhook.verify

    def spy(self: Webhook, *args: Any, **kwargs: Any) -> Any:
        tried.append(self)
        return verify(self, *args, **kwargs)

    monkeypatch.setattr(Webhook, "verify", spy)
    Verifier([SECRET, OTHER_SECRET]).verify(BODY, raw(signed(BODY)))
    assert len(tried) == 2


def test_a_secret_that_was_taken_away_verifies_nothing() -> None:
    assert why_not(signed(BODY, OTHER_SECRET)) is Reason.SIGNATURE


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "body"])
def test_everything_that_was_signed_counts(part: str) -> None:
    headers = signed(BODY)
    body = BODY + b" " if part == "body" else BODY
    if part == "webhook-id":
        headers[part] = "wh_2"
    if part == "webhook-timestamp":
        headers[part] = str(int(headers[part]) - 1)
    assert why_not(headers, body) is Reason.SIGNATURE


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("empty", [False, True])
def test_each_signature_header_is_required(missing: str, empty: bool) -> None:
    headers = signed(BODY)
    del headers[missing]
    if empty:
        headers[missing] = ""
    assert why_not(headers) is Reason.MISSING_HEADER


@pytest.mark.parametrize("away", [-TOLERANCE - 2, TOLERANCE + 2, -86400, 86400])
def test_a_timestamp_too_old_or_too_new_is_stale(away: int) -> None:
    assert why_not(signed(BODY, at=int(time.time()) + away)) is Reason.STALE


@pytest.mark.parametrize("away", [-TOLERANCE + 5, TOLERANCE - 5])
def test_a_clock_may_be_some_minutes_off(away: int) -> None:
    assert Verifier([SECRET]).verify(BODY, raw(signed(BODY, at=int(time.time()) + away)))


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", "wh 1"),
        ("webhook-id", "wh_\xe9"),
        ("webhook-id", "wh_\x00"),
        ("webhook-id", "w" * 257),
        ("webhook-timestamp", "now"),
        ("webhook-timestamp", "NaN"),
        ("webhook-timestamp", "1e9"),
        ("webhook-timestamp", "-1"),
        ("webhook-timestamp", "\xb2"),
        ("webhook-timestamp", "9" * 13),
        ("webhook-signature", "no comma"),
        ("webhook-signature", "v1"),
        ("webhook-signature", "v1,"),
        ("webhook-signature", "v1,too short"),
        ("webhook-signature", "v1,a,b"),
        ("webhook-signature", "v1,\xe9\xe9"),
        ("webhook-signature", "v1,===="),
        ("webhook-signature", "v2," + "A" * 43 + "="),
        ("webhook-signature", " "),
        ("webhook-signature", "x" * 4097),
    ],
)
def test_headers_that_no_webhook_has_are_malformed(header: str, value: str) -> None:
    assert why_not({**signed(BODY), header: value}) is Reason.MALFORMED


@pytest.mark.parametrize("digits", ["{}.0", "{}.9", "0{}", "{} "])
def test_a_timestamp_is_digits_and_nothing_else(digits: str) -> None:
    headers = signed(BODY)
    headers["webhook-timestamp"] = digits.format(headers["webhook-timestamp"])
    assert why_not(headers) is Reason.MALFORMED


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_stands_twice_is_malformed(name: str) -> None:
    headers = raw(signed(BODY))
    twice = [*headers, *((key.upper(), value) for key, value in headers if key == name.encode())]
    with pytest.raises(Rejected) as caught:
        Verifier([SECRET]).verify(BODY, twice)
    assert caught.value.reason is Reason.MALFORMED


def test_signatures_of_other_versions_are_ignored() -> None:
    headers = signed(BODY)
    ours = headers["webhook-signature"]
    headers["webhook-signature"] = f"v1a,{'A' * 86}== junk {ours}"
    assert Verifier([SECRET]).verify(BODY, raw(headers))
    headers["webhook-signature"] = " ".join([*["v1," + "A" * 43 + "="] * (MAX_SIGNATURES - 1), ours])
    assert Verifier([SECRET]).verify(BODY, raw(headers))
    headers["webhook-signature"] = " ".join([*["v1," + "A" * 43 + "="] * MAX_SIGNATURES, ours])
    assert why_not(headers) is Reason.MALFORMED
    headers["webhook-signature"] = f"{ours} {'x' * 4096}"
    assert why_not(headers) is Reason.MALFORMED


def test_a_body_that_is_no_utf_8_is_malformed_even_when_it_is_signed() -> None:
    assert why_not(signed(b"\xff\xfe"), b"\xff\xfe") is Reason.MALFORMED


@pytest.mark.parametrize("error", [ValueError, TypeError, UnicodeDecodeError, OverflowError])
def test_a_package_that_stumbles_is_a_refusal(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*args: Any, **kwargs: Any) -> None:
        raise error("utf-8", b"", 0, 1, "x") if error is UnicodeDecodeError else error("x")

    monkeypatch.setattr(Webhook, "verify", stumble)
    assert why_not(signed(BODY)) is Reason.MALFORMED


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "whsec_====",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",
        "whsec_MfKQ9r8G KYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwA",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa=w",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS\xe9",
        "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_AAAA",
        None,
        7,
        b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    ],
)
def test_a_secret_that_protects_nothing_is_refused_by_its_position_and_never_by_its_value(secret: object) -> None:
    with pytest.raises(SecretRefused, match="webhook secret 2 of 3") as caught:
        Verifier([SECRET, secret, OTHER_SECRET])
    assert "MfKQ" not in str(caught.value)
    assert "!!!!" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_secret_at_all_is_refused() -> None:
    with pytest.raises(SecretRefused, match="no webhook secret"):
        Verifier([])


def test_a_refusal_carries_nothing_that_the_sender_wrote() -> None:
    with pytest.raises(Rejected) as caught:
        Verifier([SECRET]).verify(b"private", raw({**signed(b"private"), "webhook-signature": "v1,private"}))
    assert str(caught.value) == "malformed"
    assert caught.value.__cause__ is None


ANY_HEADERS = st.dictionaries(
    st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Id", "other"]),
    st.one_of(
        st.binary(max_size=300),
        st.from_regex(rb"v1,[A-Za-z0-9+/=]{0,60}( v1,[A-Za-z0-9+/=]{44})*", fullmatch=True),
        st.integers(-(10**15), 10**15).map(lambda number: str(number).encode()),
        st.just(str(int(time.time())).encode()),
    ),
)


@given(body=st.binary(), headers=ANY_HEADERS)
def test_whatever_a_stranger_sends_is_rejected_and_nothing_else(body: bytes, headers: dict[str, bytes]) -> None:
    pairs = [(name.encode(), value) for name, value in headers.items()]
    with pytest.raises(Rejected):
        Verifier([SECRET, OTHER_SECRET]).verify(body, pairs)


@given(body=st.text(), webhook_id=st.from_regex(r"[!-~]{1,256}", fullmatch=True))
def test_whatever_openai_signs_is_verified(body: str, webhook_id: str) -> None:
    content = body.encode("utf-8", "replace")
    assert Verifier([SECRET]).verify(content, raw(signed(content, webhook_id=webhook_id))) == webhook_id


@given(
    body=st.text().map(lambda text: text.encode("utf-8", "replace")),
    change=st.sampled_from([lambda b: b + b"\x00", lambda b: b" " + b, lambda b: b[:-1] + b"~~"]),
)
def test_a_body_that_was_changed_on_the_way_is_refused(body: bytes, change: Callable[[bytes], bytes]) -> None:
    assert why_not(signed(body), change(body)) in (Reason.SIGNATURE, Reason.MALFORMED)


def test_the_signing_of_these_tests_agrees_with_the_specification() -> None:
    ours = signature(SPEC_BODY, webhook_id=SPEC_HEADERS["webhook-id"], at=1614265330, secret=SPEC_SECRET)
    assert ours == SPEC_HEADERS["webhook-signature"]


def test_the_bounds_are_those_of_the_specification() -> None:
    assert signature_module.TOLERANCE == 5 * 60
