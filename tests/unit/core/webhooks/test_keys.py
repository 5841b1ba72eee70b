"""Secrets are read seldom, once at a time, and are used on while they cannot be read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from airflow_provider_aihandoff.core.webhooks import keys as keys_module
from airflow_provider_aihandoff.core.webhooks.keys import (
    FRESH,
    RETRY,
    STALE,
    KeyProblem,
    Keyring,
    NoConnection,
    NoVerifier,
)
from tests.unit.core.webhooks.signing import OTHER_SECRET, SECRET, raw, signed

BODY = b"{}"


class Store:
    """Where secrets are kept, and what the time is."""

    def __init__(self) -> None:
        self.secrets: Sequence[object] | Exception = [SECRET]
        self.reads = 0
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()

    def read(self, conn_id: str) -> Sequence[object]:
        self.reads += 1
        self.gate.wait(60)
        if isinstance(self.secrets, Exception):
            raise self.secrets
        return self.secrets

    def clock(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def keys(store: Store) -> Keyring:
    return Keyring(store.read, clock=store.clock)


async def takes(keys: Keyring, secret: str) -> bool:
    try:
        (await keys.verifier("openai_default")).verify(BODY, raw(signed(BODY, secret)))
    except keys_module.SecretRefused:
        raise
    except Exception as error:  # noqa: BLE001
        assert type(error).__name__ == "Rejected"  # noqa: PT017
        return False
    return True


async def problem(keys: Keyring) -> tuple[KeyProblem, str]:
    with pytest.raises(NoVerifier) as caught:
        await keys.verifier("openai_default")
    return caught.value.problem, caught.value.why


async def test_secrets_are_read_once_a_minute(keys: Keyring, store: Store) -> None:
    for _ in range(5):
        assert await takes(keys, SECRET)
    assert store.reads == 1
    store.secrets = [OTHER_SECRET]
    store.now += FRESH - 1
    assert not await takes(keys, OTHER_SECRET)
    store.now += 1
    assert await takes(keys, OTHER_SECRET)
    assert store.reads == 2


async def test_however_many_ask_at_once_they_are_read_once(keys: Keyring, store: Store) -> None:
    store.gate.clear()
    asking = [asyncio.create_task(takes(keys, SECRET)) for _ in range(50)]
    await asyncio.sleep(0.05)
    store.gate.set()
    assert all(await asyncio.gather(*asking))
    assert store.reads == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoConnection("gone"), (KeyProblem.NO_CONNECTION, "")),
        (OSError("the database is unavailable"), (KeyProblem.UNREADABLE, "OSError")),
        (KeyError("x"), (KeyProblem.UNREADABLE, "KeyError")),
    ],
)
async def test_known_secrets_are_used_on_for_a_while_where_they_cannot_be_read(
    keys: Keyring,
    store: Store,
    error: Exception,
    said: tuple[KeyProblem, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await takes(keys, SECRET)
    store.secrets = error
    store.now += FRESH
    assert await takes(keys, SECRET)
    assert await takes(keys, SECRET)
    assert store.reads == 2  # and not at every webhook
    store.now += RETRY
    assert await takes(keys, SECRET)
    assert store.reads == 3
    assert caplog.messages == ["The webhook secrets of openai_default cannot be read: using those known from before."]
    store.now += STALE
    assert await problem(keys) == said
    store.secrets = [SECRET]
    store.now += RETRY
    assert await takes(keys, SECRET)


async def test_secrets_that_were_taken_out_are_used_no_more(keys: Keyring, store: Store) -> None:
    assert await takes(keys, SECRET)
    store.secrets = []
    store.now += FRESH
    assert await problem(keys) == (KeyProblem.NO_SECRETS, "")


async def test_a_secret_that_cannot_be_used_is_named_by_its_position(keys: Keyring, store: Store) -> None:
    assert await takes(keys, SECRET)
    store.secrets = [SECRET, "whsec_!!!!"]
    store.now += FRESH
    what, why = await problem(keys)
    assert what is KeyProblem.REFUSED
    assert "webhook secret 2 of 2" in why
    assert "!!!!" not in why


async def test_messages_of_a_secrets_backend_are_kept_out_of_the_log(keys: Keyring, store: Store) -> None:
    store.secrets = RuntimeError(f"could not decode {SECRET}")
    assert await problem(keys) == (KeyProblem.UNREADABLE, "RuntimeError")


@pytest.mark.parametrize("found", [NoConnection("gone"), OSError("away"), [], ["whsec_"]])
async def test_strangers_cannot_cause_a_read_each(
    keys: Keyring, store: Store, found: Sequence[object] | Exception
) -> None:
    store.secrets = found
    for _ in range(20):
        await problem(keys)
    assert store.reads == 1


async def test_a_webhook_does_not_wait_for_long(keys: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "PATIENCE", 0.05)
    store.gate.clear()
    assert (await problem(keys))[0] is KeyProblem.UNREADABLE
    assert (await problem(keys))[0] is KeyProblem.UNREADABLE
    assert store.reads == 1
    monkeypatch.setattr(keys_module, "PATIENCE", 60)
    store.gate.set()
    assert await takes(keys, SECRET)


async def test_known_secrets_do_while_reading_takes_too_long(
    keys: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await takes(keys, SECRET)
    monkeypatch.setattr(keys_module, "PATIENCE", 0.05)
    store.gate.clear()
    store.now += FRESH
    assert await takes(keys, SECRET)
    store.now += STALE
    assert (await problem(keys))[0] is KeyProblem.UNREADABLE
    store.gate.set()
