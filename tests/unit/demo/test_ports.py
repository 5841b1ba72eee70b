"""Ports: never one that is taken, nor one that another program has just chosen."""

from __future__ import annotations

import socket

import pytest

from demo.ports import HOST, free_port, reserved_port


def test_a_port_that_is_taken_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_a_reserved_port_is_given_to_one_only_until_it_is_given_back() -> None:
    with reserved_port() as port:
        with reserved_port(port) as another:
            assert another != port
        with socket.socket() as server:
            server.bind((HOST, port))
            server.listen()
    with reserved_port(port) as again:
        assert again == port


def test_an_error_while_a_port_is_reserved_is_not_hidden() -> None:
    with pytest.raises(ConnectionError), reserved_port():
        raise ConnectionError
