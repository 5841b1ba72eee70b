"""Server-sent events are read as the HTML standard says."""

from __future__ import annotations

from airflow_provider_aihandoff.client.event_reader import ServerEvent, read_events
from airflow_provider_aihandoff.web.event_stream import COMMENT, event


def test_what_the_server_writes_is_read() -> None:
    stream = event("request", "3a", '{"state": "queued"}') + COMMENT + event("text", "4", '{"delta": ": a"}')
    assert list(read_events(stream.splitlines())) == [
        ServerEvent("request", '{"state": "queued"}', "3a"),
        ServerEvent("text", '{"delta": ": a"}', "4"),
    ]


def test_an_event_without_an_id_leaves_the_newest_one_as_it_is() -> None:
    stream = "event: text\ndata: 1\n\nid: 7\ndata: 2\n\nid\ndata: 3\n\nid: 8\n\n"
    assert [(each.name, each.last_id) for each in read_events(stream.split("\n"), "6")] == [
        ("text", "6"),
        ("message", "7"),
        ("message", ""),
    ]


def test_several_lines_of_data_are_one_and_unknown_fields_are_left_out() -> None:
    stream = "retry: 5\nnothing\ndata: a\ndata:\ndata:  b\nid: 1\0\n\n"
    assert list(read_events(stream.split("\n"))) == [ServerEvent("message", "a\n\n b", "")]


def test_an_event_that_is_cut_off_is_none() -> None:
    assert list(read_events(["event: request", "data: {}"])) == []
