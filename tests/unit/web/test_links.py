"""Paths as logs have them."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.web.links import loggable


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/aihandoff/decide/c2VjcmV0", "/aihandoff/decide/***"),
        ("/prefix/aihandoff/decide/c2VjcmV0/more", "/prefix/aihandoff/decide/***/more"),
        ("/aihandoff/jobs/18/decision", "/aihandoff/jobs/18/decision"),
        (None, "None"),
    ],
)
def test_a_path_in_a_log_has_no_token(path: object, said: str) -> None:
    assert loggable(path) == said
