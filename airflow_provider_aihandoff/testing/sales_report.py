"""Writes a report on the sales figures that stand in an input, as JSON: every number in it comes from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.testing.input_facts import (
    capitalised,
    in_words,
    largest_json,
    requested_changes,
)
from airflow_provider_aihandoff.testing.json_scalars import is_number

_MOST_FIGURES = 12
_NOT_FIGURES = ("id", "year", "month", "week", "day")
_RATIOS = ("rate", "percent", "pct", "share", "margin", "growth", "average", "avg", "price", "ratio", "score")
_TITLE_KEYS = ("title", "company", "name", "period", "quarter", "month", "week", "date")


@dataclass(frozen=True)
class Figure:
    """One number of the input."""

    measure: str
    """What is measured, such as "revenue"."""
    subject: str
    """Of what, such as "EMEA"; may be empty."""
    value: float
    source: str
    """Where it stands in the JSON, such as `$.regions[0].revenue`."""

    @property
    def label(self) -> str:
        """Subject and measure, for a reader."""
        return capitalised(f"{self.subject} {self.measure}".strip())


def report(text: str) -> dict[str, Any]:
    """The fields of a report: `title`, `summary`, `sections` and `figures`."""
    document = largest_json(text)
    measures = _by_measure(list(_figures(document, "$", "")))
    context = _context(document)
    sections = [
        {"heading": capitalised(measure), "body": _paragraph(measure, figures)} for measure, figures in measures.items()
    ]
    leads = " ".join(_lead(measure, figures) for measure, figures in measures.items())
    changes = requested_changes(text)
    if changes:
        sections.append({"heading": "Changes since the last version", "body": f"As asked: {changes}"})
    return {
        "title": f"Sales report: {context}" if context else "Sales report",
        "summary": leads or "The input holds no figures to report on.",
        "sections": sections or [{"heading": "Figures", "body": "None were found in the input."}],
        "figures": _shown(measures),
    }


def _figures(value: Any, path: str, subject: str) -> Iterator[Figure]:
    """Every number in `value`; rows are named by their texts, other objects by their key."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _figures(entry, f"{path}[{index}]", subject)
    elif isinstance(value, Mapping):
        named = "" if path == "$" else " ".join(text for text in value.values() if isinstance(text, str))
        for key, entry in value.items():
            inner = f"{path}.{key}"
            if isinstance(entry, Mapping | list):
                yield from _figures(entry, inner, named or ("" if isinstance(entry, list) else in_words(key)))
            elif _is_figure(key, entry):
                yield Figure(in_words(key), named or subject, entry, inner)


def _is_figure(key: str, value: object) -> bool:
    last_word = in_words(key).lower().rpartition(" ")[2]
    return is_number(value) and last_word not in _NOT_FIGURES


def _by_measure(figures: list[Figure]) -> dict[str, list[Figure]]:
    """The figures by what they measure, the largest first."""
    measures: dict[str, list[Figure]] = {}
    for figure in sorted(figures, key=lambda figure: -figure.value):
        measures.setdefault(figure.measure, []).append(figure)
    order = list(dict.fromkeys(figure.measure for figure in figures))
    return {measure: measures[measure] for measure in order}


def _context(document: Any) -> str:
    """What the report is about: the texts at the top of the JSON that name it."""
    if not isinstance(document, Mapping):
        return ""
    return ", ".join(value for key in _TITLE_KEYS if isinstance(value := document.get(key), str))


def _total(measure: str, figures: list[Figure]) -> float | None:
    """The sum, where adding up means something."""
    if len(figures) < 2 or any(word in measure.lower() for word in _RATIOS):
        return None
    return round(sum(figure.value for figure in figures), 2)


def _lead(measure: str, figures: list[Figure]) -> str:
    total = _total(measure, figures)
    best = figures[0]
    if total is None:
        return f"{best.label}: {_written(best.value)}."
    return (
        f"{capitalised(measure)}: {_written(total)} in total, "
        f"{best.subject or best.source} in front with {_written(best.value)}."
    )


def _paragraph(measure: str, figures: list[Figure]) -> str:
    total = _total(measure, figures)
    if len(figures) == 1:
        return f"{figures[0].label} stands at {_written(figures[0].value)}."
    best, last = figures[0], figures[-1]
    sentences = [
        f"{best.subject or best.source} leads with {_written(best.value)}, "
        f"{last.subject or last.source} closes the list with {_written(last.value)}."
    ]
    if total:
        share = best.value / total
        sentences.append(
            f"Together the {len(figures)} entries come to {_written(total)}; the leader's share is {share:.0%}."
        )
    return " ".join(sentences)


def _shown(measures: Mapping[str, list[Figure]]) -> list[dict[str, Any]]:
    """The figures to print: totals, then the largest of each measure."""
    shown = []
    for measure, figures in measures.items():
        total = _total(measure, figures)
        if total is not None:
            source = f"sum of {len(figures)} entries"
            shown.append({"label": f"Total {measure}", "value": total, "source": source})
    each = max(1, (_MOST_FIGURES - len(shown)) // max(1, len(measures)))
    for figures in measures.values():
        shown += [{"label": f.label, "value": f.value, "source": f.source} for f in figures[:each]]
    return shown


def _written(value: float) -> str:
    return f"{value:,.2f}".removesuffix(".00") if isinstance(value, float) else f"{value:,}"
