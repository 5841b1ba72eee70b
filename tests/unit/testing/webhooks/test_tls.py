from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from airflow_provider_aihandoff.testing.webhook_endpoint import WebhookEndpoint, new_client
from nodes.certificates import write_certificates

from .receiver import SECRET


class _Takes(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A receiver whose certificate is from an authority that no one knows."""
    write_certificates(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with HTTPServer(("127.0.0.1", 0), _Takes) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"https://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


async def sent(url: str) -> int | None:
    async with new_client(0) as client:
        return await WebhookEndpoint(url, [SECRET]).post(client, "normal", "wh_1", "{}")


class TestTls:
    async def test_a_certificate_of_an_authority_of_your_own_is_accepted_if_you_name_it(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await sent(url) is None
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await sent(url) == 204
