"""The probe of an HTTP target: the declared GET, the one record that it must find, and every page of a list.

What it finds counts only if it proves to be this write: a condition names the effect key, or a value that the plan
writes. What it does not find counts only if it could have seen it. In all other cases it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit

from airflow_provider_aihandoff.core.effects.placeholders import EFFECT_KEY, UNDO_KEY
from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell, NotApplied
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.json_path import check_json_path, find_values, is_singular, text_of
from airflow_provider_aihandoff.targets.http_answers import Meaning, Rule, has_value, meaning_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.targets.http_exchange import Answer

#: What an author may write into a probe.
PROBE_FIELDS = frozenset(
    {"endpoint", "query", "headers", "found_in", "found", "external_id_path", "otherwise", "next", "pages"}
)

#: How many pages of a list are read, and how many an author may ask for.
PAGES, PAGES_LIMIT = 20, 200

#: The record is not there (RFC 9110, 15.5.5 and 15.5.11).
NOT_THERE_STATUSES = frozenset({404, 410})

#: Names under which lists say that there is more of them; and how long they are.
_MORE = ("next", "next_page", "nextPage", "next_cursor", "nextCursor", "nextPageToken", "next_page_token", "has_more")
_TOTALS = ("total", "total_count", "totalCount", "count")


@dataclass(frozen=True)
class Seen:
    """What the pages of a probe have shown.

    :param matches: the records for which every condition holds.
    :param others: how many other records there were.
    :param has_paths: the conditions that had something to compare with, in any record.
    :param more: why there may be records that were not seen, as a clause.
    """

    matches: list[Any]
    others: int
    has_paths: frozenset[str]
    more: str


def check_probe(declared: Mapping[str, Any], name: str) -> None:
    """Find out before anything is sent whether a declared probe can work.

    :param name: of the effect, for messages.
    :raises PlanError: it cannot; the message says why.
    """
    paths = [path for path in (*(declared.get("found") or {}), *_one_path(declared)) if path]
    for path in paths:
        check_path(path, name)
    for wrong, what, remedy in _faults(declared, paths):
        if wrong:
            raise PlanError(f"the probe of the effect {name!r} {what}.", remedy=remedy)


def _one_path(declared: Mapping[str, Any]) -> Iterator[str | None]:
    """The paths of a probe that are not conditions."""
    yield declared.get("external_id_path")
    yield declared.get("found_in")
    following = declared.get("next")
    if isinstance(following, Mapping):
        yield following.get("path")
    elif isinstance(following, str) and following != "link":
        yield following


def _faults(declared: Mapping[str, Any], paths: list[str]) -> Iterator[tuple[bool, str, str]]:
    """What may be wrong with a probe: whether it is, what to say of it, and what to do."""
    unknown = sorted(declared.keys() - PROBE_FIELDS)
    several = [path for path in paths if not is_singular(_with_example_key(path))]
    following, pages = declared.get("next"), declared.get("pages", PAGES)
    in_list = bool(declared.get("found_in"))
    right_next = following is None or isinstance(following, str)
    if isinstance(following, Mapping):
        right_next = bool(following.get("parameter")) and following.keys() <= {"parameter", "path", "first"}
    yield (
        bool(unknown),
        f"has fields that are not known: {', '.join(unknown)}",
        f"It takes: {', '.join(sorted(PROBE_FIELDS))}.",
    )
    yield "endpoint" not in declared, "lacks an endpoint", ""
    otherwise = declared.get("otherwise", "not applied")
    yield otherwise not in ("not applied", "unknown"), "otherwise must be 'not applied' or 'unknown'", ""
    yield (
        bool(several),
        f"has the path {' and '.join(map(repr, several))}, which can lead to several values",
        'Name the list in found_in ("$.items"), and write the other paths for one record of it ("$.id").',
    )
    yield (
        in_list and not declared.get("found"),
        "names a list, and no condition that tells one record of it from the others",
        "Add found.",
    )
    yield (
        following is not None and not in_list,
        "reads further pages, and does not say where in them the list is",
        "Add found_in.",
    )
    yield (
        not right_next,
        "has a next that is not known",
        "Write 'link', a JSONPath, or a mapping with parameter, and path or first.",
    )
    right = isinstance(pages, int) and not isinstance(pages, bool) and 1 <= pages <= PAGES_LIMIT
    yield not right, f"must read from 1 to {PAGES_LIMIT} pages, not {pages!r}", ""


def check_path(path: str | None, name: str) -> None:
    """Find out before anything is sent whether this is a path into a JSON answer, where there is one.

    :param name: the effect's name, for messages.
    :raises PlanError: it is none.
    """
    if path is None:
        return
    try:
        check_json_path(_with_example_key(path))
    except ValueError as error:
        raise PlanError(f"{path!r} of the effect {name!r} is not a JSONPath: {error}.") from error


def look(
    probe: Mapping[str, Any],
    ask: Callable[[Mapping[str, Any]], Answer],
    rules: list[Rule],
    *,
    removes: bool,
    own: bool,
    by_key: bool,
) -> Applied | NotApplied | CannotTell:
    """Ask, and say what the answers show.

    :param probe: the request, with the key filled in, and how to read its answer.
    :param ask: sends a request.
    :param removes: the write takes a record away, so that one that is gone is what was wanted.
    :param own: a record for which the conditions hold can only come from this write.
    :param by_key: it asks for one key alone.
    """
    if not probe.get("found"):
        return _look_for_any(probe, ask(probe), rules, removes=removes, own=own)
    try:
        seen = _read(probe, ask, rules)
    except _Unreadable as unreadable:
        return CannotTell(str(unreadable))
    if seen is None:
        return Applied() if removes else NotApplied()
    if len(seen.matches) > 1:
        return CannotTell(f"it sees {len(seen.matches)} records that could be this write", found=len(seen.matches))
    if removes and probe.get("found_in"):  # the conditions say which record was to be removed
        return NotApplied() if seen.matches else _nothing(probe, seen, Applied(), by_key)
    if not seen.matches:
        return _nothing(probe, seen, NotApplied(), by_key)
    if not own:
        return CannotTell("it sees a record, and none of its conditions shows that this effect wrote it", found=1)
    return Applied(_id_in(seen.matches[0], probe.get("external_id_path")))


class _Unreadable(Exception):
    """An answer that says nothing; why, as a clause."""


def _look_for_any(
    probe: Mapping[str, Any], answer: Answer, rules: list[Rule], *, removes: bool, own: bool
) -> Applied | NotApplied | CannotTell:
    """Without a condition, all that can be seen is whether something is there."""
    try:
        there = _is_there(answer, rules)
    except _Unreadable as unreadable:
        return CannotTell(str(unreadable))
    if removes:
        return NotApplied() if there else Applied()
    if not there:
        return NotApplied()
    if not own:
        return CannotTell("it sees a record, and has no condition (found) that shows whose", found=1)
    path = probe.get("external_id_path")
    return Applied(answer.value_at(path) if path else None)


def _is_there(answer: Answer, rules: list[Rule]) -> bool:
    """Whether an answer has the record, or the list.

    :raises _Unreadable: it does not say.
    """
    meaning = meaning_of(answer, rules)
    if meaning is Meaning.ABSENT or (meaning is None and answer.status in NOT_THERE_STATUSES):
        return False
    if meaning in (None, Meaning.APPLIED, Meaning.ALREADY_THERE) and 200 <= answer.status < 300:
        return True
    words = answer.words()
    raise _Unreadable(f"it was answered {answer.status} {answer.reason}" + (f": {words}" if words else ""))


def _read(probe: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], Answer], rules: list[Rule]) -> Seen | None:
    """Every page; None where there is nothing.

    :raises _Unreadable: a page says nothing.
    """
    conditions: Mapping[str, Any] = probe["found"]
    matches, others, has_paths, more = [], 0, set[str](), ""
    for number, (answer, unread) in enumerate(_pages(probe, ask)):
        if not _is_there(answer, rules):
            if number == 0:
                return None
            break
        body = _json(answer)
        for record in _records(body, probe.get("found_in")):
            has_paths |= {path for path in conditions if find_values(record, path)}
            if all(has_value(record, path, expected) for path, expected in conditions.items()):
                matches.append(record)
            else:
                others += 1
        told = probe.get("found_in") and not probe.get("next")
        more = unread or (_says_more(answer, body, len(matches) + others) if told else "")
    return Seen(matches, others, frozenset(has_paths), more)


def _pages(probe: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], Answer]) -> Iterator[tuple[Answer, str]]:
    """Each page, and whether it is the last that may be read although there are more, as a clause."""
    request: Mapping[str, Any] | None = probe
    left = int(probe.get("pages", PAGES)) if probe.get("next") else 1
    asked = set[str]()
    while request is not None and left:
        left -= 1
        answer = ask(request)
        asked.add(repr((request["url"], request.get("query"))))
        following = _following(probe, request, answer) if 200 <= answer.status < 300 else None
        if following is not None and repr((following["url"], following.get("query"))) in asked:
            yield answer, "the list leads back to a page that was read"
            return
        yield answer, "there are more pages than it may read" if following is not None and not left else ""
        request = following


def _following(probe: Mapping[str, Any], request: Mapping[str, Any], answer: Answer) -> Mapping[str, Any] | None:
    """The request for the next page; None where there is none."""
    declared = probe.get("next")
    if declared is None:
        return None
    if isinstance(declared, str):
        link = _link(answer) if declared == "link" else _id_in(_json(answer), declared)
        return None if not link else _at(request, link)
    parameter, path = declared["parameter"], declared.get("path")
    if path:
        cursor = _id_in(_json(answer), path)
        return None if not cursor else _asking(request, parameter, cursor)
    if not _records(_json(answer), probe["found_in"]):
        return None
    first = int(declared.get("first", 1))
    number = int((request.get("query") or {}).get(parameter, first)) + 1
    return _asking(request, parameter, str(number))


def _asking(request: Mapping[str, Any], parameter: str, value: str) -> Mapping[str, Any]:
    return {**request, "query": {**(request.get("query") or {}), parameter: value}}


def _at(request: Mapping[str, Any], link: str) -> Mapping[str, Any]:
    """The request at the address of a link, which must not lead to another host.

    :raises _Unreadable: it does.
    """
    url = urlsplit(urljoin(request["url"], link))
    base = urlsplit(request["url"])
    if (url.scheme, url.netloc) != (base.scheme, base.netloc):
        raise _Unreadable("its next page is on another host")
    return {**request, "url": urlunsplit(url._replace(query="", fragment="")), "query": dict(parse_qsl(url.query))}


def _link(answer: Answer) -> str | None:
    from requests.utils import parse_header_links

    links = parse_header_links(answer.headers.get("Link", ""))
    return next((link["url"] for link in links if link.get("rel") == "next"), None)


def _json(answer: Answer) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"its answer is not JSON: {answer.why or error}") from None


def _records(body: Any, found_in: str | None) -> list[Any]:
    """The records of an answer: those of its list, or the answer itself.

    :raises _Unreadable: there is no list where it should be.
    """
    if found_in is None:
        return [body]
    values = find_values(body, found_in)
    if len(values) != 1 or not isinstance(values[0], list):
        raise _Unreadable(f"its answer has no list at {found_in}")
    return values[0]


def _nothing(
    probe: Mapping[str, Any], seen: Seen, nothing: Applied | NotApplied, by_key: bool
) -> Applied | NotApplied | CannotTell:
    """What it means that no record matches."""
    if seen.more:
        return CannotTell(f"it sees no trace, and {seen.more}")
    if probe.get("otherwise") == "unknown":
        return CannotTell("it sees no trace, which proves nothing here")
    if "otherwise" not in probe and seen.others:
        if missing := sorted(probe["found"].keys() - seen.has_paths):
            return CannotTell(f"none of the records that it sees has anything at {', '.join(missing)}")
        if by_key and probe.get("found_in") and not probe.get("next"):
            return CannotTell(
                f"it asks for one key and sees {seen.others} records without it: the target ignores what it asks for, "
                "and may have more of them"
            )
    return nothing


def _says_more(answer: Answer, body: Any, seen: int) -> str:
    """Whether a list says that it goes on, where the author does not say how to read on."""
    if _link(answer):
        return "the list has a further page (Link)"
    if not isinstance(body, dict):
        return ""
    if name := next((name for name in _MORE if body.get(name)), None):
        return f"the list has a further page ({name})"
    longer = (name for name in _TOTALS if isinstance(body.get(name), int) and body[name] > seen)
    return next((f"the list is longer than what it sees ({name}: {body[name]})" for name in longer), "")


def _id_in(record: Any, path: str | None) -> str | None:
    values = find_values(record, path) if path else []
    return text_of(values[0]) if values and values[0] is not None else None


def _with_example_key(path: str) -> str:
    return path.replace(EFFECT_KEY, "aih-1-r1-0").replace(UNDO_KEY, "aih-2-r1-0")
