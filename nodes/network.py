"""A network of its own for each node, on one switch: each can be cut off while its processes live.

All of it is in namespaces of this run, which end with it. What leaves a node, and what comes to it, passes the switch.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from nodes.topology import BACKBONE, NETWORK, Node

SWITCH = "switch"
NOWHERE = "02:00:00:00:00:01"
"""No interface has this address, so that what is sent to it arrives nowhere."""
_ISOLATED = "AIHANDOFF_NODES_ISOLATED"
_MASK = 24


def isolate() -> None:
    """Go on in a network of our own, in which nothing else of this machine is."""
    if os.environ.get(_ISOLATED) != "1":
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "nodes"]
        os.execvpe(command[0], [*command, *sys.argv[1:]], {**os.environ, _ISOLATED: "1"})  # noqa: S606  as asked for
    _run("mkdir", "--parents", "/run/netns")
    _run("mount", "-t", "tmpfs", "nodes", "/run/netns")
    _ip("link", "set", "lo", "up")


class Network:
    """The switch, and a cable from it to each node. To be used as a context."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = list(nodes)

    def __enter__(self) -> Self:
        _ip("link", "add", SWITCH, "type", "bridge")
        _ip("address", "add", f"{BACKBONE}/{_MASK}", "dev", SWITCH)
        _ip("link", "set", SWITCH, "up")
        for node in self._nodes:
            self._connect(node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes:
            _ip("netns", "delete", node.name)
        _ip("link", "delete", SWITCH)

    def inside(self, node: Node, command: tuple[str, ...]) -> tuple[str, ...]:
        """The command that runs another one on a node, in the same process; its host name is the node's address."""
        enter = ("unshare", "--uts", "nsenter", f"--net=/run/netns/{node.name}")
        return (*enter, "sh", "-c", 'hostname "$0" && exec "$@"', node.address, *command)

    def cut(self, node: Node) -> None:
        """Let nothing come to a node, and nothing leave it; it does not learn of that."""
        self._set_port(node, 0)

    def cut_answers(self, node: Node) -> None:
        """Let what a node sends arrive, and what others send to it get lost."""
        _ip("neighbour", "replace", node.address, "lladdr", NOWHERE, "dev", SWITCH, "nud", "permanent")

    def heal(self, node: Node) -> None:
        """Undo both."""
        self._set_port(node, 3)
        _ip("neighbour", "flush", "to", node.address, "nud", "permanent")

    def _connect(self, node: Node) -> None:
        outer = _interface(node)
        _ip("netns", "add", node.name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", node.name)
        _ip("link", "set", outer, "master", SWITCH, "up")
        _ip("-netns", node.name, "address", "add", f"{node.address}/{_MASK}", "dev", "eth0")
        _ip("-netns", node.name, "link", "set", "eth0", "up")
        _ip("-netns", node.name, "link", "set", "lo", "up")

    def _set_port(self, node: Node, state: int) -> None:
        _run("bridge", "link", "set", "dev", _interface(node), "state", str(state))


def _interface(node: Node) -> str:
    """The switch's end of the cable; the kernel takes up to 15 letters."""
    return f"to-{node.address.removeprefix(f'{NETWORK}.')}"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
