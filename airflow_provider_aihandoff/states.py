"""The states that a job, a revision, an effect and a webhook can be in."""

from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState, RevisionState

__all__ = ["Disposition", "EffectState", "JobState", "RevisionState"]
