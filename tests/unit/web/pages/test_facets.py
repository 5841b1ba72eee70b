from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.web.pages.facets import (
    MAX_FACETS,
    MAX_PATHS,
    MAX_TEXT,
    MAX_VALUES,
    Chosen,
    FacetCounts,
    chosen_of,
    matches,
)


def counted(*outputs: Any) -> dict[str, dict[str, int]]:
    """How many outputs have which value, by the words of a page."""
    counts = FacetCounts()
    for output in outputs:
        counts.add(output)
    return {facet.field: {each.words: number for each, number in facet.counts} for facet in counts.facets()}


def test_a_field_with_few_values_is_counted_the_most_frequent_first() -> None:
    found = counted({"category": "bug"}, {"category": "billing"}, {"category": "billing"})
    assert found == {"Category": {"billing": 2, "bug": 1}}
    assert list(found["Category"]) == ["billing", "bug"]


def test_a_field_of_a_part_is_counted_under_its_path() -> None:
    outputs = [{"label": {"is_urgent": urgent}} for urgent in (True, False, True)]
    assert counted(*outputs) == {"Label › Is urgent": {"yes": 2, "no": 1}}  # noqa: RUF001  as pages write it


@pytest.mark.parametrize(
    "values",
    [
        ["same"] * 3,
        list(range(MAX_VALUES + 1)),
        ["short", "x" * (MAX_TEXT + 1)],
        ["short", ["a list"]],
        [10**4301, 1],
    ],
)
def test_a_field_with_one_value_or_many_or_with_long_ones_is_no_facet(values: list[Any]) -> None:
    assert counted(*({"field": value} for value in values)) == {}


def test_a_field_that_was_dropped_stays_dropped() -> None:
    assert counted({"a": "x" * 100}, {"a": "one"}, {"a": "two"}, {"a": "two"}) == {}


def test_values_that_python_takes_for_equal_are_different_ones() -> None:
    assert counted(*({"a": value} for value in (1, True, 1.0, None, "", "1"))) == {
        "A": {"1": 1, "yes": 1, "1.0": 1, "none": 1, "empty": 1}
    }


def test_an_output_without_fields_has_no_facets() -> None:
    assert counted("A text", ["a", "list"], None, 7) == {}


def test_no_more_facets_are_shown_than_fit() -> None:
    outputs = [{f"field {number}": value for number in range(MAX_FACETS + 3)} for value in ("a", "b")]
    assert len(counted(*outputs)) == MAX_FACETS


@pytest.mark.parametrize("value", ["bug", "", "\ud800", True, 1, 1.5, None])
def test_a_chosen_value_comes_back_from_its_address_and_finds_its_outputs_alone(value: Any) -> None:
    chosen = Chosen(("label", "a:b"), value)
    (again,) = chosen_of([chosen.as_address()] * 2)
    assert again == chosen
    assert type(again.value) is type(value)
    assert matches({"label": {"a:b": value}}, [again])
    assert not matches({"label": {"a:b": "another"}}, [again])
    others: tuple[Any, ...] = ({}, {"label": "a:b"}, [], None)
    for other in others:
        assert not matches(other, [again])


def test_every_chosen_value_must_be_there() -> None:
    chosen = chosen_of(['[["a"],1]', '[["b"],2]'])
    assert matches({"a": 1, "b": 2}, chosen)
    assert not matches({"a": 1, "b": 3}, chosen)
    assert not matches({"a": True, "b": 2}, chosen)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "7", "[]", "[[],1]", '[["a"]]', '[["a"],[1]]', '[[1],"a"]', '["a","b","c"]', '"ab"', '[["a"],NaN]'),
        *('[["a","b","c","d"],1]', "[" * 100_000, f'[["a"],"{"x" * 61}"]'),
    ],
)
def test_an_address_that_names_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the JSON of a path and a value"):
        chosen_of([text])


def test_no_more_fields_are_counted_than_the_bound_where_data_are_names_of_fields() -> None:
    counts = FacetCounts()
    for number in range(MAX_PATHS):
        counts.add({"category": "bug" if number % 2 else "billing", **{f"sku_{number}_{each}": 1 for each in range(9)}})
    assert len(counts._counts) == MAX_PATHS
    assert [facet.field for facet in counts.facets()] == ["Category"]
