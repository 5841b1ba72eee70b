"""The asset of a job type, as Dags name it."""

from __future__ import annotations

import pytest
from airflow.sdk import AssetAlias
from pydantic import BaseModel

from airflow_provider_aihandoff.assets import applied_asset
from airflow_provider_aihandoff.core.errors import PlanError, RequestError
from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.operators.asset_events import as_aliases, check_type


class Ticket(BaseModel):
    subject: str


def test_an_asset_is_the_same_by_the_name_of_a_type_and_by_its_declaration() -> None:
    declared = JobType("ticket_label", input=Ticket)
    assert applied_asset(declared) == applied_asset("ticket_label")
    assert applied_asset("ticket_label").uri == "aihandoff://applied/ticket_label"


def test_a_name_that_airflow_would_refuse_or_read_as_a_path_is_quoted() -> None:
    asset = applied_asset("prüfung/a b?")
    assert asset.uri == "aihandoff://applied/pr%C3%BCfung%2Fa%20b%3F"
    assert asset.name == "aihandoff.applied.pr%C3%BCfung%2Fa%20b%3F"
    check_type(as_aliases([asset]), "prüfung/a b?", job="job 1")


@pytest.mark.parametrize("name", ["", " ", "a\x00b"])
def test_what_is_no_name_of_a_type_has_no_asset(name: str) -> None:
    with pytest.raises(RequestError):
        applied_asset(name)


def test_only_the_asset_of_a_job_type_becomes_an_alias_among_the_outlets() -> None:
    other = AssetAlias("other")
    assert as_aliases([other, applied_asset("label")]) == [other, AssetAlias("aihandoff://applied/label")]


def test_the_asset_of_another_type_is_refused_before_anything_is_written() -> None:
    with pytest.raises(PlanError, match="of the type 'label', and this one is of the type 'note'"):
        check_type(as_aliases([applied_asset("label")]), "note", job="job 1")
