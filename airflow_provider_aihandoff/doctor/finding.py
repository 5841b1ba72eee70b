"""What an examination has found, with the reason why it matters and what fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and may not for long, or not as well as it could
    ERROR = "error"  # something does not work


#: The exit code of the command, by the worst finding.
EXIT_CODES = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


@dataclass(frozen=True)
class Finding:
    """One result. It never holds a secret.

    :param subject: what was examined.
    :param what: what was found, as a sentence.
    :param why: why it matters, as a sentence; empty where all is well.
    :param fix: the command, or the setting, that fixes it.
    """

    level: Level
    subject: str
    what: str
    why: str = ""
    fix: str = ""


def worst(findings: list[Finding]) -> Level:
    """The level of the worst of these; ``ok`` of none."""
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index, default=Level.OK)
