"""Where events may be sent: hosts that an admin has listed, and no address inside of networks unless that is listed.

A host's name is resolved once for each call. Every address is checked, and the call connects to one that was checked:
a name that is answered differently a moment later leads nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.errors import AddressRefused
from airflow_provider_aihandoff.core.event_delivery.subscription import NOT_RECORDED

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The IP addresses of a host and a port, as the system resolves them.
Resolve = Callable[[str, int], Sequence[str]]

#: Characters of a URL at most.
MAX_URL = 2000

_PORTS = {"https": 443, "http": 80}

#: What no URL has: some libraries drop it, or read it as something else.
_NOT_IN_URL = re.compile(r"[^!-~]|[\\#]")

_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

#: What of IPv6 can lead to the internet. The second one is for translation inside of a network.
_UNICAST, _LOCAL_NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b:1::/48")

#: Networks whose addresses stand for one of IPv4, in their last 32 bits.
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), _LOCAL_NAT64)


#: Where clouds tell their machines of their credentials, besides the addresses of a link.
_METADATA = frozenset(
    ipaddress.ip_address(each) for each in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)


@dataclass(frozen=True)
class Listed:
    """An entry of the lists: a host, or all below a domain, with the port.

    :param below: it is about the names below ``host``, and not about that itself.
    :param scheme: ``https``, or ``http`` where the list says so.
    """

    host: str
    port: int
    below: bool = False
    scheme: str = "https"

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Whether an address is one of this entry."""
        named = host.endswith(f".{self.host}") if self.below else host == self.host
        return named and (self.scheme, self.port) == (scheme, port)


@dataclass(frozen=True)
class AllowedHosts:
    """What ``[aihandoff] event_hosts`` and ``event_internal_hosts`` list.

    :param internal: those whose addresses may be inside of networks.
    """

    public: tuple[Listed, ...] = ()
    internal: tuple[Listed, ...] = ()

    @classmethod
    def of(cls, public: Sequence[str], internal: Sequence[str]) -> AllowedHosts:
        """The lists, as they are configured.

        :raises AddressRefused: an entry is not a host.
        """
        return cls(tuple(_listed(each, "event_hosts") for each in public), tuple(map(_internal, internal)))


@dataclass(frozen=True)
class Address:
    """Where a URL leads.

    :param target: the path with the query, as it is sent.
    :param is_internal: its host is listed as one inside of a network.
    """

    scheme: str
    host: str
    port: int
    target: str
    is_internal: bool


def checked_address(url: str, allowed: AllowedHosts) -> Address:
    """Where a URL leads, if its host is listed. Resolves nothing.

    :raises AddressRefused: it may not be called.
    """
    if len(url) > MAX_URL or _NOT_IN_URL.search(url):
        raise _refused("it is too long, or has a character that no URL has", url)
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise _refused("it is not a URL", url) from None
    if parts.scheme not in _PORTS or "@" in parts.netloc:
        raise _refused("it must begin with https://, and have no login in it", url)
    host = (parts.hostname or "").rstrip(".")
    if not _is_host(host):
        raise _refused("it names no host", url)
    is_internal = any(each.covers(parts.scheme, host, port) for each in allowed.internal)
    if not is_internal and not any(each.covers(parts.scheme, host, port) for each in allowed.public):
        raise AddressRefused(
            f"{parts.scheme}://{host}:{port} is not on the list of where events may be sent.",
            written=NOT_RECORDED,
            remedy="An admin lists it in [aihandoff] event_hosts.",
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, host, port, target, is_internal)


def checked_ips(address: Address, resolve: Resolve | None = None) -> list[str]:
    """The IP addresses of a host, each of which may be called.

    :param resolve: by default, the system's.
    :raises AddressRefused: it has none, or one of them may not be called.
    """
    try:
        found = list(dict.fromkeys((resolve or _resolve)(address.host, address.port)))
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise AddressRefused(f"the host {address.host} has no address now.", written="Nothing was sent.")
    for ip in found:
        if not may_be_called(ip, is_internal=address.is_internal):
            raise AddressRefused(
                f"the host {address.host} has an address inside of a network.",
                written="Nothing was sent.",
                remedy="If that is meant, an admin lists the host in [aihandoff] event_internal_hosts.",
            )
    return found


def may_be_called(ip: str, *, is_internal: bool) -> bool:
    """Whether an address may be called: a public one; of a listed host, one of a private network or this machine too.

    Those of a link, and others where clouds tell their machines of their credentials, may never.
    """
    try:
        address = _meant(ipaddress.ip_address(ip.partition("%")[0]))
    except ValueError:
        return False
    if address.is_multicast or address.is_unspecified or address.is_link_local or address in _METADATA:
        return False
    if address.version == 4 and address.is_reserved:
        return False
    if is_internal:
        return True
    if ipaddress.ip_address(ip.partition("%")[0]) in _LOCAL_NAT64:
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST)


def _meant(address: IpAddress) -> IpAddress:
    """The address of IPv4 that one of IPv6 stands for, if it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def _resolve(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _is_host(text: str) -> bool:
    if _HOST.fullmatch(text):
        return True
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _internal(entry: str) -> Listed:
    found = _listed(entry, "event_internal_hosts")
    if found.below:
        raise _bad_entry(entry, "event_internal_hosts")
    return found


def _listed(entry: str, option: str) -> Listed:
    scheme, text = "https", entry.lower()
    if option == "event_internal_hosts" and text.startswith("http://"):
        scheme, text = "http", text.removeprefix("http://")
    below = text.startswith("*.")
    try:
        parts = urlsplit(f"//{text.removeprefix('*.')}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise _bad_entry(entry, option) from None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc or not _is_host(host):
        raise _bad_entry(entry, option)
    return Listed(host, _PORTS[scheme] if port is None else port, below, scheme)


def _bad_entry(entry: str, option: str) -> AddressRefused:
    return AddressRefused(
        f"[aihandoff] {option} has {cleaned(entry)!r}, which is not a host.",
        written=NOT_RECORDED,
        remedy="List hosts such as hooks.example.com, hooks.example.com:8443 or *.example.com.",
    )


def _refused(why: str, url: str) -> AddressRefused:
    return AddressRefused(f"{cleaned(url[:MAX_URL])!r} cannot be subscribed: {why}.", written=NOT_RECORDED)
