"""Where events may be sent, and where no configuration lets them be sent."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.errors import AddressRefused
from airflow_provider_aihandoff.core.event_delivery.address import (
    Address,
    AllowedHosts,
    checked_address,
    checked_ips,
    may_be_called,
)

LISTED = AllowedHosts.of(
    ["hooks.shop.example", "*.partner.example", "odd.example:8443"], ["bus.internal", "http://dev:8080", "[fd00::7]"]
)

#: What leads inside of a network, to this machine, or to where a cloud keeps credentials, in every spelling.
INSIDE = [
    "10.0.0.7",
    "172.16.3.4",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "0.0.0.0",  # noqa: S104
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::7",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:10.0.0.7",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:7",
    "64:ff9b:1::a00:7",
    "64:ff9b:1:a00:7::808:808",
    "::10.0.0.7",
    "fec0::7",
    "2002:a00:7::1",
    "2002:a9fe:a9fe::1",
    "nonsense",
]


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://hooks.shop.example", "hooks.shop.example", 443, "/"),
        ("https://HOOKS.shop.example./a/b?c=d", "hooks.shop.example", 443, "/a/b?c=d"),
        ("https://a.b.partner.example/x", "a.b.partner.example", 443, "/x"),
        ("https://odd.example:8443/x", "odd.example", 8443, "/x"),
    ],
)
def test_a_listed_host_may_be_subscribed(url: str, host: str, port: int, target: str) -> None:
    assert checked_address(url, LISTED) == Address("https", host, port, target, is_internal=False)


def test_an_internal_host_is_listed_by_itself_and_with_its_scheme() -> None:
    assert checked_address("https://bus.internal/x", LISTED).is_internal
    assert checked_address("http://dev:8080/x", LISTED).scheme == "http"
    assert checked_address("https://[fd00::7]/x", LISTED).host == "fd00::7"


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/",
        "https://partner.example/",
        "https://evilpartner.example/",
        "https://partner.example.evil.example/",
        "https://hooks.shop.example:8443/",
        "https://odd.example/",
        "http://hooks.shop.example/",
        "http://bus.internal/",
        "https://dev:8080/",
        "https://user:word@hooks.shop.example/",
        "https://hooks.shop.example@evil.example/",
        "https://evil.example\\@hooks.shop.example/",
        "https://hooks.shop.example#@evil.example/",
        "https://hooks.shop.example/ x",
        "https://hooks.shop.example/\n",
        "https://hooks.shop.example/é",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://[::1]/",
        "https://[::1/",
        "https://hooks.shop.example:99999/",
        "ftp://hooks.shop.example/",
        "file:///etc/passwd",
        "hooks.shop.example",
        "",
        "https://hooks.shop.example/" + "a" * 2000,
    ],
)
def test_nothing_else_may_be_subscribed(url: str) -> None:
    with pytest.raises(AddressRefused):
        checked_address(url, LISTED)


def test_without_a_list_no_one_can_subscribe() -> None:
    with pytest.raises(AddressRefused, match="event_hosts"):
        checked_address("https://hooks.shop.example/", AllowedHosts())


@pytest.mark.parametrize(
    ("public", "internal"),
    [
        (["https://hooks.example"], []),
        (["hooks.example/path"], []),
        (["*"], []),
        (["a@b"], []),
        (["a:x"], []),
        (["http://a"], []),
        ([], ["*.a"]),
        ([], ["https://a"]),
    ],
)
def test_a_list_with_something_else_than_hosts_is_refused(public: list[str], internal: list[str]) -> None:
    with pytest.raises(AddressRefused, match="not a host"):
        AllowedHosts.of(public, internal)


@pytest.mark.parametrize("ip", INSIDE)
def test_no_address_inside_of_a_network_may_be_called(ip: str) -> None:
    assert not may_be_called(ip, is_internal=False)


def test_public_addresses_may_be_called() -> None:
    assert all(may_be_called(ip, is_internal=False) for ip in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"))


def test_those_of_a_listed_internal_host_may_be_called_but_for_those_of_a_link() -> None:
    allowed = {ip for ip in INSIDE if may_be_called(ip, is_internal=True)}
    assert {"100.64.0.1", "10.0.0.7", "192.168.1.1", "127.0.0.1", "::1", "::ffff:10.0.0.7", "fd00::7"} <= allowed
    assert not allowed & {
        *("169.254.169.254", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "fe80::1", "fe80::1%eth0"),
        *("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "nonsense"),  # noqa: S104
        *("fd00:ec2::254", "100.100.100.200", "168.63.129.16"),
    }


def test_a_host_with_one_address_inside_is_not_called_at_all() -> None:
    address = checked_address("https://hooks.shop.example/", LISTED)
    assert checked_ips(address, lambda host, port: ["8.8.8.8", "8.8.8.8", "9.9.9.9"]) == ["8.8.8.8", "9.9.9.9"]
    with pytest.raises(AddressRefused, match="event_internal_hosts"):
        checked_ips(address, lambda host, port: ["8.8.8.8", "10.0.0.7"])


def test_a_host_without_an_address_is_not_called() -> None:
    def fails(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    address = checked_address("https://hooks.shop.example/", LISTED)
    with pytest.raises(AddressRefused, match="no address"):
        checked_ips(address, fails)
    with pytest.raises(AddressRefused, match="no address"):
        checked_ips(address, lambda host, port: [])


def test_the_system_resolves_by_default() -> None:
    address = Address("http", "localhost", 80, "/", is_internal=True)
    assert set(checked_ips(address)) <= {"127.0.0.1", "::1"}
