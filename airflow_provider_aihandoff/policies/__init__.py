"""Written policies that approve without a person."""

from airflow_provider_aihandoff.policies.policy import ApprovalPolicy, Approve, AskPerson, verdict_of
from airflow_provider_aihandoff.policies.rules import (
    AllOf,
    AllowedValues,
    AmountLimit,
    MinimumConfidence,
    Sampling,
)

__all__ = [
    "AllOf",
    "AllowedValues",
    "AmountLimit",
    "ApprovalPolicy",
    "Approve",
    "AskPerson",
    "MinimumConfidence",
    "Sampling",
    "verdict_of",
]
