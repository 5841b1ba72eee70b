"""What spending is added up by. Imports nothing: every call of `airflow` loads it."""

from __future__ import annotations

from enum import StrEnum


class SpentBy(StrEnum):
    """What spending is added up by."""

    DAY = "day"  # of UTC, on which a response ended
    TYPE = "type"
    DAG = "dag"
    REQUESTER = "requester"
    MODEL = "model"
    TAG = "tag"  # a job with several tags counts for each of them
    FATE = "fate"  # of the job: approved, rejected, failed, or open
