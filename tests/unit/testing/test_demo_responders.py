from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field, create_model

from airflow_provider_aihandoff.testing import ResponderRequest
from airflow_provider_aihandoff.testing.responders import DEMO_RESPONDERS


class Section(BaseModel):
    heading: str
    body: str


class ReportFigure(BaseModel):
    label: str
    value: float
    source: str


class Report(BaseModel):
    title: str
    summary: str
    sections: list[Section]
    figures: list[ReportFigure]


class Category(Enum):
    BILLING = "billing"
    BUG = "bug"
    HOW_TO = "how_to"
    ACCOUNT = "account"
    FEATURE_REQUEST = "feature_request"
    COMPLAINT = "complaint"


class TicketLabel(BaseModel):
    category: Category
    priority: Literal["low", "normal", "high", "urgent"]
    confidence: float = Field(ge=0, le=1)
    sensitive: bool
    suggested_reply: str


class ProductNote(BaseModel):
    title: str
    body: str
    tagline: str = Field(max_length=80)


Model = TypeVar("Model", bound=BaseModel)

DATA = {
    "company": "Northwind",
    "period": "2026-W05",
    "rows": [
        {"region": "EMEA", "revenue": 412300.5, "units": 1290, "growth_pct": 4.2},
        {"region": "APAC", "revenue": 310100, "units": 1100, "growth_pct": -1.2},
    ],
}
SALES = f"Write the weekly report. Read [regions] and {{units}}.\n```json\n{json.dumps(DATA)}\n```\nKeep it short."


def answer(schema: dict[str, Any], text: str, seed: str = "seed") -> Any:
    request = ResponderRequest(model="m", instructions="", input_text=text, schema=schema, metadata={}, seed=seed)
    answers = [responder(request) for responder in DEMO_RESPONDERS]
    return next((found for found in answers if found is not None), None)


def respond(model: type[Model], text: str, seed: str = "seed") -> Model:
    return model.model_validate(answer(to_strict_json_schema(model), text, seed))


def ticket(subject: str, body: str) -> TicketLabel:
    return respond(TicketLabel, f"Label this ticket as billing, bug or legal.\n\nSubject: {subject}\nBody: {body}")


class TestReport:
    def test_every_figure_of_the_input_is_reported_with_its_place(self) -> None:
        report = respond(Report, SALES)
        figures = {figure.label: (figure.value, figure.source) for figure in report.figures}
        assert figures["EMEA revenue"] == (412300.5, "$.rows[0].revenue")
        assert figures["APAC units"] == (1100.0, "$.rows[1].units")
        assert figures["Total units"] == (2390.0, "sum of 2 entries")
        assert not any("Total growth" in label for label in figures)

    def test_the_text_names_the_period_and_real_numbers(self) -> None:
        report = respond(Report, SALES)
        assert report.title == "Sales report: Northwind, 2026-W05"
        assert "722,400.50 in total, EMEA in front with 412,300.50" in report.summary
        assert [section.heading for section in report.sections] == ["Revenue", "Units", "Growth pct"]
        assert "the leader's share is 54%" in report.sections[1].body

    def test_an_object_of_objects_names_its_rows_by_their_keys(self) -> None:
        report = respond(Report, json.dumps({"EMEA": {"net_sales": 3, "year": 2026}, "APAC": {"net_sales": 4}}))
        assert [figure.label for figure in report.figures] == ["Total net sales", "APAC net sales", "EMEA net sales"]

    def test_an_input_without_figures_says_so(self) -> None:
        assert "no figures" in respond(Report, "Write a report.").summary

    def test_requested_changes_are_taken_up(self) -> None:
        report = respond(Report, SALES + "\nRequested changes: name the weakest region first")
        assert report.sections[-1].body == "As asked: name the weakest region first"

    def test_a_figure_can_be_text(self) -> None:
        schema = to_strict_json_schema(Report)
        schema["$defs"]["ReportFigure"]["properties"]["value"]["type"] = "string"
        assert "412,300.5" in [figure["value"] for figure in answer(schema, SALES)["figures"]]


