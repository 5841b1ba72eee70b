"""Who may decide on a review that is reassigned, as forms and addresses name them: names, with commas between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Form, Query
from pydantic import Field

from airflow_provider_aihandoff.core.review.rules import Approvers, Reviewers

#: The fields, in the order of the form, with what stands before each.
FIELDS: Mapping[str, str] = {
    "to_users": "Users",
    "to_roles": "Roles",
    "to_groups": "Groups",
    "escalate_users": "Escalated to users",
    "escalate_roles": "Escalated to roles",
    "escalate_groups": "Escalated to groups",
}

#: Those of an author who escalates to no one.
APPROVER_FIELDS = dict(list(FIELDS.items())[:3])

MAX_TEXT = 2_000

_Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]

#: What is typed in each field.
Texts = dict[str, str]


def _of_query(
    to_users: Annotated[_Text, Query()] = "",
    to_roles: Annotated[_Text, Query()] = "",
    to_groups: Annotated[_Text, Query()] = "",
    escalate_users: Annotated[_Text, Query()] = "",
    escalate_roles: Annotated[_Text, Query()] = "",
    escalate_groups: Annotated[_Text, Query()] = "",
) -> Texts:
    texts = (to_users, to_roles, to_groups, escalate_users, escalate_roles, escalate_groups)
    return dict(zip(FIELDS, texts, strict=True))


def _of_form(
    to_users: Annotated[_Text, Form()] = "",
    to_roles: Annotated[_Text, Form()] = "",
    to_groups: Annotated[_Text, Form()] = "",
    escalate_users: Annotated[_Text, Form()] = "",
    escalate_roles: Annotated[_Text, Form()] = "",
    escalate_groups: Annotated[_Text, Form()] = "",
) -> Texts:
    texts = (to_users, to_roles, to_groups, escalate_users, escalate_roles, escalate_groups)
    return dict(zip(FIELDS, texts, strict=True))


QueriedReviewersDep = Annotated[Texts, Depends(_of_query)]
SentReviewersDep = Annotated[Texts, Depends(_of_form)]


def reviewers_of(texts: Mapping[str, str]) -> Reviewers:
    """The people whom these fields name; none where they are empty."""
    names = [_names(texts.get(field, "")) for field in FIELDS]
    return Reviewers(Approvers(*names[:3]), Approvers(*names[3:]))


def as_address(texts: Mapping[str, str]) -> str:
    """The fields as a part of the query of an address."""
    return urlencode({field: text for field, text in texts.items() if text})


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
