"""A POST to a real HTTP server: how it may answer, and where a host's name may not lead."""

from __future__ import annotations

import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_aihandoff.core.errors import AddressRefused
from airflow_provider_aihandoff.core.event_delivery.address import AllowedHosts
from airflow_provider_aihandoff.core.event_delivery.post import Answered, NotAnswered, post_event
from tests.event_receiver import Receiver, receiving, saying

HOST = "hooks.shop.example"


def post(receiver: Receiver, *, scheme: str = "http", host: str = HOST, seconds: float = 5.0) -> Answered:
    port = receiver.server_address[1]
    listed = AllowedHosts.of([], [f"http://{host}:{port}" if scheme == "http" else f"{host}:{port}"])
    return post_event(
        f"{scheme}://{host}:{port}/in?a=b",
        {"webhook-id": "one"},
        b'{"a": 1}',
        allowed=listed,
        resolve=lambda host, port: ["127.0.0.1"],
        seconds=seconds,
    )


def test_it_is_sent_to_the_address_that_was_checked_in_the_name_of_the_host() -> None:
    with receiving(saying(204)) as receiver:
        assert post(receiver).is_taken
    (path, headers, body), port = receiver.got[0], receiver.server_address[1]
    assert (path, body) == ("/in?a=b", b'{"a": 1}')
    assert (headers["host"], headers["webhook-id"]) == (f"{HOST}:{port}", "one")


def test_no_redirect_is_followed() -> None:
    with (
        receiving(saying(200)) as inside,
        receiving(saying(307, location=f"http://127.0.0.1:{inside.server_port}/")) as receiver,
    ):
        assert post(receiver).status == 307
    assert (len(receiver.got), inside.got) == (1, [])


@pytest.mark.parametrize(("status", "header", "seconds"), [(503, "120", 120.0), (429, "soon", None), (500, "1.5", 1.5)])
def test_what_a_receiver_asks_for_is_read(status: int, header: str, seconds: float | None) -> None:
    with receiving(saying(status, retry_after=header)) as receiver:
        assert post(receiver) == Answered(status, seconds)


def test_a_receiver_that_does_not_answer_in_time_is_cut_off_however_it_drips() -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(0.02):
                handler.wfile.write(b"x: y\r\n")
        except OSError:
            pass

    with receiving(drip) as receiver:
        began = time.monotonic()
        with pytest.raises(NotAnswered, match="within"):
            post(receiver, seconds=0.3)
        ended.set()
        assert time.monotonic() - began < 5


def test_an_endless_body_is_not_read() -> None:
    ended = threading.Event()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not ended.is_set():
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    with receiving(flood) as receiver:
        assert post(receiver).status == 200
        ended.set()


def test_a_receiver_that_is_not_there_says_no_address_in_the_error() -> None:
    with receiving(saying(200)) as receiver:
        pass
    with pytest.raises(NotAnswered) as raised:
        post(receiver)
    assert "127.0.0.1" not in str(raised.value)


def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    with receiving(saying(204)) as receiver:
        port = receiver.server_address[1]
        answered = post_event(
            f"http://{HOST}:{port}/",
            {},
            b"{}",
            allowed=AllowedHosts.of([], [f"http://{HOST}:{port}"]),
            resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"],
        )
    assert answered.is_taken


def test_a_name_that_leads_inside_of_a_network_is_not_called() -> None:
    with receiving(saying(204)) as receiver:
        port = receiver.server_address[1]
        with pytest.raises(AddressRefused, match="inside"):
            post_event(
                f"https://{HOST}:{port}/",
                {},
                b"{}",
                allowed=AllowedHosts.of([f"{HOST}:{port}"], []),
                resolve=lambda host, port: ["127.0.0.1"],
            )
    assert receiver.got == []


def test_a_name_is_resolved_once_so_that_a_second_answer_leads_nowhere() -> None:
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    with receiving(saying(204)) as receiver:
        port = receiver.server_address[1]
        listed = AllowedHosts.of([], [f"http://{HOST}:{port}"])
        assert post_event(f"http://{HOST}:{port}/", {}, b"{}", allowed=listed, resolve=rebinding).is_taken
    assert asked == [HOST]


def certificate(folder: Path, host: str) -> ssl.SSLContext:
    """A server's side of TLS, whose certificate is its own authority: ``ca.pem`` in the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def test_over_tls_the_certificate_has_to_be_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(saying(204), certificate(tmp_path, HOST)) as receiver:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert post(receiver, scheme="https").is_taken
        with pytest.raises(NotAnswered):
            post(receiver, scheme="https", host="other.example")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(NotAnswered):
            post(receiver, scheme="https")
    assert len(receiver.got) == 1


def test_an_answer_that_is_no_http_is_none() -> None:
    def babble(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"\x00\x01\x02 hello\r\n\r\n")

    with receiving(babble) as receiver, pytest.raises(NotAnswered):
        post(receiver)
