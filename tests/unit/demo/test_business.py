"""The business system: each idempotency key at most once, and a witness of every request."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from demo.business.app import create_app
from demo.business.seed import FIRST_TICKET, products, tickets

LABEL = {"category": "billing", "priority": "high", "suggested_reply": "We are on it."}
PAGE = {"title": "Beacon", "body": "Light where you work."}


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "witness.jsonl"


@pytest.fixture
def company(log_file: Path) -> TestClient:
    return TestClient(create_app(log_file))


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def witnessed(company: TestClient, **parameters: str) -> list[dict[str, Any]]:
    return list(company.get("/witness", params=parameters).json()["requests"])


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_label_is_set_once_and_never_closes_the_ticket(company: TestClient, method: str) -> None:
    answer = company.request(method, "/helpdesk/tickets/T-1002/label", json=LABEL, headers=keyed("k"))
    ticket = company.get("/helpdesk/tickets/T-1002").json()
    assert answer.status_code == 200
    assert answer.headers["Location"] == "/helpdesk/tickets/T-1002"
    assert ticket["label_id"] == answer.json()["id"]
    assert {name: ticket[name] for name in LABEL} == LABEL
    assert ticket["status"] == "open"


def test_the_same_key_and_body_is_answered_again_without_being_applied(company: TestClient) -> None:
    first, second = (
        company.post("/channel/messages", json={"text": "Weekly report"}, headers=keyed("k")) for _ in range(2)
    )
    assert (second.status_code, second.json(), second.headers["Location"]) == (
        first.status_code,
        first.json(),
        first.headers["Location"],
    )
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(company.get("/channel/messages").json()["messages"]) == 1
    outcomes = [(entry["outcome"], entry["record_id"]) for entry in witnessed(company) if entry["method"] == "POST"]
    assert outcomes == [("APPLIED", first.json()["id"]), ("REPLAYED", first.json()["id"])]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/cms/posts/beacon-lamp", {**PAGE, "title": "Another"}), ("/cms/posts/drift-bottle", PAGE)],
    ids=["another body", "another page"],
)
def test_the_same_key_for_another_request_is_refused(company: TestClient, path: str, body: dict[str, str]) -> None:
    company.put("/cms/posts/beacon-lamp", json=PAGE, headers=keyed("k"))
    refused = company.put(path, json=body, headers=keyed("k"))
    assert refused.status_code == 422
    assert "k was used for another request" in refused.json()["error"]
    assert company.get("/cms/posts/beacon-lamp").json()["title"] == "Beacon"
    assert company.get("/cms/posts/drift-bottle").status_code == 404


def test_without_a_key_each_request_is_applied(company: TestClient) -> None:
    ids = {company.post("/channel/messages", json={"text": "Hello"}).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_page_is_created_replaced_and_deleted_under_one_record_id(company: TestClient) -> None:
    created = company.put("/cms/posts/beacon-lamp", json=PAGE)
    replaced = company.put("/cms/posts/beacon-lamp", json={**PAGE, "tags": ["light"]})
    deleted = company.delete("/cms/posts/beacon-lamp")
    assert [created.status_code, replaced.status_code, deleted.status_code] == [201, 200, 200]
    assert created.json()["id"] == replaced.json()["id"] == deleted.json()["id"]
    assert replaced.json()["tags"] == ["light"]
    assert company.delete("/cms/posts/beacon-lamp").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("PUT", "/helpdesk/tickets/T-1/label", json.dumps(LABEL), 404),
        ("PUT", "/helpdesk/tickets/T-1002/label", json.dumps({**LABEL, "priority": "asap"}), 422),
        ("POST", "/channel/messages", "not JSON", 422),
        ("POST", "/channel/messages", b"\xff", 422),
        ("DELETE", "/helpdesk/tickets/T-1002", "", 404),
    ],
)
def test_what_is_not_valid_is_refused_and_its_key_stays_free(
    company: TestClient, method: str, path: str, content: str | bytes, status: int
) -> None:
    assert company.request(method, path, content=content, headers=keyed("k")).status_code == status
    assert [entry["outcome"] for entry in witnessed(company)] == ["REFUSED"]
    assert company.post("/channel/messages", json={"text": "Now valid"}, headers=keyed("k")).status_code == 201


def test_the_witness_has_every_request_of_a_program_with_its_key_and_digest(company: TestClient) -> None:
    body = json.dumps({"text": "Hello"})
    company.post("/channel/messages", content=body, headers=keyed("k"))
    company.get("/helpdesk/tickets?status=open")
    company.get("/nothing/here")
    company.get("/helpdesk/tickets", headers={"Accept": "text/html"})
    write, read, missing = witnessed(company)
    assert (write["method"], write["path"], write["idempotency_key"]) == ("POST", "/channel/messages", "k")
    assert write["body_sha256"] == hashlib.sha256(body.encode()).hexdigest()
    assert (read["path"], read["outcome"], read["status"]) == ("/helpdesk/tickets?status=open", "READ", 200)
    assert (missing["path"], missing["status"]) == ("/nothing/here", 404)
    assert witnessed(company, outcome="APPLIED") == [write]


def test_after_a_restart_data_and_keys_are_as_before(company: TestClient, log_file: Path) -> None:
    company.put("/cms/posts/beacon-lamp", json=PAGE, headers=keyed("page"))
    company.post("/channel/messages", json={"text": "Hello"}, headers=keyed("message"))
    company.put("/helpdesk/tickets/T-1002/label", json=LABEL, headers=keyed("label"))
    addresses = ["/cms/posts", "/channel/messages", "/helpdesk/tickets"]
    before = [company.get(address).json() for address in addresses]
    restarted = TestClient(create_app(log_file))
    assert [restarted.get(address).json() for address in addresses] == before
    again = restarted.post("/channel/messages", json={"text": "Hello"}, headers=keyed("message"))
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_line_that_a_crash_cut_off_is_not_taken_for_a_request(company: TestClient, log_file: Path) -> None:
    company.post("/channel/messages", json={"text": "One"})
    with log_file.open("ab") as log:
        log.write(b'{"sequence": 2, "time": "2026')
    restarted = TestClient(create_app(log_file))
    restarted.post("/channel/messages", json={"text": "Two"})
    again = TestClient(create_app(log_file))
    assert [message["text"] for message in again.get("/channel/messages").json()["messages"]] == ["One", "Two"]


def test_each_address_has_a_page_for_a_browser(company: TestClient) -> None:
    company.put("/cms/posts/beacon-lamp", json={**PAGE, "body": "<script>alert(1)</script>"})
    message = company.post("/channel/messages", json={"text": "Hello"}).headers["Location"]
    company.put("/helpdesk/tickets/T-1002/label", json=LABEL)
    addresses = ["/", "/witness", "/helpdesk/tickets", "/helpdesk/tickets/T-1002", "/helpdesk/tickets/T-1003"]
    addresses += ["/cms/posts", "/cms/posts/beacon-lamp", "/cms/products", "/cms/products/beacon-lamp"]
    for address in [*addresses, "/channel/messages", message]:
        page = company.get(address, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), address
        assert "<script>" not in page.text
    assert company.get("/helpdesk/tickets/T-1", headers={"Accept": "text/html"}).status_code == 404
    assert company.get("/static/style.css").status_code == 200


def test_the_helpdesk_begins_with_dozens_of_unlabelled_tickets(company: TestClient) -> None:
    begun = company.get("/helpdesk/tickets", params={"status": "open"}).json()["tickets"]
    assert len(begun) == 40
    assert begun[0]["id"] == f"T-{FIRST_TICKET}"
    assert {ticket["category"] for ticket in begun} == {None}
    assert len(tickets()) > len(begun)


def test_products_come_with_what_a_page_can_be_written_from(company: TestClient) -> None:
    product = company.get("/cms/products/tidewater-kettle").json()
    assert product in products()
    assert set(product) == {"slug", "name", "audience", "price", "features"}
