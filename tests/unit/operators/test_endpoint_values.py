"""A value that the template of an endpoint fills in does not change the structure of the URL, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG
from jinja2 import Environment

from airflow_provider_aihandoff.operators.endpoint_values import declared_endpoints, value_problem


def problem(template: str, environment: Environment | None = None, **values: Any) -> str | None:
    env = environment or DAG("shop", schedule=None).get_template_env()
    return value_problem(
        template, env.from_string(template).render(values), env, lambda text, env: env.from_string(text).render(values)
    )


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("/posts/{{ v }}", "kettle"),
        ("/posts/{{ v }}", "K\u00e9ttle & co: 7, or 8=9; no".replace(";", "")),
        ("/posts/{{ v }}", "a.b..c"),
        ("/posts/{{ v | urlencode }}", "what? 100% #1; a\nb"),
        ("/posts/{{ v }}/label", 7),
        ("/posts?title={{ v | urlencode }}", "a/b?c&d=e#f\\g;h"),
        ("/posts?title={{ v }}", "a/b?c=d"),
        ("/posts?a={{ v }}&b=1", ""),
        ("/posts/x-{{ v }}", ""),
        ("/{{ 'a' if v else 'b' }}/c", 1),
        ("{% if v %}/a/{{ v }}{% else %}/b/c{% endif %}", "x"),
        ("{% set slug = v | lower %}/posts/{{ slug }}", "X"),
        ("{{ v }}", "/posts/kettle?draft=1"),
        ("{{ v | replace('x', 'y') }}", "/posts/x"),
        ("/posts/{external_id}", "unused"),
        ("/posts/kettle", "unused"),
    ],
)
def test_a_value_that_stays_one_part_of_the_url_is_taken(template: str, value: Any) -> None:
    assert problem(template, v=value) is None


@pytest.mark.parametrize(
    ("template", "value", "why"),
    [
        ("/posts/{{ v }}", "../users", "a value with '/', which would change the path"),
        ("/posts/{{ v }}", "..\\users", r"a value with '\\', which would change the path"),
        ("/posts/{{ v }}", "..%2fusers", "a value with '/', which would change the path"),
        ("/posts/{{ v }}", "%252e%252e%255cusers", r"a value with '\\', which would change the path"),
        ("/posts/{{ v }}", "kettle?admin=1", "a value with '?', which would change the path"),
        ("/posts/{{ v }}", "kettle#x", "a value with '#', which would change the path"),
        ("/posts/{{ v }}", "kettle;admin=1", "a value with ';', which would change the path"),
        ("{{ v }}/posts", "//evil.test", "a value with '/', which would change the path"),
        ("/posts/{{ v | urlencode }}", "a/b", "a value with '/', which would change the path"),
        ("/posts/{{ v }}/label", "", "an empty value"),
        ("/posts/{{ v }}", "", "an empty value"),
        ("/posts/{{ v }}?a=1", "", "an empty value"),
        ("/posts/{{ v }}{{ v }}", "", "an empty value"),
        ("/posts?a={{ v }}", "1&admin=1", "a value with '&', which would change the query"),
        ("/posts?a={{ v }}", "1#x", "a value with '#', which would change the query"),
        ("/a?b=/{{ v }}", "1&2", "a value with '&', which would change the query"),
        ("{% for each in v %}/{{ each }}{% endfor %}", ["a", "b/c"], "a value with '/', which would change the path"),
        ("{% macro m() %}x{{ v }}{% endmacro %}/posts/{{ m() }}", "a/b", "a value with '/'"),
        ("/posts/{% filter upper %}{{ v }}{% endfilter %}", "a", "cannot be separated from the rest"),
    ],
)
def test_a_value_that_would_change_the_structure_of_the_url_is_refused(template: str, value: Any, why: str) -> None:
    assert why in str(problem(template, v=value))


def test_a_value_cannot_end_itself() -> None:
    """Whatever marks the values is not known to who writes them."""
    assert problem("/posts/{{ v }}", v="a:>/admin</b") is not None
    first, second = problem("/posts/{{ v }}", v="a/b"), problem("/posts/{{ v }}", v="a/b")
    assert first == second


def test_a_template_that_renders_to_a_python_value_is_checked_too() -> None:
    env = DAG("shop", schedule=None, render_template_as_native_obj=True).get_template_env()
    assert problem("/posts/{{ v }}", env, v="a/b") is not None
    assert problem("/posts/{{ v }}", env, v=7) is None


def test_only_endpoints_are_checked() -> None:
    fields = {
        "endpoint": "/a",
        "current": "/b",
        "json": {"endpoint": "/c"},
        "undo": {"endpoint": "/d", "json": {"endpoint": "/e"}, "probe": {"endpoint": "/f", "query": {}}},
        "probe_request": {"endpoint": "/g"},
        "headers": "{{ rendered_as_a_whole }}",
    }
    assert dict(declared_endpoints(fields, ["endpoint", "current"])) == {
        "endpoint": "/a",
        "current": "/b",
        "undo.endpoint": "/d",
        "undo.probe.endpoint": "/f",
        "probe.endpoint": "/g",
    }
