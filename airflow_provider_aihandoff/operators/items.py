"""Where the items of a set come from, and how they are read: once, as a stream, never all of them in memory."""

from __future__ import annotations

import json
import pickle
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import SetRefused

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

T = TypeVar("T")

#: Rows that a database hands over at a time.
_ROWS = 1_000

#: How many characters of a line are quoted where it is not JSON.
_SHOWN = 80


class ItemSource(ABC):
    """Items that are read as a stream. An operator renders the ``template_fields`` before it reads.

    Reading it again must give the same items, as long as the task's work is the same.
    """

    template_fields: Sequence[str] = ()

    def __repr__(self) -> str:
        """The same for the same arguments: Airflow keeps it with the Dag."""
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.template_fields)})"

    @abstractmethod
    def read(self) -> Iterator[Any]:
        """Each item, in the same order each time.

        :raises SetRefused: what is there are no items.
        """


class SqlItems(ItemSource):
    """The rows of a query, each as an object with its columns. It is read with a cursor, some rows at a time.

    Order the rows: the numbers of items in messages are those of this order. A value that JSON does not have, such as a
    date or a decimal number, is its text.

    :param conn_id: a connection of any database that Airflow has a hook for (templated).
    :param sql: the query (templated).
    :param parameters: its parameters (templated).
    """

    template_fields = ("conn_id", "sql", "parameters")

    def __init__(self, conn_id: str, sql: str, parameters: Any = None) -> None:
        self.conn_id, self.sql, self.parameters = conn_id, sql, parameters

    def read(self) -> Iterator[Any]:
        """Each row."""
        from airflow.providers.common.compat.sdk import BaseHook

        hook: Any = BaseHook.get_connection(self.conn_id).get_hook()
        with closing(hook.get_conn()) as connection, closing(_streaming(connection)) as cursor:
            cursor.execute(self.sql, *([] if self.parameters is None else [self.parameters]))
            names: list[str] = []
            while rows := cursor.fetchmany(_ROWS):
                names = names or [column[0] for column in cursor.description]
                yield from (dict(zip(names, row, strict=True)) for row in map(tuple, rows))


def _streaming(connection: Any) -> Any:
    """A cursor that leaves the rows at the server, where the database's driver has such cursors."""
    if type(connection).__module__.startswith(("psycopg", "psycopg2")):
        return connection.cursor("aihandoff_items")
    return connection.cursor()


class JsonLines(ItemSource):
    """The lines of a file or an object in object storage, each a JSON value. Empty lines are none.

    :param path: as Airflow's ``ObjectStoragePath`` takes it: ``s3://bucket/items.jsonl``, ``file:///data/items.jsonl``
        (templated).
    :param conn_id: the connection to the storage (templated); None: none, or that of the path.
    """

    template_fields = ("path", "conn_id")

    def __init__(self, path: str, conn_id: str | None = None) -> None:
        self.path, self.conn_id = path, conn_id

    def read(self) -> Iterator[Any]:
        """Each line's value."""
        from airflow.sdk import ObjectStoragePath

        with ObjectStoragePath(self.path, conn_id=self.conn_id).open("r", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield self._value(line, number)

    def _value(self, line: str, number: int) -> Any:
        try:
            return strict_json.loads(line)
        except strict_json.NotJson as error:
            problem = error
        raise SetRefused(
            f"line {number} of {self.path} is not JSON ({problem}): {line[:_SHOWN]!r}.",
            remedy="Fix the file, then clear this task.",
        )


def read_items(items: Any) -> Iterator[Any]:
    """Each item of what an operator was given.

    :raises SetRefused: it has no items.
    """
    if isinstance(items, ItemSource):
        yield from items.read()
    elif isinstance(items, Iterable) and not isinstance(items, (str, bytes, dict)):
        yield from items
    else:
        raise SetRefused(
            f"`items` is a {type(items).__name__}.",
            remedy="Give it a list, the task that returns one, SqlItems or JsonLines.",
        )


class Spool(Generic[T]):
    """What was made of the items of one reading, kept on this machine's disk while a task works on it.

    Used as a context manager.

    So the source is read and rendered once, and what was checked is what becomes jobs. The file has no name, and goes
    with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, number: int, made: T) -> None:
        """Keep what was made of the item with this number."""
        pickle.dump((number, made), self._file, protocol=pickle.HIGHEST_PROTOCOL)

    def __iter__(self) -> Iterator[tuple[int, T]]:
        """Each that was kept, with its number."""
        self._file.seek(0)
        while True:
            try:
                yield pickle.load(self._file)  # noqa: S301 - this process has written it
            except EOFError:
                return


def numbered(items: Any) -> Iterator[tuple[int, Any]]:
    """The items of a source, each as templates see it, with its number, from 1.

    :raises SetRefused: one of them has no JSON form.
    """
    return ((number, _value(_json(item, number))) for number, item in enumerate(read_items(items), start=1))


def _json(item: Any, number: int) -> str:
    try:
        return canonical_json(item)
    except ValueError as error:
        problem = error
    raise SetRefused(
        f"item {number} has no JSON form: {problem}.", remedy="Give items of texts, numbers, lists and dicts."
    )


def _value(text: str) -> Any:
    """An item as templates see it."""
    from airflow_provider_aihandoff.core.jobs.job_view import as_fields

    return as_fields(json.loads(text))


def item_context(context: Context, number: int, item: Any, task: Any) -> Context:
    """The context in which the templates of one item are rendered.

    :param task: the copy of the task that is rendered.
    """
    more: dict[str, Any] = {"task": task, "item": item, "index": number - 1}
    return cast("Context", {**context, **more})
