"""The words for each state of a job: on pages, in the preview of a clear, and before it is cancelled. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_aihandoff.core.states import JobState

#: The heading over the effects.
EFFECTS_TITLE: Mapping[JobState, str] = {
    **dict.fromkeys(JobState, "What would be written"),
    JobState.REVIEW: "What will be written if you approve",
    JobState.APPROVED: "What will be written",
    JobState.APPLYING: "What is being written",
    JobState.COMPLETED: "What was written",
    JobState.CANCELLED: "What was planned",
    JobState.ROLLING_BACK: "What was written, and is being undone",
    JobState.ROLLED_BACK: "What was written, and then undone",
}

#: What cancelling a job does, for those states in which it can be.
CANCELLING: Mapping[JobState, str] = {
    JobState.QUEUED: "No request will be sent from now on, and no external write will be made.",
    JobState.RUNNING: "The response is cancelled at OpenAI. What it has used until then is billed.",
    JobState.REVIEW: "No external write will be made.",
    JobState.APPROVED: "No external write will be made.",
    JobState.APPLYING: "Effects that were not sent will not be sent. Applied effects stay, and can be rolled back.",
}

#: What clearing the draft task does. In the other states it asks the model, or is refused: `clear_preview` says why.
ATTACHED: Mapping[JobState, str] = {
    JobState.RUNNING: "waits for the response that runs: nothing is paid again",
    JobState.REVIEW: "attaches, nothing is paid; a person still has to decide",
    JobState.APPROVED: "attaches, nothing is paid; the approval stands",
    JobState.APPLYING: "attaches, nothing is paid; the approval stands",
    JobState.COMPLETED: "attaches, nothing is paid; nothing is written again",
    JobState.REJECTED: "attaches, nothing is paid; the rejection stands",
    JobState.ROLLING_BACK: "attaches, nothing is paid; it is being rolled back, so its effects are refused",
    JobState.ROLLED_BACK: "attaches, nothing is paid; it was rolled back, so its effects are refused",
}
