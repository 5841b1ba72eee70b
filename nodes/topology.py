"""What there is: the nodes of Airflow, the services beside them, and the address of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["api-server", "receiver", "scheduler", "dag-processor", "triggerer", "worker"]

NETWORK = "198.18.0"
"""The first three numbers of every address: RFC 2544 keeps these for tests."""
BACKBONE = f"{NETWORK}.1"
"""Where the services are that every node reaches."""
API_PORT = 8443
WEBHOOK_PORT = 8444
BUSINESS_PORT = 8085
OPENAI_PORT = 8086
REDIS_PORT = 6379
POOLER_PORT, STANDBY_POOLER_PORT = 6432, 6433
AIRFLOW_PORT = 8080
"""Of each API server: a node has all ports to itself."""
RECEIVER_PORT = 8090

API_URL = f"https://{BACKBONE}:{API_PORT}"
WEBHOOK_URL = f"https://{BACKBONE}:{WEBHOOK_PORT}/aihandoff/webhooks/openai/openai_default"
BUSINESS_URL = f"http://{BACKBONE}:{BUSINESS_PORT}"
OPENAI_URL = f"http://{BACKBONE}:{OPENAI_PORT}"

CHECKOUT = Path(__file__).parent.parent
DAGS_FOLDER = CHECKOUT / "dags"

_FIRST_HOST: Mapping[Kind, int] = {
    "api-server": 20,
    "receiver": 30,
    "scheduler": 40,
    "dag-processor": 50,
    "triggerer": 60,
    "worker": 70,
}

WHOLE: Mapping[Kind, int] = {
    "api-server": 2,
    "receiver": 2,
    "scheduler": 2,
    "dag-processor": 1,
    "triggerer": 2,
    "worker": 2,
}
"""Two of everything that does a job's work."""
SHORT: Mapping[Kind, int] = {**WHOLE, "api-server": 1, "receiver": 1, "scheduler": 1}
"""Two of what the short form kills."""


@dataclass(frozen=True)
class Node:
    """One host of Airflow, with one component on it."""

    kind: Kind
    number: int

    @property
    def name(self) -> str:
        """Of its network, of its folder and of its process."""
        return f"{self.kind}-{self.number}"

    @property
    def address(self) -> str:
        """Where the others reach it; it is its host name, too."""
        return f"{NETWORK}.{_FIRST_HOST[self.kind] + self.number}"


@dataclass(frozen=True)
class Topology:
    """How many nodes there are of each kind."""

    counts: Mapping[Kind, int]

    @property
    def nodes(self) -> list[Node]:
        """All of them, in the order in which they start."""
        return [Node(kind, number) for kind, count in self.counts.items() for number in range(1, count + 1)]

    def of(self, kind: Kind) -> list[Node]:
        """The nodes of one kind."""
        return [node for node in self.nodes if node.kind == kind]
