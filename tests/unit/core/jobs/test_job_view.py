from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.jobs.job_view import Fields, JobView, as_fields

#: An output whose fields are called like the methods of `dict`.
ORDER = {
    "items": [{"sku": "K-1", "items": [1]}],
    "keys": ["front"],
    "values": {"total": 9.5},
    "get": "pick-up",
    "copy": True,
    "update": None,
}


def job(output: Any) -> JobView:
    return JobView(
        job_id=1,
        job_type="publishing",
        job_key="post:kettle",
        revision=1,
        requested_by="alice",
        permissions=as_fields({"write": ["cms"]}),
        input=as_fields({"model": "gpt-5.2"}),
        output=as_fields(output),
    )


def render(template: str, output: Any) -> str:
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    return environment.from_string(template).render(job=job(output))


class TestFields:
    @pytest.mark.parametrize("name", ORDER)
    def test_a_field_comes_before_a_method_of_the_same_name(self, name: str) -> None:
        assert getattr(as_fields(ORDER), name) == ORDER[name]

    def test_fields_are_read_at_any_depth_and_within_lists(self) -> None:
        assert as_fields({"a": {"b": [{"c": 1}]}}).a.b[0].c == 1

    def test_an_object_without_such_fields_keeps_the_methods(self) -> None:
        assert list(as_fields({"a": 1}).items()) == [("a", 1)]

    def test_a_field_that_is_not_there_is_an_error_that_names_those_that_are(self) -> None:
        with pytest.raises(AttributeError, match=r"no field 'titel'; there are: body, title"):
            _ = as_fields({"title": "x", "body": "y"}).titel

    def test_a_field_that_begins_with_an_underscore_can_be_read(self) -> None:
        assert as_fields({"_id": 7})._id == 7

    def test_a_field_cannot_take_the_place_of_what_python_itself_calls(self) -> None:
        assert as_fields({"__class__": "x"}).__class__ is Fields

    def test_a_fields_object_is_a_dict_to_everything_that_wants_one(self) -> None:
        fields = as_fields(ORDER)
        assert fields == ORDER
        assert {**fields} == dict(fields) == ORDER
        assert copy.deepcopy(fields) == ORDER
        assert pickle.loads(pickle.dumps(fields)) == ORDER  # noqa: S301
        assert canonical_json(fields) == canonical_json(ORDER)

    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("value", [[1], {"items": {"a": []}}, "two kettles", 3, 1.5])
    def test_json_of_an_object_with_a_field_items_is_the_object(self, value: Any, indent: int | None) -> None:
        fields = as_fields({"items": value, "b": 1})
        assert json.loads(json.dumps(fields, sort_keys=True, indent=indent)) == {"items": value, "b": 1}


class TestTemplates:
    def test_a_template_reads_the_output_by_attribute_or_by_name(self) -> None:
        output = {"title": "Kettle", "tags": ["a", "b"]}
        assert render("{{ job.output.title }}/{{ job['output']['title'] }}/{{ job.output.tags[1] }}", output) == (
            "Kettle/Kettle/b"
        )

    def test_a_template_reads_a_text_as_it_is(self) -> None:
        assert render("{{ job.output }}", "A kettle.") == "A kettle."

    def test_fields_called_like_methods_can_be_looped_over_and_tested(self) -> None:
        template = "{% for item in job.output.items %}{{ item.sku }}{% endfor %} {{ job.output.items | length }}"
        assert render(template, ORDER) == "K-1 1"

    def test_tojson_writes_the_whole_output_whatever_its_fields_are_called(self) -> None:
        assert json.loads(render("{{ job.output | tojson }}", ORDER)) == ORDER

    def test_tojson_writes_a_field_called_items(self) -> None:
        assert json.loads(render("{{ job.output.items | tojson }}", ORDER)) == ORDER["items"]

    @pytest.mark.parametrize("text", ["\x00", "\ud800", "</script>", '"}', "{{ job.input }}"])
    def test_text_of_the_model_stays_text(self, text: str) -> None:
        assert json.loads(render('{"body": {{ job.output.body | tojson }} }', {"body": text})) == {"body": text}
        assert render("{{ job.output.body }}", {"body": text}) == text

    def test_a_field_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(UndefinedError, match="titel"):
            render("{{ job.output.titel }}", {"title": "x"})

    def test_the_sandbox_keeps_its_walls(self) -> None:
        with pytest.raises(SecurityError):
            render("{{ job.output.__class__.__mro__ }}", {"title": "x"})

    @pytest.mark.parametrize("name", ["state", "created_at", "decision_id", "review_digest"])
    def test_a_template_cannot_use_what_changes_between_approval_and_effect(self, name: str) -> None:
        with pytest.raises(UndefinedError):
            render(f"{{{{ job.{name} }}}}", {})
