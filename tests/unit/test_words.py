"""The texts of the project use plain English: the phrases that we no longer use do not come back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

CODE = re.compile(r"^( *)```(\w*)\n.*?^\1```$", re.DOTALL | re.MULTILINE)


class Phrase(NamedTuple):
    """A phrase that we no longer use."""

    name: str
    pattern: str
    """A regular expression, without regard to case, between word boundaries."""
    instead: str
    """What to write, or why not this."""
    example: str
    """A text in which it is found."""


PHRASES = (
    Phrase("written outside", r"written\s+outside", "no external write was made", "Nothing was written outside."),
    Phrase("mend", r"mend(s|ed|ing)?", "fix", "Mend the cause"),
    Phrase("anew", r"anew", "again; a new revision", "asks the model anew"),
    Phrase("once more", r"once\s+more", "again; one more request", "is sent once more"),
    Phrase("way back", r"ways?\s+back", "undo", "the declared way back"),
    Phrase(
        "take back",
        r"(take|takes|taken|taking|took)\s+(\w+\s+){0,4}back",
        "undo, roll back",
        "takes what it wrote back",
    ),
    Phrase(
        "look at, look for",
        r"look(s|ed|ing)?\s+(at|for|in|again|twice|there)",
        "poll (OpenAI), probe (a write), read (the target), check (a state), review (a person)",
        "looks at OpenAI",
    ),
    Phrase(
        "a look",
        r"(a|the|each|every|next|last|two|has\s+to|person)\s+looks?",
        "a poll, a probe, a check; a person resolves or reviews",
        "seconds between two looks",
    ),
    Phrase("whoever", r"whom?ever", "the reviewer, a user who", "Whoever triggered the run"),
    Phrase("somebody", r"somebody(\s+else)?", "a person, a user, another user", "somebody else has to approve"),
    Phrase("nobody", r"nobody", "no one; orphaned (no task waits for it)", "what nobody waits for"),
    Phrase("anybody, everybody", r"(any|every)body", "anyone, everyone", "can be anybody"),
    Phrase("is over", r"(time|claim|login|review|wait)\s+(is|was)\s+over", "expired, has ended", "the claim is over"),
    Phrase("is away", r"(is|are|was|were|be|stays?)\s+away", "is unavailable", "the ledger is away"),
    Phrase("stand still", r"(stand|stands|standing|stood)\s+still", "was paused", "an attempt that stood still"),
    Phrase("be told", r"(am|is|are|was|were|be|been|being)\s+told", "is notified, gets", "the hub is told"),
    Phrase("tell the hub", r"tells?\s+(the\s+)?(hubs?|reviewers?|people|triggerers?)", "notify", "tells reviewers"),
    Phrase("whose turn", r"whose\s+turn", "review queue, waits for you", "Whose turn"),
    Phrase("endings", r"endings", "cancel, roll back", "ledger/endings.py"),
    Phrase("troubles", r"troubles?", "diagnosis", "what troubles there are"),
    Phrase(
        "beside each other",
        r"(many\s+)?(jobs\s+)?beside\s+each\s+other",
        "bulk review; together",
        "Many beside each other",
    ),
    Phrase("batch page", r"(the|a)\s+batch\s+page|page\s+of\s+many", "bulk review", "on the page of many"),
    Phrase("to the letter", r"to\s+the\s+letter", "Raw request", "To the letter, as it is sent"),
    Phrase(
        "as it is written", r"\*as\s+it\s+is\s+written\*|>\s*as\s+it\s+is\s+written", "Source", "*As it is written*"
    ),
    Phrase(
        "not what you saw",
        r"not\s+what\s+(you|they)\s+saw",
        "has changed since you opened it",
        "It is not what you saw",
    ),
    Phrase(
        "any more",
        r"(decided\s+on\s+like\s+this|polled|asked|know(\s+\w+){0,2})\s+any\s+more",
        "has changed; is no longer polled, no longer has it",
        "OpenAI is not polled any more",
    ),
    Phrase(
        "is no",
        r"(is|was|or)\s+no\s+(json|base64|refusal)|nan\s+is\s+no\s+number",
        "is not a number, is not valid JSON",
        "This is no JSON",
    ),
    Phrase("in so many words", r"in\s+so\s+many\s+words", "explicitly", "asks for it in so many words"),
    Phrase("--why", r"--why", "--reason", "--why must say how you know"),
    Phrase("stale-batch", r"stale-batch", "stale-bulk-decision", '"type": "stale-batch"'),
    Phrase("foreign-request", r"foreign-request", "cross-site-request", "`foreign-request`"),
    Phrase("look_at", r"look_at", "poll_at", "inbox.look_at"),
)

RENAMED_COLUMN = frozenset({"look_at", "look at, look for"})
#: The phrases that are right in a file, by their names.
ALLOWED: Mapping[str, frozenset[str]] = {
    # What was renamed is quoted.
    "CHANGELOG.md": frozenset({"--why", "stale-batch", "foreign-request"}) | RENAMED_COLUMN,
    # The column's name in earlier releases of the schema.
    "airflow_provider_aihandoff/core/database/migrations/versions/0002_webhooks.py": RENAMED_COLUMN,
    "airflow_provider_aihandoff/core/database/migrations/versions/0005_actors.py": RENAMED_COLUMN,
    "tests/integration/core/database/version_0004.py": RENAMED_COLUMN,
    # `make demo-trouble` is the name of a command.
    "Makefile": frozenset({"troubles"}),
    "README.md": frozenset({"troubles"}),
    "demo/incidents.py": frozenset({"troubles"}),
    "tests/integration/test_demo_incidents.py": frozenset({"troubles"}),
    # PostgreSQL does not run as root: there it runs as the user `nobody` of the system.
    "demo/postgres.py": frozenset({"nobody"}),
}

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "dags").glob("*.py"),
        *(ROOT / "demo").rglob("*.py"),
        *(path for path in (ROOT / ".github").rglob("*") if path.is_file()),
        *(
            ROOT / name
            for name in (
                ".ci/run",
                ".env.example",
                ".pre-commit-config.yaml",
                "Dockerfile",
                "Makefile",
                "docker-compose.yaml",
                "pyproject.toml",
            )
        ),
    ]
)
PACKAGE = sorted(
    path for path in (ROOT / "airflow_provider_aihandoff").rglob("*") if path.suffix in {".py", ".html", ".css", ".sql"}
)
#: Tests and tools; this file quotes every phrase.
TESTS = sorted(
    path
    for folder in ("tests", "benchmarks", "chaos", "nodes")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__).resolve()
)


def compiled(phrase: Phrase) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{phrase.pattern})(?!\w)", re.IGNORECASE)


PATTERNS = [(phrase, compiled(phrase)) for phrase in PHRASES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_recorded_output(block: re.Match[str]) -> str:
    """A block without a language is what a program printed in a recorded run: as many empty lines."""
    return block.group() if block.group(2) else "\n" * block.group().count("\n")


def text_of(path: Path) -> str:
    """The text of a file, without outputs that stay as they were printed."""
    text = path.read_text("utf-8")
    return CODE.sub(without_recorded_output, text) if path.suffix == ".md" else text


def found_in(path: Path) -> Iterator[tuple[Phrase, str]]:
    """Each phrase that we no longer use in a file, with a line that says where and what to write."""
    text = text_of(path)
    words_of_names = re.sub(r"(?<=\w)_(?=\w)", " ", text)
    for phrase, pattern in PATTERNS:
        found = {match.span() for read in (text, words_of_names) for match in pattern.finditer(read)}
        for start, end in sorted(found):
            line = text.count("\n", 0, start) + 1
            words = " ".join(text[start:end].split())
            yield phrase, f"{name_of(path)}:{line}: {words!r}: write {phrase.instead!r}"


def unwanted_in(paths: Iterable[Path]) -> str:
    """What has to change in these files, a line each."""
    return "\n".join(
        where
        for path in paths
        for phrase, where in found_in(path)
        if phrase.name not in ALLOWED.get(name_of(path), frozenset())
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_document_has_no_phrase_that_we_no_longer_use(path: Path) -> None:
    assert unwanted_in([path]) == ""


def test_the_package_has_no_phrase_that_we_no_longer_use() -> None:
    assert unwanted_in(PACKAGE) == ""


def test_the_tests_and_tools_have_no_phrase_that_we_no_longer_use() -> None:
    assert unwanted_in(TESTS) == ""


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.name)
def test_each_phrase_is_found_in_its_example(phrase: Phrase) -> None:
    assert compiled(phrase).search(phrase.example)


def test_every_exception_names_a_file_and_a_phrase_that_exist() -> None:
    names = {phrase.name for phrase in PHRASES}
    assert {name for name in ALLOWED if not (ROOT / name).exists()} == set()
    assert {name for allowed in ALLOWED.values() for name in allowed} <= names
