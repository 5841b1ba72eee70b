"""Targets by themselves: a real HTTP server, a real database, a real mail server, and no ledger."""

from __future__ import annotations

from tests.integration.core.effects.conftest import _connections, _sales, _target, sales, target

__all__ = ["_connections", "_sales", "_target", "sales", "target"]
