"""A link in a message that lets one person give one verdict on one digest of a job, once. Pure.

It is no right: its page asks for the login, and the rules of the job decide as ever. It only says what the click means.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from airflow_provider_aihandoff.core.errors import LinkForAnotherUser, LinkSpent
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import TERMINAL, Person

#: What a link can mean. A request for changes needs a comment, and costs: its place is the job's page.
LinkVerdict = Literal["approve", "reject"]

#: Bytes of chance in a token.
_TOKEN_BYTES = 32

_NOT_RECORDED = "Nothing was recorded. No external write was made."


@dataclass(frozen=True)
class DecisionLink:
    """A link as the ledger has it.

    :param token_hash: the SHA-256 of its token, in hexadecimal. The token itself is in the message alone.
    :param digest: the review digest that it is about.
    :param person: whom it is for: a login name, or the auth manager's id.
    :param expires_at: by the database's clock; never after the review's deadline.
    :param used_at: when a decision was made with it.
    """

    token_hash: str
    job_id: int
    revision: int
    digest: str
    verdict: LinkVerdict
    person: str
    expires_at: datetime
    created_at: datetime
    used_at: datetime | None


def new_token() -> str:
    """A token that no one can guess, of characters that need no escape in an address."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def hash_of(token: str) -> str:
    """What the ledger keeps of a token. A plain hash is enough: a token has 256 bits of chance."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def check_named(person: str) -> None:
    """Return when a link can be for this person.

    :raises ValueError: it names no one, or an account at a terminal, where no link is opened.
    """
    if not isinstance(person, str) or not person.strip() or person.startswith(TERMINAL):
        raise ValueError(f"a decision link is for one login name, not {person!r}.")


def check_is_for(link: DecisionLink, person: Person) -> None:
    """Return when a link is for this person. The error says nothing of the job.

    :raises LinkForAnotherUser: it is not.
    """
    if link.person not in person.names:
        raise LinkForAnotherUser(
            "it was sent to another user, and counts for no one else.",
            written=_NOT_RECORDED,
            remedy="If you have two logins, log in with the other one. What waits for you is in the review queue.",
        )


def check_is_open(link: DecisionLink, job: Job, at: datetime) -> None:
    """Return when a link was not used, has not expired, and is about the current revision.

    :param at: by the database's clock.
    :raises LinkSpent: it was, has, or is not.
    """
    if link.used_at is not None:
        raise _spent(job, f"it was used at {_moment(link.used_at)}, and works once.")
    if link.revision != job.revision:
        raise _spent(job, f"it is about revision {link.revision}, and the job is at revision {job.revision} by now.")
    if at >= link.expires_at:
        raise _spent(job, f"it expired at {_moment(link.expires_at)}.")


def already_given(link: DecisionLink, job: Job) -> LinkSpent:
    """Why a link leads to nothing where the person has said the same on the job's page, or with another link."""
    said = "approved" if link.verdict == "approve" else "rejected"
    return _spent(job, f"you have {said} this already.")


def _spent(job: Job, why: str) -> LinkSpent:
    return LinkSpent(why, job=job.label, written=_NOT_RECORDED, remedy="The job's page shows how it is now.")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M %Z}"
