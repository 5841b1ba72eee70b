"""A kind of target is found where a package registers it, and says what is wrong where it is not."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.effects import target_registry
from airflow_provider_aihandoff.core.effects.describe import describe, describe_undo
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, RequestView, Target
from airflow_provider_aihandoff.core.effects.target_registry import GROUP, find_target_type, kinds, target_type
from airflow_provider_aihandoff.core.effects.undo import plan_undo, undo_plan, undo_target, why_not
from airflow_provider_aihandoff.core.errors import PlanError, UnknownTargetKind
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.core.states import EffectState

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=5,
)
#: The parts of the plans of every kind, and one more.
_PARTS = """connection method url headers query body sql database parameters function arguments code
    server from to cc bcc subject text html x"""
NAMES = st.sampled_from(_PARTS.split())

SMS = """
from airflow_provider_aihandoff.core.effects.target import Applied, RequestView, Target

class SmsTarget(Target):
    kind = "sms"
    undo_fields = frozenset({"number", "text"})

    def __init__(self, name, text=""):
        self.name, self.text = name, text

    def apply(self, plan, key):
        return Applied(f"{plan['number']} {self.text}")

    def undo_defaults(self, plan):
        return {"number": plan["number"]}

    @classmethod
    def plan_undo(cls, declared, *, name):
        return {"number": declared["number"]}, {"text": declared["text"]}

    @classmethod
    def from_undo(cls, name, plan, options):
        return cls(name, options["text"])

    @classmethod
    def quoted(cls, field, value):
        return value.upper() if field == "number" else value

    @classmethod
    def may_name(cls, external_id):
        return external_id != "0"

    @classmethod
    def describe(cls, plan):
        if "number" not in plan:
            raise KeyError("number")
        return RequestView("SMS", plan["number"])

