"""Faults that a request asks the stand-in for: the vocabulary, and how it is read out of a request.

A request names its faults as ``metadata={"standin": "status=failed delay=3"}``, or as a marker anywhere in
its input or instructions, ``[[standin: status=failed delay=3]]``. A marker wins over the metadata, and a
later marker over an earlier one. A value with spaces or brackets is quoted: ``text='{"title": 1}'``. The
marker is taken out before anything else reads the text. A word that is not in this table answers 400.

=====================  ===========================  ====================================================
word                   values                       what happens
=====================  ===========================  ====================================================
delay                  seconds                      from the create to the end; default: the server's
status                 failed, incomplete,          how the response ends, instead of ``completed``
                       cancelled
error_code             any (server_error)           ``error.code`` of ``status=failed``
reason                 any (max_output_tokens)      ``incomplete_details.reason`` of ``status=incomplete``;
                                                    ``content_filter`` leaves the output empty
stuck                  queued, in_progress          stays in this status until it is cancelled
unknown_status         any (suspended)              ends in a status that no client knows
refusal                any text                     the model refuses: no output text
text                   any text                     exactly this output text, whatever the schema says
usage                  null                         ``usage`` stays null
complete_after_cancel                               a cancel answers ``cancelled``; from then on every
                                                    retrieve says ``completed``, with full output and usage
create                 400, 429, 429_quota,         the create fails and no response exists
                       429_spend, 500, 503, html
create                 timeout_after_accept,        the response exists, but the client never learns its
                       drop_after_accept            id: no answer at all, or a connection cut off
retrieve               404, 429, 500, 503, html,    the retrieve fails, or answers a body that is wrong
                       null_output, wrong_id, drop
items                  404, 429, 500, 503, html,    listing the items of the response's conversation fails
                       drop
stream                 404, 429, 500, 503, html,    reading the events of the response fails; ``drop`` cuts each
                       drop                         reading off in the middle of what is left of them
times                  a count (1)                  how often ``create``, ``retrieve``, ``stream`` and ``items``
                                                    faults happen, then all is well; creates are counted together when
                                                    they carry the same ``id`` or the same input, retrieves
                                                    are counted for each response
webhook                none                         the webhook is never sent
webhook                duplicate                    sent twice at once, with the same ``webhook-id``
webhook                again                        a second event for the same end, with a ``webhook-id``
                                                    and an event id of its own, at once with the first
webhook                early                        the response ends at once, and the create is not
                                                    answered before the webhook was, at most 5 seconds
webhook                forged, stale                one more delivery before the right one, with the same
                                                    ``webhook-id``: with a wrong signature, or 10 minutes
                                                    old and signed correctly for that time
webhook_delay          seconds                      from the end of the response to its webhooks
id                     any                          counts creates together whose inputs differ
upload                 429, 500, 503,               the upload of a file with this line fails, or its answer is lost
                       timeout_after_accept,
                       drop_after_accept
batch                  as ``create``                the creation of the batch with this line fails, or its answer is
                                                    lost; a line with ``create`` alone fails by itself in its batch
batch_end              expired, failed              how the batch with this line ends, as often as ``times`` says; one
                                                    that expires has run the first half of its lines
batch_delay            seconds                      from the creation of the batch to its end
batch_retrieve         404, 429, 500, 503, html     retrieving the batch fails
results                404, 429, 500, 503, html,    downloading a result of the batch fails
                       drop
when                   any, finished                ``finished``: only retrieves of a finished response are
                                                    at fault; default ``any``, and ``finished`` for
                                                    ``retrieve=null_output``
=====================  ===========================  ====================================================

``html`` is a page of HTML with status 200. ``refusal``, ``unknown_status`` and ``complete_after_cancel`` can
stand alone, without ``=``. What is said of webhooks matters where the stand-in was started with a URL for
them.
"""

from __future__ import annotations

