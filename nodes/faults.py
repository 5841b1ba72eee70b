"""What is done to the nodes and to the services, one thing at a time, and how it is undone."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from nodes.components import Stack
from nodes.topology import Kind, Node

STOPPED_SECONDS = 120.0
"""How long a node is stopped with SIGSTOP."""
DOWN_SECONDS = 30.0
"""How long a node that was ended stays down."""
CUT_SECONDS = 60.0
"""How long a network stays cut: for longer than a node counts as alive."""
SPLIT_SECONDS = 10.0
"""How long the old primary answers after the standby was promoted."""
CLOCK = "+70m"
"""How far the clock of one worker is off."""

Act = Callable[[Stack, Node], None]


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    :param what: is done.
    :param kind: of the node to which it is done; None where it is done to a service.
    :param begin: does it, to a node that has work in hand if there is one.
    :param end: undoes it.
    :param seconds: between the two.
    """

    what: str
    kind: Kind | None
    begin: Act
    end: Act
    seconds: float

    @property
    def name(self) -> str:
        """The row's."""
        return self.what if self.kind is None else f"{self.kind}: {self.what}"


def faults(*, stopped: float = STOPPED_SECONDS) -> list[Fault]:
    """All of them, in the order of the table.

    :param stopped: how long SIGSTOP lasts, in seconds.
    """
    every: tuple[Kind, ...] = ("worker", "triggerer", "scheduler", "api-server", "receiver")
    with_children: tuple[Kind, ...] = ("worker", "triggerer")
    with_work: tuple[Kind, ...] = ("worker", "triggerer", "scheduler", "api-server")
    return [
        Fault("nothing is done", None, _nothing, _nothing, 0),
        *(Fault("SIGKILL of all its processes", kind, _kill, _start, DOWN_SECONDS) for kind in every),
        *(Fault("SIGTERM", kind, _terminate, _start, DOWN_SECONDS) for kind in every),
        *(Fault("SIGKILL of the parent alone", kind, _kill_parent, _start, DOWN_SECONDS) for kind in with_children),
        *(Fault(f"SIGSTOP for {stopped:g} s, SIGCONT", kind, _pause, _continue, stopped) for kind in every),
        *(Fault("network cut, both ways", kind, _cut, _heal, CUT_SECONDS) for kind in with_work),
        *(Fault("network cut, answers only", kind, _cut_answers, _heal, CUT_SECONDS) for kind in with_work),
        Fault(f"clock {CLOCK}", "worker", _shift_clock, _right_clock, CUT_SECONDS),
        Fault("Redis killed and emptied", None, _empty_redis, _nothing, 0),
        Fault("nginx killed and restarted", None, _restart_nginx, _nothing, 0),
        Fault("standby promoted, the old primary answers for 10 s", None, _promote, _end_primary, SPLIT_SECONDS),
    ]


def short_faults() -> list[Fault]:
    """Those of the short form."""
    return [Fault("SIGKILL of all its processes", kind, _kill, _start, DOWN_SECONDS) for kind in _SHORT]


_SHORT: tuple[Kind, ...] = ("worker", "triggerer")


def busiest(stack: Stack, kind: Kind) -> Node:
    """The node of a kind that has the most work in hand."""
    return max(stack.topology.of(kind), key=lambda node: len(stack.in_hand(node)))


def _nothing(stack: Stack, node: Node) -> None:
    pass


def _kill(stack: Stack, node: Node) -> None:
    stack.kill(node)


def _kill_parent(stack: Stack, node: Node) -> None:
    stack.kill(node, descendants=False)


def _terminate(stack: Stack, node: Node) -> None:
    stack.stop(node)


def _start(stack: Stack, node: Node) -> None:
    stack.start(node)


def _pause(stack: Stack, node: Node) -> None:
    stack.signal_tree(node, signal.SIGSTOP)


def _continue(stack: Stack, node: Node) -> None:
    stack.signal_tree(node, signal.SIGCONT)


def _cut(stack: Stack, node: Node) -> None:
    stack.network.cut(node)


def _cut_answers(stack: Stack, node: Node) -> None:
    stack.network.cut_answers(node)


def _heal(stack: Stack, node: Node) -> None:
    stack.network.heal(node)


def _shift_clock(stack: Stack, node: Node) -> None:
    stack.stop(node)
    stack.start(node, clock=CLOCK)


def _right_clock(stack: Stack, node: Node) -> None:
    stack.stop(node)
    stack.start(node)


def _empty_redis(stack: Stack, node: Node) -> None:
    stack.empty_redis()


def _restart_nginx(stack: Stack, node: Node) -> None:
    stack.restart_nginx()


def _promote(stack: Stack, node: Node) -> None:
    stack.databases.switch()


def _end_primary(stack: Stack, node: Node) -> None:
    stack.end_old_primary()
