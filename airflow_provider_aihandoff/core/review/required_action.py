"""What Airflow's *Required Actions* shows of a review, and what an answer there means. Pure.

Its text is kept as plain text in Airflow's database: it has no content, and says no more than a notification does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.core.invisible import escape
from airflow_provider_aihandoff.core.models import Effect, Job
from airflow_provider_aihandoff.core.review.decision_link import LinkVerdict
from airflow_provider_aihandoff.core.review.rules import rules_of
from airflow_provider_aihandoff.core.states import EffectState

#: Characters of a digest that an option carries. An answer is bound to them alone, so that no one may be able to make
#: two versions of an output that share them: 128 bits.
_SHOWN = 32

_WORDS: Mapping[LinkVerdict, str] = {"approve": "Approve", "reject": "Reject"}

#: Writes that are named; the others are counted.
_NAMED = 5

#: Of a comment, as REST takes it.
_COMMENT_LENGTH = 10_000

#: The form beside the options, as Airflow describes parameters.
PARAMS: Mapping[str, Any] = {
    "comment": {
        "value": "",
        "description": "Goes on the record with your answer. Optional.",
        "schema": {"type": ["string", "null"], "title": "Comment", "maxLength": _COMMENT_LENGTH},
    }
}


@dataclass(frozen=True)
class RequiredAction:
    """One question of Airflow's list.

    :param subject: one line of plain text.
    :param body: Markdown.
    :param options: what can be answered, each with the digest that it counts for.
    """

    subject: str
    body: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a person has answered in Airflow's list.

    :param verdict: None where they have chosen nothing that this question offers.
    :param login: None where Airflow does not say who it was.
    """

    verdict: LinkVerdict | None
    login: str | None
    user_id: str | None
    comment: str | None


def required_action(job: Job, effects: Collection[Effect], link: str, refusal: str | None = None) -> RequiredAction:
    """What is asked about a job that waits for a decision.

    :param effects: the intended ones of its current revision.
    :param link: the job's page.
    :param refusal: why the answer before was not recorded.
    """
    assert job.review_digest is not None
    until = "" if job.review_deadline is None else f"Decide by {job.review_deadline:%Y-%m-%d %H:%M %Z}. "
    parts = [
        *([] if refusal is None else [f"**An answer was not recorded:** {_code(refusal)}"]),
        f"{_code(f'{job.job_type} {job.job_key}')} waits for a decision. {_would_be_written(effects)}",
        f"[Review it]({link}): its page shows the output and the exact requests. There you can also edit the output, "
        "or request changes.",
        f"{until}May decide: {_code(str(rules_of(job).approvers))}. An answer here counts for the version "
        f"{_code(job.review_digest[:_SHOWN])} alone.",
    ]
    subject = escape(f"{job.job_type} {job.job_key} waits for a decision")
    return RequiredAction(subject, "\n\n".join(parts), options_for(job.review_digest))


def options_for(digest: str) -> tuple[str, ...]:
    """What can be answered about this digest."""
    return tuple(f"{word} {digest[:_SHOWN]}" for word in _WORDS.values())


def answer_in(event: Mapping[str, Any] | None, digest: str) -> Answer | None:
    """The answer with which Airflow has resumed a task; None where it was resumed for something else.

    :param event: as Airflow hands it over.
    :param digest: what the task had asked about.
    """
    if event is None or not event.get("chosen_options"):
        return None
    user, form = event.get("responded_by_user") or {}, event.get("params_input") or {}
    comment = form.get("comment")
    return Answer(
        _verdict(event["chosen_options"], digest),
        login=user.get("name"),
        user_id=user.get("id"),
        comment=comment[:_COMMENT_LENGTH] if isinstance(comment, str) else None,
    )


def _verdict(chosen: Sequence[str], digest: str) -> LinkVerdict | None:
    meant = dict(zip(options_for(digest), _WORDS, strict=True))
    return meant.get(chosen[0]) if len(chosen) == 1 else None


def _would_be_written(effects: Collection[Effect]) -> str:
    """What an approval writes, by the names that the author of the Dag has given."""
    planned = [each for each in effects if each.undoes is None and each.state is not EffectState.SKIPPED]
    if not planned:
        return "If you approve, no external write is made."
    named = ", ".join(f"{_code(each.name)} ({_code(each.kind)})" for each in planned[:_NAMED])
    more = f" and {len(planned) - _NAMED:,} more" if len(planned) > _NAMED else ""
    one = len(planned) == 1
    return f"If you approve, {len(planned):,} {'write is' if one else 'writes are'} sent: {named}{more}."


def _code(text: str) -> str:
    """A text as Markdown that shows it as it is: no link, no markup, nothing invisible."""
    shown = escape(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
