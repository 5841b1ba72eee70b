"""What the shipped rules approve, and that they ask about everything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.review.rules import Approvers
from airflow_provider_aihandoff.policies import (
    AllOf,
    AllowedValues,
    AmountLimit,
    ApprovalPolicy,
    Approve,
    AskPerson,
    MinimumConfidence,
    Sampling,
)
from airflow_provider_aihandoff.policies.built_in import Rule
from tests.unit.policies.jobs import PLAN, Says, job

FINANCE = Approvers(groups=("finance",))
LEGAL = Approvers(users=("lea",))

#: Whatever a model might write in the place of what was asked for.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def decide(policy: ApprovalPolicy, output: Any = None, **changes: Any) -> Approve | AskPerson:
    return policy.decide(job(output, **changes), PLAN)


class TestConfidence:
    @pytest.mark.parametrize("confidence", [0.85, 0.9, 1, 1.0])
    def test_a_confidence_at_the_threshold_is_approved(self, confidence: float) -> None:
        assert decide(MinimumConfidence(0.85), {"confidence": confidence}) == Approve(
            f"confidence is {confidence}, at least 0.85"
        )

    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            ({"confidence": 0.62}, "confidence is 0.62, below 0.85"),
            ({"confidence": 0}, "confidence is 0, below 0.85"),
            ({"confidence": 97}, "confidence is 97, not a number from 0 to 1"),
            ({"confidence": "0.9"}, 'confidence is "0.9", not a number from 0 to 1'),
            ({"confidence": True}, "confidence is true, not a number from 0 to 1"),
            ({"confidence": None}, "confidence is null, not a number from 0 to 1"),
            ({"confidence": []}, "the output has no confidence"),
            ({}, "the output has no confidence"),
            ("A text", "the output has no confidence"),
            (None, "the output has no confidence"),
        ],
    )
    def test_a_confidence_below_the_threshold_or_not_a_number_asks_a_person(self, output: Any, reason: str) -> None:
        assert decide(MinimumConfidence(0.85), output) == AskPerson(reason)

    def test_the_lowest_of_several_confidences_counts(self) -> None:
        rule = MinimumConfidence(0.85, "answers.confidence")
        answers = [{"confidence": 0.9}, {"confidence": 0.4}]
        assert decide(rule, {"answers": answers}) == AskPerson("answers.confidence is 0.4, below 0.85")

    def test_a_confidence_must_be_in_each_of_several_places(self) -> None:
        rule = MinimumConfidence(0.85, "answers.confidence")
        assert decide(rule, {"answers": [{"confidence": 0.9}, {}]}) == AskPerson("the output has no answers.confidence")

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, 85, float("nan")])
    def test_a_threshold_outside_0_to_1_is_refused(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 1"):
            MinimumConfidence(threshold)


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["label.sure", "$.label.sure", "$['label']['sure']", "$..sure", "$.label[?@ > 0.8]"]
    )
    def test_a_field_is_named_by_dots_or_as_jsonpath(self, path: str) -> None:
        assert isinstance(decide(MinimumConfidence(0.85, path), {"label": {"sure": 0.9}}), Approve)

    @pytest.mark.parametrize("name", ["items", "keys", "get", "values"])
    def test_a_field_with_the_name_of_a_method_is_read(self, name: str) -> None:
        for path in (name, f"$.{name}"):
            assert isinstance(decide(AllowedValues(path, [None]), {name: None}), Approve)

    @pytest.mark.parametrize("path", ["", ".", "a.", "a..b", "$.", "$[", "$$"])
    def test_an_invalid_path_is_refused_when_the_dag_is_parsed(self, path: str) -> None:
        for rule in (MinimumConfidence, AmountLimit):
            with pytest.raises(ValueError, match=r"[pP]ath"):
                rule(field=path, **{"threshold": 0.5} if rule is MinimumConfidence else {"limit": 1})
        with pytest.raises(ValueError, match=r"[pP]ath"):
            AllowedValues(path, ["a"])

    def test_jsonpath_is_not_loaded_for_a_dotted_path(self) -> None:
        code = (
            "import sys\n"
            "from airflow_provider_aihandoff.policies import MinimumConfidence\n"
            "MinimumConfidence(0.85)\n"
            "sys.exit('jsonpath_rfc9535' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class Category(StrEnum):
    BILLING = "billing"


class TestAllowedValues:
    def test_an_allowed_value_is_approved(self) -> None:
        rule = AllowedValues("category", [Category.BILLING, "bug"])
        assert decide(rule, {"category": "billing"}) == Approve('category is "billing"')

    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            ({"category": "complaint"}, 'category is "complaint", which needs a person'),
            ({"category": "Billing"}, 'category is "Billing", which needs a person'),
            ({"category": {"billing": 1}}, 'category is {"billing": 1}, which needs a person'),
            ({}, "the output has no category"),
        ],
    )
    def test_a_value_that_is_not_allowed_asks_a_person(self, output: Any, reason: str) -> None:
        assert decide(AllowedValues("category", ["billing"]), output) == AskPerson(reason)

    @pytest.mark.parametrize("value", [0, 0.0, "", None, "false", []])
    def test_what_only_resembles_false_is_not_false(self, value: Any) -> None:
        assert isinstance(decide(AllowedValues("sensitive", [False]), {"sensitive": value}), AskPerson)

    def test_every_one_of_several_values_must_be_allowed(self) -> None:
        rule = AllowedValues("tags", ["a", "b"])
        assert decide(rule, {"tags": ["a", "b", "a"]}) == Approve('tags is "a", "b"')
        assert decide(rule, {"tags": ["a", "c"]}) == AskPerson('tags is "c", which needs a person')

    def test_two_long_values_that_begin_alike_are_different_values(self) -> None:
        long = "x" * 100
        rule = AllowedValues("category", [f"{long}a"])
        assert isinstance(decide(rule, {"category": f"{long}a"}), Approve)
        verdict = decide(rule, {"category": f"{long}b"})
        assert isinstance(verdict, AskPerson)
        assert len(verdict.reason) < 100

    @pytest.mark.parametrize("values", [[], "billing"])
    def test_an_empty_list_of_allowed_values_or_a_text_is_refused(self, values: Any) -> None:
        with pytest.raises(ValueError, match="allowed, in a list"):
            AllowedValues("category", values)


class TestAmountLimit:
    @pytest.mark.parametrize("total", [100, 99.99, 0, "100.00", "0100"])
    def test_an_amount_at_the_limit_is_approved(self, total: Any) -> None:
        assert isinstance(decide(AmountLimit("total", 100), {"total": total}), Approve)

    @pytest.mark.parametrize(
        ("total", "reason"),
        [
            (100.01, "total is 100.01, above 100"),
            ("100.001", "total is 100.001, above 100"),
            (1e300, "total is 1E+300, above 100"),
            (-1, "total is -1, not an amount of 0 or more"),
            ("-0.01", 'total is "-0.01", not an amount of 0 or more'),
            (True, "total is true, not an amount"),
            (None, "total is null, not an amount"),
            ("1,50", 'total is "1,50", not an amount'),
            ("1e1", 'total is "1e1", not an amount'),
            ("NaN", 'total is "NaN", not an amount'),
            (" 1", 'total is " 1", not an amount'),
            ("1\n", 'total is "1\\n", not an amount'),
            ("٣", 'total is "٣", not an amount'),
            ("", 'total is "", not an amount'),
            ({"value": 1}, 'total is {"value": 1}, not an amount'),
            ([], "the output has no total"),
        ],
    )
    def test_an_amount_above_the_limit_or_not_an_amount_asks_a_person(self, total: Any, reason: str) -> None:
        assert decide(AmountLimit("total", 100), {"total": total}) == AskPerson(reason)

    def test_several_amounts_are_added_up_exactly(self) -> None:
        rule = AmountLimit("lines.amount", "0.3")
        assert 0.1 + 0.2 > 0.3
        assert decide(rule, {"lines": [{"amount": 0.1}, {"amount": 0.2}]}) == Approve(
            "the sum of 2 lines.amount is 0.3, at most 0.3"
        )

    def test_a_line_without_an_amount_asks_a_person(self) -> None:
        rule = AmountLimit("lines.amount", 100)
        assert isinstance(decide(rule, {"lines": [{"amount": 5}, {"amuont": 5000}]}), AskPerson)

    @settings(max_examples=50)
    @given(st.lists(st.floats(min_value=0, allow_infinity=False) | st.integers(min_value=0), min_size=1))
    def test_the_sum_of_amounts_is_exact_for_any_numbers(self, amounts: list[float]) -> None:
        exact = sum((Fraction(str(value)) for value in amounts), Fraction())
        limit = Decimal(10) ** 6
        verdict = decide(AmountLimit("$.amounts[*]", limit), {"amounts": amounts})
        assert isinstance(verdict, Approve) == (exact <= 10**6)

    def test_a_sum_of_amounts_is_not_rounded_down_to_the_limit(self) -> None:
        amounts = ["9999999999999999999999999999", "1.000000000000000000000000000001"]
        assert isinstance(decide(AmountLimit("amounts", 10**28), {"amounts": amounts}), AskPerson)

    @pytest.mark.parametrize("limit", [-1, "1,000", float("nan"), float("inf"), Decimal("NaN"), "", True])
    def test_a_limit_that_is_not_an_amount_is_refused(self, limit: Any) -> None:
        with pytest.raises(ValueError, match="the limit is"):
            AmountLimit("total", limit)


class TestSampling:
    def test_several_can_read_the_sample_blind(self) -> None:
        rule = Sampling(100, approvals=2, blind=True)
        assert decide(rule) == AskPerson("it is in the sample of 100 %", approvals=2, blind=True)
        both = decide(AllOf(rule, MinimumConfidence(0.5)), {"confidence": 1})
        assert isinstance(both, AskPerson)
        assert both.blind
        assert rule.version != Sampling(100, approvals=2).version
        with pytest.raises(ValueError, match="at least 2 approvals"):
            Sampling(5, approvals=1, blind=True)

    @given(st.text(), st.integers(min_value=1, max_value=9), st.floats(0, 100))
    def test_a_sample_has_the_same_jobs_each_time(self, key: str, revision: int, percent: float) -> None:
        drawn = [
            decide(Sampling(percent), {"any": "output"}, job_key=key, revision=revision, job_id=job_id)
            for job_id in (1, 2)
        ]
        assert drawn[0] == drawn[1]

    def test_a_job_is_in_the_sample_or_not_in_every_release_alike(self) -> None:
        sampled = [key for key in range(60) if isinstance(decide(Sampling(20), job_key=str(key)), AskPerson)]
        assert sampled == SAMPLED

    @pytest.mark.parametrize("percent", [1, 5, 50, 99])
    def test_a_sample_has_about_the_share_of_jobs_that_was_asked_for(self, percent: float) -> None:
        asked = sum(isinstance(decide(Sampling(percent), job_key=str(key)), AskPerson) for key in range(4000))
        assert abs(asked / 40 - percent) < 2.5

    @given(st.text())
    def test_a_sample_of_0_percent_is_empty_and_one_of_100_percent_has_every_job(self, key: str) -> None:
        assert decide(Sampling(0), job_key=key) == Approve("it is not in the sample of 0 %")
        assert decide(Sampling(100), job_key=key) == AskPerson("it is in the sample of 100 %")

    def test_another_job_type_revision_or_rule_name_draws_another_sample(self) -> None:
        keys = [str(key) for key in range(100)]

        def asked(name: str = "sampling", **changes: Any) -> list[str]:
            rule = Sampling(50, name=name)
            return [key for key in keys if isinstance(decide(rule, job_key=key, **changes), AskPerson)]

        draws = [asked(), asked(revision=2), asked(job_type="invoice"), asked("audit")]
        assert len({tuple(draw) for draw in draws}) == 4

    @given(st.text(), st.floats(0, 100), st.floats(0, 100))
    def test_a_larger_sample_has_every_job_of_a_smaller_one(self, key: str, one: float, other: float) -> None:
        small, large = sorted((one, other))
        if isinstance(decide(Sampling(small), job_key=key), AskPerson):
            assert isinstance(decide(Sampling(large), job_key=key), AskPerson)

    @pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
    def test_a_share_outside_0_to_100_percent_is_refused(self, percent: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 100"):
            Sampling(percent)


class TestAllOf:
    def test_all_of_approves_what_every_policy_approves_and_names_each(self) -> None:
        rules = (AllowedValues("sensitive", [False]), MinimumConfidence(0.85))
        verdict = decide(AllOf(*rules), {"sensitive": False, "confidence": 0.9})
        assert verdict == Approve(
            f"sensitive is false ({rules[0].label}); confidence is 0.9, at least 0.85 ({rules[1].label})"
        )

    def test_all_of_asks_a_person_where_one_policy_does_and_names_it(self) -> None:
        rules = (AllowedValues("sensitive", [False]), MinimumConfidence(0.85))
        verdict = decide(AllOf(*rules), {"sensitive": False, "confidence": 0.4})
        assert verdict == AskPerson(f"confidence is 0.4, below 0.85 ({rules[1].label})")

    def test_the_order_of_policies_takes_no_requirement_away(self) -> None:
        sampled = Says(AskPerson("it is in the sample"), "sample")
        large = Says(AskPerson("it is much", FINANCE, 2), "amount")
        for policies in ((sampled, large), (large, sampled)):
            verdict = decide(AllOf(*policies))
            assert isinstance(verdict, AskPerson)
            assert (verdict.approvers, verdict.approvals) == (FINANCE, 2)
            assert "it is in the sample (sample@1)" in verdict.reason
            assert "it is much (amount@1)" in verdict.reason

    def test_the_first_policy_that_names_approvers_says_who_and_the_strictest_how_many(self) -> None:
        asks = [AskPerson("a", LEGAL, 1), AskPerson("b", FINANCE, 3), AskPerson("c")]
        verdict = decide(AllOf(*map(Says, asks)))
        assert isinstance(verdict, AskPerson)
        assert (verdict.approvers, verdict.approvals) == (LEGAL, 3)

    def test_a_policy_that_raises_asks_and_does_not_hide_what_the_others_require(self) -> None:
        verdict = decide(AllOf(Says(ValueError("a bug"), "broken"), Says(AskPerson("it is much", FINANCE))))
        assert verdict == AskPerson("the policy raised an error (broken@1); it is much (says@1)", FINANCE)

    def test_two_policies_with_the_same_label_are_both_asked(self) -> None:
        assert isinstance(decide(AllOf(Says(AskPerson("a")), Says(Approve("b")))), AskPerson)

    def test_all_of_needs_a_policy(self) -> None:
        with pytest.raises(ValueError, match="needs a policy"):
            AllOf()


RULES: list[Callable[..., Rule]] = [
    lambda **more: MinimumConfidence(0.5, **more),
    lambda **more: AllowedValues("field", [1], **more),
    lambda **more: AmountLimit("field", 1, **more),
    lambda **more: Sampling(100, **more),
]


class TestEveryRule:
    @settings(max_examples=25)
    @given(JSON)
    def test_every_output_of_a_model_gets_a_verdict(self, output: Any) -> None:
        for path in ("field", "$.field", "field.field", "$..field"):
            for rule in (MinimumConfidence(0.5, path), AllowedValues(path, [1]), AmountLimit(path, 1)):
                assert isinstance(decide(rule, output), (Approve, AskPerson))
                assert isinstance(decide(rule, {"field": output}), (Approve, AskPerson))

    @pytest.mark.parametrize("make", RULES)
    def test_a_rule_may_require_particular_people(self, make: Callable[..., Rule]) -> None:
        verdict = decide(make(approvers=FINANCE, approvals=2))
        assert isinstance(verdict, AskPerson)
        assert (verdict.approvers, verdict.approvals) == (FINANCE, 2)

    @pytest.mark.parametrize("make", RULES)
    @pytest.mark.parametrize(("name", "approvals"), [("", 1), ("a@b", 1), ("a", 0)])
    def test_an_ambiguous_rule_name_and_zero_approvals_are_refused(
        self, make: Callable[..., Rule], name: str, approvals: int
    ) -> None:
        with pytest.raises(ValueError, match=r"name without|at least 1"):
            make(name=name, approvals=approvals)

    def test_only_a_changed_parameter_changes_the_label_of_a_rule(self) -> None:
        def labels() -> list[str]:
            rules: list[ApprovalPolicy] = [
                MinimumConfidence(0.85),
                MinimumConfidence(0.86),
                MinimumConfidence(0.85, "sure"),
                MinimumConfidence(0.85, name="other"),
                MinimumConfidence(0.85, approvals=2),
                MinimumConfidence(0.85, approvers=FINANCE),
                MinimumConfidence(0.85, approvers=LEGAL),
                AllowedValues("kind", ["a", "b"]),
                AllowedValues("kind", ["a"]),
                AllowedValues("other", ["a"]),
                AllowedValues("kind", [1]),
                AllowedValues("kind", [True]),
                AmountLimit("total", 100),
                AmountLimit("total", 101),
                AmountLimit("net", 100),
                Sampling(5),
                Sampling(6),
                AllOf(Sampling(5)),
                AllOf(Sampling(6)),
                AllOf(Sampling(5), Sampling(6)),
                AllOf(Sampling(5), name="other"),
            ]
            return [rule.label for rule in rules]

        assert labels() == labels()
        assert len(set(labels())) == len(labels())

    def test_allowed_values_in_another_order_are_the_same_rule(self) -> None:
        assert AllowedValues("kind", ["a", "b"]).label == AllowedValues("kind", ["b", "a"]).label

    def test_a_rule_with_changed_logic_has_another_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = Sampling(5).version
        monkeypatch.setattr(Sampling, "logic", 2)
        assert Sampling(5).version != before


#: What the rule has drawn since its first release.
SAMPLED = [7, 12, 23, 30, 36, 39, 43, 48, 57]
