"""The filter of jobs, as the query of an address names it: the same for the page, the downloads and the REST API."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need, Sort
from airflow_provider_aihandoff.core.states import JobState

#: PostgreSQL stores no NUL.
_STORABLE = r"^[^\x00]*$"

_Text = Annotated[str, Query(pattern=_STORABLE, max_length=2_000)]


def _job_filter(
    state: Annotated[
        list[str],
        Query(
            description="Only jobs in this state. Repeat it for several states.",
            json_schema_extra={"items": {"type": "string", "enum": list(JobState)}},
        ),
    ] = [],  # noqa: B006
    type: Annotated[str, Query(pattern=_STORABLE, max_length=500, description="Only jobs of this type.")] = "",
    key: Annotated[
        str, Query(pattern=_STORABLE, max_length=2_000, description="Only jobs whose key begins like this.")
    ] = "",
    dag_id: Annotated[str, Query(max_length=2_000, description="Only jobs of this Dag.")] = "",
    run_id: Annotated[
        str, Query(pattern=_STORABLE, max_length=2_000, description="Only jobs that this run has made or attached to.")
    ] = "",
    task_id: Annotated[
        str, Query(pattern=_STORABLE, max_length=2_000, description="Only jobs of this task; needs `dag_id`.")
    ] = "",
    requester: _Text = "",
    reviewer: Annotated[
        str, Query(pattern=_STORABLE, max_length=500, description="Only jobs on which this user has decided.")
    ] = "",
    older_than: Annotated[
        str, Query(pattern=_STORABLE, max_length=20, description="A span of time, such as `7d`.")
    ] = "",
    newer_than: Annotated[
        str, Query(pattern=_STORABLE, max_length=20, description="A span of time, such as `12h`.")
    ] = "",
    min_cost: Annotated[str, Query(pattern=_STORABLE, max_length=40, description="In dollars.")] = "",
    min_retries: Annotated[str, Query(pattern=_STORABLE, max_length=20)] = "",
    external_id: Annotated[
        str, Query(pattern=_STORABLE, max_length=1_000, description="The id of a record that an effect made.")
    ] = "",
    response_id: _Text = "",
    error: Annotated[
        str, Query(pattern=_STORABLE, max_length=500, description="Words that all stand in the job's error.")
    ] = "",
    need: Annotated[
        str,
        Query(
            description="Only jobs that need a person for this reason.",
            json_schema_extra={"enum": list(Need)},
        ),
    ] = "",
    set: Annotated[str, Query(pattern=_STORABLE, max_length=20, description="Only jobs of the set with this id.")] = "",
    sort: Annotated[str, Query(json_schema_extra={"enum": list(Sort)})] = "",
) -> JobFilter:
    texts = {
        "state": [each for each in state if each],
        "type": type,
        "key": key,
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "requester": requester,
        "reviewer": reviewer,
        "older_than": older_than,
        "newer_than": newer_than,
        "min_cost": min_cost,
        "min_retries": min_retries,
        "external_id": external_id,
        "response_id": response_id,
        "error": error,
        "need": need,
        "set": set,
        "sort": sort,
    }
    return JobFilter.of_texts(texts)


JobFilterDep = Annotated[JobFilter, Depends(_job_filter)]