class Other: ...
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a package with the module `sms_package`, which registers targets."""

    def install(package: str, **points: str) -> None:
        (tmp_path / "sms_package.py").write_text(SMS)
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        forget()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    sys.modules.pop("sms_package", None)
    forget()


def forget() -> None:
    target_registry._registered.cache_clear()
    target_registry.target_type.cache_clear()


def sms_effect(external_id: str = "+1", *, plan: Any = None, kind: str = "sms", **undo: Any) -> Effect:
    fields: dict[str, Any] = dict.fromkeys(Effect.__dataclass_fields__)
    own = {"effect_id": 1, "name": "tell", "effect_key": "aih-1", "state": EffectState.APPLIED}
    kept = {"kind": kind, "plan": plan, **undo}
    return Effect(**{**fields, **own, "kind": kind, "undo": kept, "external_id": external_id})


class TestOwn:
    def test_the_four_kinds_of_this_package_are_registered_as_pyproject_says(self) -> None:
        project = tomllib.loads(Path(__file__).parents[4].joinpath("pyproject.toml").read_text())["project"]
        own = metadata.distribution("airflow-provider-aihandoff").entry_points.select(group=GROUP)
        assert {point.name: point.value for point in own} == project["entry-points"][GROUP]
        assert set(kinds()) >= {"email", "function", "http", "postgres"}

    @pytest.mark.parametrize("kind", ["email", "function", "http", "postgres"])
    def test_each_own_target_has_its_kind(self, kind: str) -> None:
        found = target_type(kind)
        assert issubclass(found, Target)
        assert found.kind == kind


class TestAnotherPackage:
    def test_one_module_and_one_registration_add_a_kind(self, install: Callable[..., None]) -> None:
        install("sms", sms="sms_package:SmsTarget")

        assert "sms" in kinds()
        assert describe("sms", {"number": "+1"}) == RequestView("SMS", "+1")
        defaults = {"number": "{external_id}"}
        undo = plan_undo({"text": "sorry, {external_id}"}, kind="sms", name="tell", defaults=defaults)
        assert undo == {"kind": "sms", "plan": {"number": "{external_id}"}, "text": "sorry, {external_id}"}
        view = describe_undo(undo)
        assert (view.action, view.address, view.rest) == ("SMS", "{external_id}", {"kind": "sms", "text": undo["text"]})
        effect = sms_effect("+a", **undo)
        assert why_not(effect) is None
        plan = undo_plan(effect, None)
        assert (plan.plan, plan.undo) == ({"number": "+A"}, {"text": "sorry, +a"})
        assert undo_target(plan).apply(plan.plan, "key") == Applied("+A sorry, +a")
        assert "its external id is '0'" in str(why_not(sms_effect("0", **undo)))

    def test_an_undo_with_a_missing_or_unknown_field_is_refused(self, install: Callable[..., None]) -> None:
        install("sms", sms="sms_package:SmsTarget")
        with pytest.raises(PlanError, match="the undo of the effect 'tell' lacks 'text'"):
            plan_undo({}, kind="sms", name="tell", defaults={"number": "+1"})
        with pytest.raises(PlanError, match="lacks 'number'"):  # an effect of another kind has no defaults for it
            plan_undo({"kind": "sms", "text": "no"}, kind="http", name="tell", defaults={"number": "+1"})
        with pytest.raises(PlanError, match=r"does not know: sql\. .* It takes: number, text"):
            plan_undo({"sql": "SELECT"}, kind="sms", name="tell")

    def test_a_plan_that_it_cannot_describe_is_shown_field_by_field(self, install: Callable[..., None]) -> None:
        install("sms", sms="sms_package:SmsTarget")
        assert describe("sms", {"to": "+1"}) == RequestView(rest={"to": "+1"}, writes={"to": "+1"})


class TestUnknown:
    def test_an_unknown_kind_fails_with_its_name_and_the_known_ones(self) -> None:
        with pytest.raises(UnknownTargetKind) as error:
            target_type("fax")
        assert "no target of the kind 'fax' is installed here" in str(error.value)
        assert "email, function, http, postgres" in str(error.value)
        assert error.value.written in str(error.value)
        assert find_target_type("fax") is None

    def test_a_plan_of_an_unknown_kind_is_shown_and_its_undo_says_why_it_cannot_be_sent(self) -> None:
        assert describe("fax", {"to": "+1"}).rest == {"to": "+1"}
        effect = sms_effect(kind="fax", plan={"to": "+1"})
        assert why_not(effect) == "has an undo that cannot be sent: no target of the kind 'fax' is installed here"
        with pytest.raises(UnknownTargetKind):
            undo_target(EffectPlan("undo:tell", "fax", {}, "", {}))

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("sms_package:Nothing", "cannot be loaded from 'sms_package:Nothing': AttributeError"),
            ("no_such_package:SmsTarget", "cannot be loaded from 'no_such_package:SmsTarget': ModuleNotFoundError"),
            ("sms_package:Other", "is not a target of this kind"),
            ("airflow_provider_aihandoff.targets.http:HttpTarget", "is not a target of this kind"),
        ],
    )
    def test_a_registration_that_is_wrong_says_what_is(
        self, install: Callable[..., None], value: str, said: str
    ) -> None:
        install("sms", sms=value)
        with pytest.raises(UnknownTargetKind, match=said):
            target_type("sms")

    def test_a_kind_that_two_packages_register_is_used_by_neither(self, install: Callable[..., None]) -> None:
        install("sms", sms="sms_package:SmsTarget")
        install("sms_too", sms="sms_package:Other")
        with pytest.raises(UnknownTargetKind, match="is registered twice: sms_package:Other and sms_package:SmsTarget"):
            target_type("sms")


class Bare(Target):
    kind = "bare"

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        return Applied()


class Probed(Bare):
    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        return NotApplied()

    def read(self, plan: dict[str, Any]) -> Any:
        return {}


def test_a_target_can_do_what_it_defines() -> None:
    bare, probed = Bare(), Probed()
    assert (bare.idempotent, bare.can_probe, bare.can_read) == (False, False, False)
    assert (probed.can_probe, probed.can_read) == (True, True)
    assert bare.probe({}, "key") is None
    with pytest.raises(PlanError, match="cannot be undone by the kind 'bare'"):
        Bare.plan_undo({}, name="tell")
    with pytest.raises(PlanError, match="the kind 'bare' has no undo"):
        Bare.from_undo("undo:tell", {}, {})


@pytest.mark.parametrize(
    ("kind", "plan", "view"),
    [
        (
            "http",
            {
                "connection": "cms",
                "method": "PUT",
                "url": "http://cms/1",
                "headers": {"If-Match": "3"},
                "query": {},
                "body": "{}",
                "new": 1,
            },
            RequestView(
                "PUT",
                "http://cms/1",
                tables={"headers": {"If-Match": "3"}},
                bodies={"Body": "{}"},
                rest={"connection": "cms", "new": 1},
                writes="{}",
                key_label="Idempotency-Key",
            ),
        ),
        (
            "postgres",
            {"connection": "db", "database": "db:5432/x", "sql": "SELECT 1", "parameters": {"a": 1}},
            RequestView(
                "SQL", "db:5432/x", "SELECT 1", {"parameters": {"a": 1}}, rest={"connection": "db"}, writes={"a": 1}
            ),
        ),
        (
            "function",
            {"function": "m:f", "code": "abc", "arguments": {"a": 1}},
            RequestView("Call", "m:f", tables={"arguments": {"a": 1}}, rest={"code": "abc"}, writes={"a": 1}),
        ),
        ("CrmNoteOperator", {"customer": "ann"}, RequestView(rest={"customer": "ann"}, writes={"customer": "ann"})),
    ],
)
def test_a_reviewer_sees_every_part_of_a_plan(kind: str, plan: dict[str, Any], view: RequestView) -> None:
    assert describe(kind, plan) == view


@pytest.mark.parametrize("kind", ["email", "function", "http", "postgres", "of an author"])
@pytest.mark.parametrize("part", [None, 17, "a text", ["in a list"], {"a": {"b": 17}}])
def test_a_plan_of_another_shape_loses_nothing_and_breaks_no_page(kind: str, part: Any) -> None:
    names = ["method", "url", "headers", "query", "body", "sql", "database", "parameters", "function", "arguments"]
    names += ["server", "from", "to", "cc", "bcc", "subject", "text", "html", "odd"]
    for name in names:
        view = describe(kind, {name: part})
        shown = str([view.action, view.address, view.code, view.bodies, view.tables, view.rest])
        assert (part[0] if isinstance(part, list) else str(part)) in shown


@given(st.sampled_from(["email", "function", "http", "postgres", "of an author"]), st.dictionaries(NAMES, JSON))
def test_no_part_of_a_plan_is_left_out(kind: str, plan: dict[str, Any]) -> None:
    shown = json.dumps([*vars(describe(kind, plan)).values()])
    for name, value in plan.items():
        if value not in ({}, [], "", None, False, 0):
            part = ", ".join(map(str, value)) if isinstance(value, list) else value
            assert json.dumps(part)[1:-1] in shown or json.dumps(value) in shown, name


def test_an_undo_whose_plan_and_options_share_a_name_shows_both() -> None:
    view = describe_undo({"kind": "http", "plan": {"kind": "x", "method": "PUT"}, "idempotent": True})
    assert view.rest == {"plan": {"kind": "x"}, "kind": "http", "idempotent": True}
    assert describe_undo({"method": "DELETE"}).rest == {"method": "DELETE"}
    assert describe_undo({"kind": "http", "plan": "DELETE"}).rest == {"kind": "http", "plan": "DELETE"}
