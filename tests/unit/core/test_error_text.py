"""What an error says is recorded, logged and raised without secrets, and without what a database quotes."""

from __future__ import annotations

import ast
import json
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

import airflow_provider_aihandoff
from airflow_provider_aihandoff.core.effects.target import UnclearAnswer
from airflow_provider_aihandoff.core.error_text import Secrets, call_cleaned, cleaned, said, shown
from airflow_provider_aihandoff.core.errors import EffectRefused

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent

SECRET = "t0ken of ünusual/length"


def refuse_header(value: str) -> Exception:
    """What the HTTP library says of a header that it does not send."""
    try:
        requests.Request("GET", "http://cms", headers={"Authorization": value}).prepare()
    except requests.exceptions.InvalidHeader as error:
        return error
    raise AssertionError


class TestSaid:
    @pytest.mark.parametrize("value", [f"Bearer {SECRET}\n", f"Bearer 'x' {SECRET}\r\nX: y", f" {SECRET}"])
    def test_a_header_that_is_refused_is_not_quoted(self, value: str) -> None:
        text = said(refuse_header(value))
        assert text.startswith("InvalidHeader: ")
        assert "Bearer" not in text
        assert SECRET not in text
        assert SECRET.split()[0] not in text

    @pytest.mark.parametrize(
        "text",
        [
            "Illegal header value b'Bearer s3cr3t\\n'",
            "Max retries exceeded with url: /services/T01/B02/s3cr3t (Caused by x)",
            "failed to resolve host 'shop:s3cr3t@db': no such host",
            "cannot connect to postgres://shop:s3cr3t@db/sales",
            "404 for url: http://cms/posts?page=1&api_key=s3cr3t",
            "https://api.telegram.org/bot123:s3cr3t/sendMessage did not answer",
        ],
    )
    def test_what_is_secret_wherever_it_stands_is_hidden_without_being_known(self, text: str) -> None:
        assert "s3cr3t" in text
        assert "s3cr3t" not in cleaned(text)

    @pytest.mark.parametrize(
        "text",
        ["the target answered 422 Unprocessable", "RCPT TO:<bob@x.test>: no such user", "12:30 at shop@x.test, why?"],
    )
    def test_a_text_without_secrets_stays(self, text: str) -> None:
        assert cleaned(text) == text

    def test_of_a_databases_error_the_primary_message_and_the_sqlstate_are_kept(self) -> None:
        class DatabaseError(Exception):
            class diag:  # noqa: N801 - as psycopg calls it, 2 and 3
                message_primary = "duplicate key value violates unique constraint"
                sqlstate = "23505"

        error = DatabaseError("duplicate key value violates unique constraint\nDETAIL:  Key (pin)=(1234) exists.")
        assert said(error) == "DatabaseError: duplicate key value violates unique constraint (SQLSTATE 23505)"
        DatabaseError.diag.message_primary = None  # type: ignore[assignment]
        assert said(error) == "DatabaseError: duplicate key value violates unique constraint"

    def test_an_error_of_this_package_has_no_type_before_it(self) -> None:
        assert said(UnclearAnswer("no answer")) == "no answer"
        assert said(ValueError()) == "ValueError"


class TestSecrets:
    @pytest.mark.parametrize(
        "quoted",
        [SECRET, repr(SECRET), json.dumps(SECRET), json.dumps(SECRET, ensure_ascii=False), quote(SECRET, safe="")],
    )
    def test_a_secret_is_hidden_in_each_form_in_which_it_may_be_quoted(self, quoted: str) -> None:
        text = Secrets([f"{SECRET}\nsecond line"]).hidden(f"a {quoted} b")
        assert text.replace("'", "").replace('"', "") == "a *** b"

    def test_the_token_within_a_header_is_a_secret_by_itself(self) -> None:
        assert Secrets(["Bearer abcdefgh1"]).hidden("it said abcdefgh1!") == "it said ***!"

    def test_a_short_secret_is_hidden_only_where_it_stands_by_itself_and_a_shorter_one_nowhere(self) -> None:
        assert Secrets(["1234", "12"]).hidden("pin 1234 of 12345, 12") == "pin *** of 12345, 12"

    @pytest.mark.parametrize(
        ("whole", "masked"),
        [
            ({"headers": {"A": SECRET, "B": "b"}}, {"headers": {"A": "***", "B": "b"}}),
            ({"url": f"/x?a={SECRET}&b=1"}, {"url": "/x?a=***&b=1"}),
            ({"body": json.dumps({"a": [SECRET], "b": "***"}, indent=1)}, {"body": '{"a":["***"],"b":"***"}'}),
            ({"pin": {"deep": [SECRET, None, True]}}, {"pin": "***"}),
            (["x", (SECRET,)], ["x", ["***"]]),
        ],
    )
    def test_the_secrets_of_a_plan_are_what_is_masked_where_it_is_shown(self, whole: Any, masked: Any) -> None:
        assert Secrets.between(whole, masked).hidden(f"[{SECRET}]") == "[***]"

    def test_a_plan_that_says_stars_by_itself_has_no_secret(self) -> None:
        assert Secrets.between({"a": "***", "b": "b"}, {"a": "***", "b": "b"}).hidden("b ***") == "b ***"


class TestRaised:
    def test_the_whole_traceback_of_what_is_raised_has_no_secret(self) -> None:
        def fail() -> None:
            try:
                raise KeyError(SECRET)
            except KeyError as error:
                raise OSError(f"{SECRET} was refused") from error

        with pytest.raises(RuntimeError) as raised:
            call_cleaned(fail, Secrets([SECRET]))
        assert str(raised.value) == "OSError: *** was refused"
        printed = "".join(traceback.format_exception(raised.value))
        assert SECRET not in printed
        assert "in fail" in printed

    def test_an_error_of_this_package_keeps_its_type_and_what_else_it_knows(self) -> None:
        def fail() -> None:
            try:
                raise ValueError(SECRET)
            except ValueError as error:
                raise EffectRefused(f"no {SECRET}.", answered=False, remedy=f"Not {SECRET}.") from error

        with pytest.raises(EffectRefused) as raised:
            call_cleaned(fail, Secrets([SECRET]))
        assert str(raised.value) == "no ***. This step made no external write. Not ***."
        assert not raised.value.answered
        assert SECRET not in "".join(traceback.format_exception(raised.value))

    def test_what_is_returned_is_returned(self) -> None:
        assert call_cleaned(lambda: SECRET, Secrets([SECRET])) == SECRET

    def test_an_error_that_is_logged_has_the_traceback_of_the_first_one(self) -> None:
        with pytest.raises(ValueError, match="x") as raised:
            raise ValueError("x")
        assert shown(raised.value).__traceback__ is raised.value.__traceback__


def test_no_error_is_logged_as_it_is() -> None:
    """A traceback ends with what the error says, so only :func:`shown` may be logged."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            as_it_is = [
                each for each in node.keywords if each.arg == "exc_info" and isinstance(each.value, ast.Constant)
            ]
            a_logger = ast.unparse(node.func.value).endswith("log")
            if as_it_is or (a_logger and node.func.attr == "exception"):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []
