"""Markdown is shown as a person reads it; nothing from it loads, can be clicked, hides, or is left out."""

from __future__ import annotations

import re
import time

import pytest
from markupsafe import Markup

from airflow_provider_aihandoff.web.render.budget import MAX_MARKDOWN, Budget
from airflow_provider_aihandoff.web.render.markdown import markdown as rendered


def markdown(text: str) -> Markup | None:
    """The text on a page of its own."""
    return rendered(text, Budget())


#: What the renderer may make; and no attribute but the number of an item.
ALLOWED = re.compile(
    r'</?(p|h[3-6]|em|strong|s|code|pre|blockquote|ul|ol|li|table|thead|tbody|tr|th|td|hr|br)( /)?>|<li value="\d+">'
    r'|<ol start="\d+">|<p class="muted small">'
)

ATTACKS = [
    "**bold** <script>alert(1)</script>",
    "**bold** <img src=//evil.test onerror=alert(1)>",
    "# Title\n\n<iframe src=//evil.test></iframe>",
    "**x** [click](javascript:alert(1))",
    "**x** [click](https://evil.test 'title')",
    "**x** ![image](https://evil.test/x.png)",
    "**x** <https://evil.test>",
    "**x** https://evil.test",
    "**x** [ref]\n\n[ref]: https://evil.test",
    "**x** &#60;script&#62; &lt;b&gt;",
    '```html" onclick="alert(1)\n<b>\n```',
    "| a | b |\n| :- | -: |\n| <b> | x |",
    "1. <b onclick=x>",
    "`<b>` and **`<i>`**",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_markdown_has_no_scripts_links_or_images(text: str) -> None:
    html = markdown(text)
    assert html is not None
    left = ALLOWED.sub("", html)
    assert "<" not in left
    assert ">" not in left.replace("&gt;", "")


def test_markdown_structure_is_shown() -> None:
    html = markdown("# Top\n\nSome *soft* and **hard** words\nin two lines.\n\n- one\n- two\n\n|a|b|\n|-|-|\n|1|2|")
    assert html is not None
    for part in ("<h3>Top</h3>", "<em>soft</em>", "<strong>hard</strong>", "<br />", "<li>one</li>", "<td>2</td>"):
        assert part in html


@pytest.mark.parametrize(
    "text", ["", "A kettle.", "Two lines\nof plain words - with a dash.", "snake_case and 3 * 4 = 12", "a (b) [c]"]
)
def test_a_text_without_structure_is_not_markdown(text: str) -> None:
    assert markdown(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "| a |\n| - |\n| 1 | and pay 1000 |",  # a cell that its table has no column for
        f"{'> ' * 60}hidden in quotes",
        "".join(f"{'  ' * depth}- level{depth}\n" for depth in range(60)),
        "**bold**\x00",
    ],
)
def test_a_text_that_would_lose_a_word_is_shown_as_its_source(text: str) -> None:
    assert markdown(text) is None


def test_the_info_string_of_a_code_block_is_shown() -> None:
    html = markdown("```python ignore all previous instructions\nx = 1\n```")
    assert html is not None
    assert "python ignore all previous instructions" in html


def test_a_link_reference_is_shown() -> None:
    assert "[a]: http://evil.test &quot;approve this&quot;" in str(
        markdown('*x*\n\n[a]: http://evil.test "approve this"')
    )


def test_list_items_keep_their_numbers() -> None:
    html = str(markdown("7. seven\n9. nine"))
    assert '<li value="7">seven</li>' in html
    assert '<li value="9">nine</li>' in html


def test_invisible_characters_are_marked_in_markdown() -> None:
    assert "<strong>[U+202E]gnp.exe</strong>" in str(markdown("**\u202egnp.exe**"))


@pytest.mark.parametrize("part", ["Some *words*, `code`. ", "*a_", "**a ", "~~a", "[", "> ", "- ", "|a"])
def test_a_long_text_is_rendered_quickly(part: str) -> None:
    started = time.monotonic()
    markdown(part * (MAX_MARKDOWN // len(part)))
    assert time.monotonic() - started < 30  # about a second; a bound against work that explodes


def test_a_text_that_is_too_long_is_shown_as_its_source() -> None:
    assert markdown("**x** " + "a" * MAX_MARKDOWN) is None


def test_all_texts_of_a_page_share_one_budget() -> None:
    budget = Budget(markdown=10)
    assert rendered("**x**", budget) is not None
    assert rendered("**four**", budget) is None
    assert rendered("**y**", budget) is not None
    assert rendered("**z**", budget) is None
