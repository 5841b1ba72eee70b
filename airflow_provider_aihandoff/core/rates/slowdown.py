"""What the other side says about its limits, and what the fleet makes of it. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP: what goes through is halved when the other
side says that it was too much, and grows again by a fixed part each minute.
"""

from __future__ import annotations

from dataclasses import dataclass

#: With what part of what went through the fleet goes on after it was too much, and by what part that grows each minute.
FACTOR = 0.5
STEP = 0.1

#: How many times as much as then goes through before it is forgotten, where no one has set a limit.
FORGOTTEN = 4.0

#: Requests a minute, as the least that is halved at first: of a connection that was hardly used, nothing was learned.
LEAST_BASE = 60

#: Seconds for which nothing is sent where the other side names no time, and the most that it may ask for.
PAUSE = 1.0
LONGEST_PAUSE = 3600.0

#: The most seconds for which nothing is sent because an earlier pause did not help.
LONGEST_AGAIN = 60.0


@dataclass(frozen=True)
class Heard:
    """What an answer says about the limits of the one who gave it.

    :param too_much: it is refused because of them.
    :param wait: seconds that it asks to wait, if it does.
    :param requests: how many requests a minute it takes, if it says so.
    :param said: as text, for people.
    """

    too_much: bool = False
    wait: float | None = None
    requests: int | None = None
    said: str = ""

    def pause(self, slowed_for: float = 0.0) -> float:
        """For how many seconds nothing is sent.

        :param slowed_for: for how many seconds the fleet has been slower already: where that did not help, it waits as
            long again.
        """
        asked = self.wait if self.wait is not None else PAUSE if self.too_much else 0.0
        again = min(slowed_for, LONGEST_AGAIN) if self.too_much else 0.0
        return min(max(asked, again, 0.0), LONGEST_PAUSE)


def is_news(at: float, slowed_at: float | None, period: float) -> bool:
    """Whether an answer that it was too much is about what the fleet does now: what it made of an earlier one is seen
    after a period, and those that were under way together count once.
    """
    return slowed_at is None or at > slowed_at + period


def amount_now(amount: int | None, base: int | None, slowed_at: float | None, at: float) -> int | None:
    """How much goes through in a period now; None where nothing limits it.

    :param amount: what a person has set.
    :param base: how much went through in a period when the other side asked for less, at ``slowed_at``.
    """
    if base is None or slowed_at is None:
        return amount
    grown = FACTOR + STEP * max(0.0, at - slowed_at) / 60
    if amount is None and grown >= FORGOTTEN:
        return None
    learned = max(1, int(base * grown))
    return learned if amount is None else min(amount, learned)


def base_after(now: int | None, sent: int, period: float, stated: int | None) -> int:
    """What is halved when the other side says that it was too much.

    :param now: what goes through at most, by :func:`amount_now`, if that is learned already.
    :param sent: how much has gone through in the last period.
    :param stated: how many requests a minute the other side says that it takes, if it does.
    """
    base = max(sent, int(LEAST_BASE * period / 60), 1) if now is None else min(now, max(sent, 1))
    return base if stated is None else max(1, min(base, int(stated * period / 60)))