import re
import shlex
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CreateFault = Literal[
    "400", "429", "429_quota", "429_spend", "500", "503", "html", "timeout_after_accept", "drop_after_accept"
]
RetrieveFault = Literal["404", "429", "500", "503", "html", "null_output", "wrong_id", "drop"]
UploadFault = Literal["429", "500", "503", "timeout_after_accept", "drop_after_accept"]
BatchRetrieveFault = Literal["404", "429", "500", "503", "html"]
StreamFault = Literal["404", "429", "500", "503", "html", "drop"]
ItemsFault = Literal["404", "429", "500", "503", "html", "drop"]
WebhookFault = Literal["none", "duplicate", "again", "early", "forged", "stale"]

_VALUE_OF_A_LONE_WORD = {
    "refusal": "I'm sorry, but I can't help with that.",
    "unknown_status": "suspended",
    "complete_after_cancel": "true",
}

# `[[standin: ... ]]`, where closing brackets inside quotes do not end the marker.
_MARKER = re.compile(r"""\[\[standin:((?:"(?:\\.|[^"\\])*"|'[^']*'|(?!\]\])[^"'])*)\]\]""", re.DOTALL)
_MARKER_START = "[[standin:"


class FaultSyntaxError(ValueError):
    """The request names a fault that the stand-in does not know, or gives it a value that it cannot have."""


class Faults(BaseModel):
    """What one request asks to go wrong; the module's table says what each field does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    status: Literal["failed", "incomplete", "cancelled"] | None = None
    error_code: str = "server_error"
    reason: str = "max_output_tokens"
    stuck: Literal["queued", "in_progress"] | None = None
    unknown_status: str | None = None
    refusal: str | None = None
    text: str | None = None
    usage: Literal["null"] | None = None
    complete_after_cancel: bool = False
    create: CreateFault | None = None
    retrieve: RetrieveFault | None = None
    stream: StreamFault | None = None
    items: ItemsFault | None = None
    times: int = Field(default=1, ge=1)
    webhook: WebhookFault | None = None
    webhook_delay: float = Field(default=0, ge=0, allow_inf_nan=False)
    id: str | None = None
    when: Literal["any", "finished"] | None = None
    upload: UploadFault | None = None
    batch: CreateFault | None = None
    batch_end: Literal["expired", "failed"] | None = None
    batch_delay: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch_retrieve: BatchRetrieveFault | None = None
    results: ItemsFault | None = None

    @property
    def is_of_batch(self) -> bool:
        """Whether any is about the file or the batch as a whole."""
        named = (self.upload, self.batch, self.batch_end, self.batch_delay, self.batch_retrieve, self.results)
        return any(each is not None for each in named)

    @property
    def retrieve_only_when_finished(self) -> bool:
        """Whether a `retrieve` fault leaves retrieves of a running response alone."""
        return self.when == "finished" or (self.when is None and self.retrieve == "null_output")


def take_markers_out(text: str) -> tuple[str, list[str]]:
    """Split `text` into what the model is to read and the contents of its markers.

    Raises:
        FaultSyntaxError: a marker has no end, or an odd quote.
    """
    contents = [match.group(1) for match in _MARKER.finditer(text)]
    rest = _MARKER.sub("", text)
    if _MARKER_START in rest:
        raise FaultSyntaxError("A [[standin: ...]] marker has no closing ]] or an unbalanced quote.")
    return rest.strip(), contents


def read_faults(contents: list[str]) -> Faults:
    """The faults that these texts name (such as ``status=failed delay=3``); later ones win.

    Raises:
        FaultSyntaxError: a word or a value is not in the vocabulary.
    """
    fields: dict[str, str] = {}
    for content in contents:
        fields |= dict(_read_word(word) for word in _split_words(content))
    try:
        return Faults.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise FaultSyntaxError(f"Stand-in fault {first['loc'][0]!r}: {first['msg']}.") from error


def _split_words(content: str) -> list[str]:
    try:
        return shlex.split(content)
    except ValueError as error:
        raise FaultSyntaxError(f"Stand-in faults {content!r}: {error}.") from error


def _read_word(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if equals:
        return name, value
    if name not in _VALUE_OF_A_LONE_WORD:
        raise FaultSyntaxError(f"Stand-in fault {name!r} needs a value, as in {name}=...")
    return name, _VALUE_OF_A_LONE_WORD[name]
