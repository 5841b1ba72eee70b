"""A StatsD server for tests, and what Prometheus' exporter makes of its packets."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE

#: The two places in which Airflow has its metrics (3.1 has one), and what says where they go.
SDK = ("airflow.sdk.observability.stats", "airflow.sdk.observability.metrics.stats_utils")
CORE = ("airflow.observability.stats", "airflow.observability.metrics.stats_utils")


@dataclass(frozen=True)
class Packet:
    """What has arrived.

    :param port: that it was sent from.
    """

    text: str
    port: int


class Listener:
    """A StatsD server for other processes: a thread takes what arrives for as long as it is open."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self._statsd = StatsD()
        self.port = self._statsd.port
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while packet := self._statsd.take():
            self.packets.append(packet)

    def settings(self) -> dict[str, str]:
        """The environment variables that send Airflow's metrics here, with labels as docs/metrics.md says."""
        return settings_for(self.port)

    def series(self, name: str = "") -> dict[str, float]:
        """The time series of counters and gauges whose name begins like this, as statsd_exporter makes them."""
        found: dict[str, float] = {}
        for packet in list(self.packets):
            kind = packet.text.rpartition("|")[2]
            if not packet.text.startswith(name) or kind not in ("c", "g"):
                continue
            of, value = series(packet.text)
            found[of] = value + (found.get(of, 0.0) if kind == "c" else 0.0)
        return found

    def close(self) -> None:
        """Receive no more."""
        self._statsd.wake()
        self._thread.join(10)
        self._statsd.close()


class StatsD:
    """A StatsD server, as far as it receives packets."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port = self._socket.getsockname()[1]

    def receive(self) -> str:
        """The next packet."""
        return self._socket.recv(65536).decode()

    def take(self) -> Packet | None:
        """The next packet, however long it takes; None once it was woken."""
        self._socket.settimeout(None)
        data, (_, port) = self._socket.recvfrom(65536)
        return Packet(data.decode(), port) if data else None

    def wake(self) -> None:
        """End a wait for a packet."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", ("127.0.0.1", self.port))

    def receive_all(self) -> list[str]:
        """What has arrived: on the loopback, a packet is there when it was sent."""
        packets: list[str] = []
        self._socket.setblocking(False)
        try:
            while True:
                packets.append(self._socket.recv(65536).decode())
        except BlockingIOError:
            return packets
        finally:
            self._socket.settimeout(10)

    def close(self) -> None:
        """Receive no more."""
        self._socket.close()


def settings_for(port: int) -> dict[str, str]:
    """The environment variables that send Airflow's metrics to a port of this machine."""
    options = {"ON": "True", "HOST": "127.0.0.1", "PORT": str(port), "INFLUXDB_ENABLED": "True"}
    return {f"AIRFLOW__METRICS__STATSD_{name}": value for name, value in options.items()}


def configure(statsd: StatsD, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure Airflow's metrics to go there, with labels as docs/metrics.md says."""
    for name, value in settings_for(statsd.port).items():
        monkeypatch.setenv(name, value)


def forget(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing set up Airflow's metrics in this process yet, for the time of a test."""
    if RELEASE < (3, 3):
        stats = _stats(place)
        monkeypatch.setattr(stats, "instance", None)
        monkeypatch.setattr(stats, "factory", _nowhere() if RELEASE < (3, 2) else None)
        return
    state: dict[str, Any] = vars(import_module(place[0]))["incr"].__globals__
    for name in ("_factory", "_backend"):
        monkeypatch.setitem(state, name, None)


def set_up(place: tuple[str, str], statsd: StatsD, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up Airflow's metrics as a process does, for the time of a test."""
    configure(statsd, monkeypatch)
    forget(place, monkeypatch)
    if RELEASE < (3, 2):
        logger_for: Any = import_module("airflow.metrics.statsd_logger").get_statsd_logger
        monkeypatch.setattr(_stats(place), "factory", lambda: logger_for(_stats(place)))
        return
    factory_for: Any = import_module(place[1]).get_stats_factory
    if RELEASE < (3, 3):
        _stats(place).initialize(factory=factory_for(_stats(place)))
    else:
        import_module(place[0]).initialize(factory=factory_for(), export_legacy_names=False)


def _stats(place: tuple[str, str]) -> Any:
    return import_module("airflow.stats" if RELEASE < (3, 2) else place[0]).Stats


def _nowhere() -> Any:
    return import_module("airflow.metrics.base_stats_logger").NoStatsLogger


def series(packet: str) -> tuple[str, float]:
    """The time series of Prometheus that statsd_exporter makes of a packet of a counter or a gauge, and its value."""
    name, _, rest = packet.rpartition(":")
    value, _, _ = rest.partition("|")
    metric, *labels = name.split(",")
    pairs = ",".join(f'{label.partition("=")[0]}="{label.partition("=")[2]}"' for label in labels)
    return metric.replace(".", "_") + (f"{{{pairs}}}" if pairs else ""), float(value)
