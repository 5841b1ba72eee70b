"""What the operators hand to Airflow as an XCom can be kept by a metadata database on PostgreSQL, as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from airflow.models.xcom import XComModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError

from airflow_provider_aihandoff.operators.xcom import fits_xcom
from demo.postgres import Postgres
from tests.airflow_compat import serde

#: A table with the very column in which Airflow keeps the value of an XCom.
KEPT = Table("kept", MetaData(), Column("id", Integer, primary_key=True), Column("value", XComModel.value.type))

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def metadata_database(postgres: Postgres) -> Iterator[Engine]:
    postgres.create_database("xcoms")
    conninfo = postgres.connection_kwargs("xcoms")
    url = URL.create(
        "postgresql+psycopg2",
        username=conninfo["user"],
        password=conninfo["password"],
        host=conninfo["host"],
        port=int(conninfo["port"]),
        database="xcoms",
    )
    engine = create_engine(url)
    KEPT.create(engine)
    yield engine
    engine.dispose()


def carried(engine: Engine, value: Any) -> Any:
    """A value after its way from a task to Airflow's supervisor, to its API server, into the database, and back."""
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(serde.serialize(value)))
    received = json.loads(json.dumps(sent, allow_nan=False).encode())
    with engine.begin() as connection:
        key = connection.execute(insert(KEPT).values(value=received)).inserted_primary_key
        assert key is not None
        kept = connection.execute(select(KEPT.c.value).where(KEPT.c.id == key[0])).scalar_one()
    return serde.deserialize(kept)


@pytest.mark.parametrize(
    "value",
    [
        "nul \x00",
        {"a": ["nul \x00"]},
        {"nul \x00": 1},
        "lone \ud800",
        {"a": {"\udfff": 1}},
        {"n": 2**64},
        {"n": 6.104680243385045e16},
        {"n": -(2**63) - 1},
        {"__classname__": "builtins.set", "__version__": 1, "__data__": [1]},
        {"a": [{"__type": "set", "__var": [1]}]},
    ],
)
def test_what_airflow_cannot_carry_as_it_is_is_left_out(metadata_database: Engine, value: Any) -> None:
    assert not fits_xcom(value, limit=LIMIT)
    try:
        came_back = carried(metadata_database, value)
    except (DBAPIError, OverflowError, AttributeError, ImportError, ValueError):
        return
    assert came_back != value


@pytest.mark.parametrize("value", ["x" * LIMIT, json.loads("[" * 900 + "]" * 900)])
def test_what_is_too_large_or_too_deep_is_left_out(value: Any) -> None:
    assert not fits_xcom(value, limit=LIMIT)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
        max_leaves=10,
    )
)
def test_every_output_that_is_handed_on_comes_back_as_it_was(metadata_database: Engine, value: Any) -> None:
    if fits_xcom(value, limit=LIMIT):
        assert carried(metadata_database, value) == value
