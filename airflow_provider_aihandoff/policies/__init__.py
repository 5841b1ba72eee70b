"""Written policies that approve without a person."""

from airflow_provider_aihandoff.policies.built_in import (
    AllOf,
    AllowedValues,
    AmountLimit,
    MinimumConfidence,
    Sampling,
)
from airflow_provider_aihandoff.policies.policy import ApprovalPolicy, Approve, AskPerson, verdict_of

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
