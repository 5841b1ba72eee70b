"""When too many jobs of a set have failed."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.sets.fail_when import checked_fail_when, too_many


@pytest.mark.parametrize(
    ("failed", "fail_when", "fails"),
    [
        (99, None, False),
        (100, None, True),
        (4, 0.05, False),
        (5, 0.05, True),
        (0, 0.0001, False),
        (19, 20, False),
        (20, 20, True),
        (100, 1.0, True),
        (1, 1, True),
    ],
)
def test_too_many_are_a_share_or_a_number(failed: int, fail_when: Any, fails: bool) -> None:
    assert too_many(failed, 100, checked_fail_when(fail_when)) is fails


@pytest.mark.parametrize("wrong", [0, -1, 0.0, 1.5, True, "5%"])
def test_what_is_neither_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="fail_when must be"):
        checked_fail_when(wrong)
