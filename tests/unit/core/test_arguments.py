"""A name that is empty, too long or impossible is refused before anything is done, and the argument is named."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.arguments import MAX_JOB_KEY, MAX_REASON, checked, identifier
from airflow_provider_aihandoff.core.errors import RequestError
from tests.factories import job_spec

IMPOSSIBLE = [
    ("", "is empty"),
    (" \u00a0 ", "has only spaces"),
    ("a\x00b", r"has the character U\+0000"),
    ("a\nb", r"has the character U\+000A"),
    ("a\u2028b", r"has the character U\+2028"),
    ("a\x1b[31m", r"has the character U\+001B"),
    ("\ud800", r"has the character U\+D800"),
    (None, "must be a text, not NoneType"),
    (True, "must be a text, not bool"),
    (1.5, "must be a text, not float"),
    (["a"], "must be a text, not list"),
]


@pytest.mark.parametrize(("value", "said"), IMPOSSIBLE)
@pytest.mark.parametrize("field", ["job_type", "job_key", "conn_id", "requested_by"])
def test_an_impossible_name_is_refused_with_its_argument(field: str, value: Any, said: str) -> None:
    argument = "openai_conn_id" if field == "conn_id" else field
    with pytest.raises(RequestError, match=f"the argument {argument} {said}"):
        checked(job_spec(**{field: value}))


@pytest.mark.parametrize("key", ["k" * 6000, "\u20ac" * (MAX_JOB_KEY // 3 + 1)])
def test_a_key_that_is_too_long_for_an_index_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match=f"job_key has {len(key.encode())} bytes in UTF-8; at most 2000"):
        checked(job_spec(job_key=key))


@pytest.mark.parametrize(("value", "name"), [(1984, "1984"), (0, "0"), (10**30, "1" + "0" * 30)])
def test_a_whole_number_is_its_digits(value: int, name: str) -> None:
    assert checked(job_spec(job_key=value)).job_key == name
    assert identifier("effect", value) == name


@pytest.mark.parametrize("name", ["post:kettle", " a b ", "\u0628\u20ac\U0001f600", "e" + "\u0301", "-", "%s'\"\\"])
def test_any_other_text_is_a_name_as_it_is(name: str) -> None:
    assert identifier("job_key", name) == name


@pytest.mark.parametrize(
    ("permissions", "said"),
    [
        ("all", "permissions must be a dict, not str"),
        (None, "permissions must be a dict, not NoneType"),
        ({"limit": float("nan")}, "permissions is not JSON"),
        ({"who": object()}, "permissions is not JSON"),
    ],
)
def test_permissions_that_are_no_json_object_are_refused(permissions: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        checked(job_spec(permissions=permissions))


def test_permissions_that_are_nested_too_deeply_are_refused() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = {"more": deep}
    with pytest.raises(RequestError, match="permissions cannot be kept: it is nested more than 64 levels deep"):
        checked(job_spec(permissions=deep))


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("a\x00", "has a NUL character"),
        ("\udfff", "has half of a surrogate pair"),
        ("x" * (MAX_REASON + 1), "at most 10000"),
        (7, "must be a text, not int"),
    ],
)
def test_a_reason_that_cannot_be_kept_is_refused(reason: Any, said: str) -> None:
    with pytest.raises(RequestError, match=f"the argument approval_reason .*{said}"):
        checked(job_spec(approval="not required", approval_reason=reason))


def test_a_reason_may_have_several_lines() -> None:
    spec = job_spec(approval="not required", approval_reason="One.\nTwo.\t3")
    assert checked(spec) == spec
