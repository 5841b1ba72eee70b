# ruff: noqa: RUF001  letters of other scripts
"""What is not shown is made visible, and what people need to read their own language stays."""

from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.invisible import DEFAULT_IGNORABLE, escape, escape_lines, has_hidden, reveal
from airflow_provider_aihandoff.core.models import Job

ANY_TEXT = st.text(st.characters(exclude_categories=[]))

#: UAX #44 derives Default_Ignorable_Code_Point from these; what Unicode leaves out of it again is below.
_OTHER_DEFAULT_IGNORABLE = (
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9)),
    *(0xE0000, *range(0xE0002, 0xE0020), *range(0xE0080, 0xE0100), *range(0xE01F0, 0xE1000)),
)
_VARIATION_SELECTORS = (*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
#: Format characters that are shown: signs before Arabic, Syriac and Kaithi numbers, annotations, Egyptian controls.
_SHOWN_FORMATS = {
    *(*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD),
    *(*range(0xFFF9, 0xFFFC), *range(0x13430, 0x13440)),
}


def _default_ignorable() -> set[int]:
    """The property as UAX #44 derives it, from the general categories that Python knows."""
    formats = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"}
    return (formats - _SHOWN_FORMATS) | {*_OTHER_DEFAULT_IGNORABLE} | {*_VARIATION_SELECTORS}


def test_the_table_is_unicodes_default_ignorable_code_points() -> None:
    table = {code for first, last in DEFAULT_IGNORABLE for code in range(first, last + 1)}
    assert table == _default_ignorable()


def test_every_default_ignorable_code_point_between_latin_letters_is_shown() -> None:
    for code in _default_ignorable():
        assert reveal(f"pay{chr(code)}pal") == f"pay[U+{code:04X}]pal"
        assert chr(code) not in escape(f"pay{chr(code)}pal")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nin lines\r\n", "plain\ttext\nin lines\r\n"),
        ("\u202etxt.exe", "[U+202E]txt.exe"),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("\x1b[31m", "[U+001B][31m"),
        ("half \udc00", "half [U+DC00]"),
        ("pass\u00adword", "pass[U+00AD]word"),
        ("a\ufff9b\ufffac\ufffb", "a[U+FFF9]b[U+FFFA]c[U+FFFB]"),
        ("blank \U00013430 \U0001d159 \u2800", "blank [U+13430] [U+1D159] [U+2800]"),
        # Joiners and styles where nothing joins.
        ("👩\u200dx", "👩[U+200D]x"),
        ("a\ufe0f\u200d👩", "a[U+FE0F][U+200D]👩"),
        ("می\u200c\u200cخواهم", "می[U+200C][U+200C]خواهم"),
        ("می\u200c now", "می[U+200C] now"),
        ("5\ufe0f", "5[U+FE0F]"),
        ("\ufe0f\u20e3", "[U+FE0F]\u20e3"),
        ("🏴\U000e0067\U000e0062", "🏴[U+E0067][U+E0062]"),
    ],
)
def test_invisible_characters_are_revealed(text: str, shown: str) -> None:
    assert reveal(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Ünïcödé 漢字 עברית",
        "👩\u200d💻 👩🏽\u200d🚀 👨\u200d👩\u200d👧 ❤\ufe0f",
        "❤\ufe0f\u200d🔥 🏳\ufe0f\u200d🌈 🏴\u200d☠\ufe0f 👁\ufe0f\u200d🗨\ufe0f",
        "1\ufe0f\u20e3 ☎\ufe0e",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می\u200cخواهم",  # Persian
        "ه\u200d.ش",  # the Persian abbreviation of a calendar
        "क्\u200dष क्\u200cष",  # Devanagari
        "ന്\u200d",  # a chillu of Malayalam
        "ශ්\u200dරී",  # Sinhala
    ],
)
def test_what_a_script_needs_stays(text: str) -> None:
    assert reveal(text) == text
    assert escape(text) == text
    assert not has_hidden(text)


@given(ANY_TEXT)
def test_revealed_text_is_valid_and_has_no_markup(text: str) -> None:
    assert set(reveal(text).encode().decode()) <= set(text) | set("[U+]0123456789ABCDEF")


@given(ANY_TEXT)
def test_escaped_text_is_one_line_that_a_terminal_does_not_obey(text: str) -> None:
    shown = escape(text)
    shown.encode()
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    assert len(shown.splitlines()) <= 1


@given(ANY_TEXT)
def test_escapes_in_json_mean_the_same_characters(text: str) -> None:
    assert json.loads(escape_lines(json.dumps(text, ensure_ascii=False), json_text=True)) == text


def test_messages_and_errors_name_a_job_on_one_harmless_line() -> None:
    values: dict[str, Any] = {field.name: None for field in fields(Job)} | {
        "state": "review",
        "job_key": "a\x1b[2J\nb\u202e",
    }
    job = Job(**values)
    assert "a\\u001b[2J\\nb\\u202e" in job.label
    error = HandoffError("the target said \x9b31m.", job=job.label)
    assert "\x9b" not in str(error)
    assert "\\u009b31m" in str(error)