class TestTicketLabel:
    @pytest.mark.parametrize(
        ("subject", "body", "category", "priority"),
        [
            ("Charged twice", "My credit card was charged twice, please refund $49.", "billing", "high"),
            ("Export fails", "The page shows an error, then a blank screen.", "bug", "normal"),
            ("Export", "How do I export my data?", "how_to", "low"),
            ("Locked out", "I cannot log in, my account is locked.", "account", "high"),
            ("Idea", "It would be great to have a dark mode, please add it.", "feature_request", "low"),
            ("Unacceptable", "I am disappointed, this is the worst service.", "complaint", "high"),
            ("Outage", "Urgent: production is down with an error.", "bug", "urgent"),
        ],
    )
    def test_a_clear_ticket_is_labelled_with_confidence(
        self, subject: str, body: str, category: str, priority: str
    ) -> None:
        found = ticket(subject, body)
        assert (found.category.value, found.priority, found.sensitive) == (category, priority, False)
        assert found.confidence >= 0.8
        assert subject in found.suggested_reply

    def test_a_ticket_that_says_little_or_pulls_both_ways_is_unsure(self) -> None:
        assert ticket("Hello", "Something is odd.").confidence < 0.5
        assert ticket("Invoice", "The invoice page shows an error.").confidence < 0.7

    @pytest.mark.parametrize(
        "body",
        [
            "My lawyer will contact you.",
            "I was injured by the lamp.",
            "Please tell me my password.",
            "This is a breach of my privacy.",
            "I want a refund of $1,250.00.",
            "Refund the 200 EUR.",
            "I want my money back: €1.200,50.",
        ],
    )
    def test_a_delicate_ticket_is_sensitive(self, body: str) -> None:
        assert ticket("Question", body).sensitive

    @pytest.mark.parametrize("body", ["Please refund $49.99.", "The lamp cost $1,250.", "Refund order 4711."])
    def test_money_alone_or_a_small_refund_is_not_sensitive(self, body: str) -> None:
        assert not ticket("Question", body).sensitive

    def test_a_ticket_in_json_is_read_without_the_prompt_around_it(self) -> None:
        data = {"ticket": {"id": 7, "subject": "Export", "body": "How do I export my data?"}}
        found = respond(TicketLabel, f"Mark legal threats and lawyers as sensitive.\n{json.dumps(data)}")
        assert (found.category, found.sensitive) == (Category.HOW_TO, False)
        assert "“Export”" in found.suggested_reply

    def test_other_names_for_the_same_are_found_in_the_schemas_enums(self) -> None:
        schema = to_strict_json_schema(TicketLabel)
        schema["$defs"]["Category"]["enum"] = ["Technical issue", "Payments", "Other"]
        schema["properties"]["priority"]["enum"] = ["P1", "P2", "P3", "P4"]
        text = "Subject: Charged twice\nMy card was charged twice, refund the invoice."
        assert answer(schema, text)["category"] == "Payments"
        assert answer(schema, text)["priority"] == "P2"
        assert answer(schema, "Subject: hello\nodd")["category"] == "Other"

    def test_free_text_takes_the_plain_names(self) -> None:
        schema = to_strict_json_schema(TicketLabel)
        schema["properties"]["category"] = {"type": "string"}
        assert answer(schema, "Subject: Export\nHow do I export?")["category"] == "how_to"


class TestProductNote:
    def test_name_and_facts_come_from_json(self) -> None:
        data = {"name": "Trail Lamp", "facts": ["waterproof to 30 m", "40 hours of light"], "price": "49 EUR"}
        note = respond(ProductNote, f"Write the product note.\n{json.dumps(data)}")
        assert "Trail Lamp" in note.title
        assert note.tagline == "Trail Lamp: waterproof to 30 m."
        assert "- Waterproof to 30 m\n- 40 hours of light\n- Price: 49 EUR" in note.body

    def test_name_and_facts_come_from_lines(self) -> None:
        note = respond(ProductNote, "Product: Trail Lamp\nFacts:\n- waterproof\n- light")
        assert "Trail Lamp" in note.title
        assert "- Waterproof\n- Light" in note.body

    def test_a_slug_in_the_prompt_becomes_a_name(self) -> None:
        assert "Aurora Desk" in respond(ProductNote, "Write the product note for aurora-desk.").title

    def test_requested_changes_are_taken_up(self) -> None:
        note = respond(ProductNote, "Write the product note for aurora-desk.\nRequested changes: name the warranty")
        assert "Revised as asked: name the warranty" in note.body

    def test_another_input_gets_another_wording(self) -> None:
        bodies = {respond(ProductNote, "Product: Lamp", seed).body for seed in "abcdefgh"}
        assert len(bodies) > 1


@pytest.mark.parametrize("model", [Report, TicketLabel, ProductNote])
@given(text=st.text(), seed=st.text(max_size=3))
def test_any_input_gets_a_valid_answer(model: type[BaseModel], text: str, seed: str) -> None:
    respond(model, text, seed)
    respond(model, f"subject: {text}\nrefund $ {text}\n{json.dumps({text: [1, text, {text: 2}]})}", seed)


json_documents = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "subject", "facts", "n", "ticket", ""]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(document=json_documents)
@pytest.mark.parametrize("model", [Report, TicketLabel, ProductNote])
def test_any_json_gets_a_valid_answer(model: type[BaseModel], document: Any) -> None:
    respond(model, f"Data: {json.dumps(document)}")


def test_enums_and_bounds_of_the_schema_that_was_sent_win() -> None:
    fields: dict[str, Any] = {
        "category": (Literal["red", "green"], ...),
        "priority": (Literal[1, 2, 3], ...),
        "confidence": (float, Field(ge=0, le=0.25)),
        "sensitive": (Literal[True], ...),
        "suggested_reply": (str, Field(max_length=40)),
    }
    found = respond(create_model("Other", **fields), "Subject: Charged twice\nRefund my invoice.")
    assert found.model_dump()["confidence"] == 0.25


def test_a_schema_with_other_properties_is_left_to_other_responders() -> None:
    class Other(BaseModel):
        title: str
        body: str

    assert answer(to_strict_json_schema(Other), SALES) is None


def test_a_queue_of_tickets_is_mostly_clear_with_some_to_review() -> None:
    bodies = [
        "My card was charged twice for one invoice.",
        "The export fails with an error.",
        "How do I add a colleague?",
        "I cannot log in to my account.",
        "Please add a dark mode, it would be great.",
        "The app crashes with an exception.",
        "Where can I find the tutorial?",
        "My lawyer says that you owe me an answer.",
        "Things are strange since Monday.",
        "I want a refund of $900.",
        "The subscription was billed and a payment failed.",
        "This is ridiculous, the worst service.",
    ]
    labels = [ticket("Ticket", body) for body in bodies]
    reviewed = Counter(label.sensitive or label.confidence < 0.7 for label in labels)
    assert reviewed[True] == 3
