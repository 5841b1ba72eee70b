"""Labels a support ticket by the words in it, as JSON: category, priority, confidence, and a reply.

About a third of ordinary tickets come out unsure or sensitive, so that a demo has something to review.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_aihandoff.testing.input_facts import largest_json

_REFUND_THAT_IS_SENSITIVE = 200

_CATEGORY_WORDS = {
    "billing": r"invoice|charged?\b|refund|payment|credit card|subscription|billed|billing|receipt|\bvat\b",
    "bug": r"error|crash|broken|\bbug\b|exception|fails?\b|not work|doesn't work|blank|freez|wrong result",
    "how_to": r"how (?:do|can|to|does)|where (?:do|can|is)|is it possible|tutorial|which steps|explain",
    "account": r"log ?in|logged out|password|sign in|two-factor|\b2fa\b|locked|my account|e-?mail address",
    "feature_request": r"feature|please add|would be (?:great|nice)|wish|support for|could you add|suggest",
    "complaint": r"disappoint|unacceptable|terrible|worst|angry|complain|fed up|rude|ridiculous|waste of",
}

_SYNONYMS = {
    "billing": ("payment", "payments", "invoice", "finance"),
    "bug": ("technical", "technical_issue", "defect", "incident", "problem"),
    "how_to": ("question", "usage", "documentation", "help"),
    "account": ("account_access", "access", "login", "security"),
    "feature_request": ("feature", "idea", "enhancement", "suggestion"),
    "complaint": ("feedback", "escalation"),
}

_PRIORITY_WORDS = {
    "urgent": r"urgent|immediately|asap|right now|outage|everyone is|production|data loss|injur|lawsuit",
    "high": r"cannot|can't|unable|blocked|locked|crash|charged twice|deadline|today|unacceptable",
    "low": r"how (?:do|can|to)|feature|would be (?:great|nice)|wish|suggest|no hurry|when you have time",
}

_PRIORITY_SYNONYMS = {
    "urgent": ("critical", "p1", "highest", "high"),
    "high": ("major", "p2"),
    "normal": ("medium", "p3", "moderate"),
    "low": ("minor", "p4", "lowest"),
}

_SENSITIVE_WORDS = re.compile(
    r"\blegal|lawyer|attorney|lawsuit|\bsue\b|\bcourt\b|injur|hurt|burn|hospital|password|privacy|gdpr|"
    r"personal data|data breach|leaked|discriminat|harass|medical",
    re.IGNORECASE,
)
_AMOUNT = r"(\d{1,3}(?:[.,]\d{3}){1,2}|\d{1,9})(?!\d)"
_MONEY = re.compile(
    rf"(?:[$€£]|usd|eur|gbp)\s?{_AMOUNT}|{_AMOUNT}(?:[.,]\d\d)?\s?(?:[$€£]|usd|eur|gbp|dollars|euros)",
    re.IGNORECASE,
)

_SUBJECT_LINE = re.compile(r"^[ \t>*#-]*subject[ \t*]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)

_REPLIES = {
    "billing": "I have looked up the charge and passed it to our billing team, who check it within a working day.",
    "bug": "I could follow your steps and have filed this with our engineers; I will write when it is fixed.",
    "how_to": "You find this under Settings; I have attached the page of the manual that shows each step.",
    "account": "To keep your account safe I have sent a link to the address on file; it is valid for an hour.",
    "feature_request": "I have added your idea to the list that our product team goes through every month.",
    "complaint": "I am sorry that we let you down. I have given this to our team lead, who will call you.",
}
_GENERAL_REPLY = "Could you tell us a little more, so that the right colleague can help you?"


@dataclass(frozen=True)
class TicketLabel:
    """The label of one ticket; names come with the alternatives that other schemas use, best first."""

    categories: list[str]
    priorities: list[str]
    confidence: float
    """From 0 to 1."""
    sensitive: bool
    suggested_reply: str


def label(text: str, seed: str) -> TicketLabel:
    """The label for the ticket in `text`; `seed` varies the confidence a little."""
    subject, ticket = _ticket(text)
    hits = {category: _hits(words, ticket) for category, words in _CATEGORY_WORDS.items()}
    ranking = sorted(hits, key=lambda category: -hits[category])
    best, second = (hits[category] for category in ranking[:2])
    names = ranking if best else []
    reply = _REPLIES[names[0]] if names else _GENERAL_REPLY
    return TicketLabel(
        categories=[*_with_synonyms(names[:1], _SYNONYMS), "other", "general", *_with_synonyms(ranking, _SYNONYMS)],
        priorities=_with_synonyms([_priority(ticket)], _PRIORITY_SYNONYMS),
        confidence=_confidence(best, second, random.Random(seed)),  # noqa: S311
        sensitive=bool(_SENSITIVE_WORDS.search(ticket)) or _is_large_refund(ticket),
        suggested_reply=f"Hello,\n\nthank you for writing to us about “{subject}”. {reply}\n\nKind regards\nSupport",
    )


def _ticket(text: str) -> tuple[str, str]:
    """Subject, and subject with body, without the prompt around them."""
    document = largest_json(text)
    if isinstance(document, Mapping) and isinstance(document.get("ticket"), Mapping):
        document = document["ticket"]
    if isinstance(document, Mapping) and "subject" in document:
        subject, body = str(document["subject"]), document.get("body") or document.get("description") or ""
        return subject, f"{subject}\n{body}"
    line = _SUBJECT_LINE.search(text)
    if line is None:
        return next(iter(text.strip().splitlines()), "your request"), text
    return line.group(1).strip(), text[line.start(1) :]


def _hits(words: str, ticket: str) -> int:
    return len({match.lower() for match in re.findall(words, ticket, re.IGNORECASE)})


def _priority(ticket: str) -> str:
    return next((name for name, words in _PRIORITY_WORDS.items() if _hits(words, ticket)), "normal")


def _confidence(best: int, second: int, source: random.Random) -> float:
    """High where one category is well ahead, low where none is."""
    if best == 0:
        level = 0.38
    elif best == second:
        level = 0.56
    else:
        level = 0.88 if best - second == 1 else 0.95
    return round(level + source.uniform(-0.04, 0.04), 2)


def _is_large_refund(ticket: str) -> bool:
    if not re.search(r"refund|money back|reimburse|compensation", ticket, re.IGNORECASE):
        return False
    amounts = (re.sub(r"[.,]", "", before or after) for before, after in _MONEY.findall(ticket))
    return any(int(amount) >= _REFUND_THAT_IS_SENSITIVE for amount in amounts)


def _with_synonyms(names: list[str], synonyms: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [word for name in names for word in (name, *synonyms.get(name, ()))]
