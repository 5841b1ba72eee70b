"""Clients of OpenAI for threads: another one with connections of its own where many requests are under way."""

from __future__ import annotations

from contextlib import ExitStack

from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.clients import Clients


def test_a_few_requests_share_a_client_and_more_get_another_one() -> None:
    with OpenAI(base_url="http://127.0.0.1:1/v1", api_key="a key", timeout=5) as first:
        clients = Clients(first)
        with ExitStack() as requests:
            used = [requests.enter_context(clients.responses())._client for _ in range(9)]
            assert [used.index(client) for client in used] == [0, 0, 0, 0, 4, 4, 4, 4, 8]
            assert used[0] is first
            assert len({id(client._client) for client in used}) == 3, "each has connections of its own"
            assert {(client.api_key, str(client.base_url), client.timeout) for client in used} == {
                ("a key", "http://127.0.0.1:1/v1/", 5)
            }
            with clients.responses() as tenth:
                assert tenth._client is used[8], "the one with the fewest requests"
        with clients.responses() as later:
            assert later._client is first, "what has ended makes room"

        clients.close()
        assert [client._client.is_closed for client in (used[0], used[4], used[8])] == [False, True, True]
