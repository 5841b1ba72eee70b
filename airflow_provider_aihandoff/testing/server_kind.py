"""What a compatible server lacks that OpenAI has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerKind:
    """A server that speaks the Responses API, as far as it does. By default as OpenAI.

    Args:
        background: it has background mode; without, a create is answered when the response has ended.
        stores: it keeps responses; without, each retrieve and each cancel answers 404.
        cancels: it can cancel; without, a cancel answers 405.
        counts: it counts the tokens of an input; without, that answers 405.
        streams: it sends events; without, it takes `stream` for nothing and answers as ever.
    """

    background: bool = True
    stores: bool = True
    cancels: bool = True
    counts: bool = True
    streams: bool = True
