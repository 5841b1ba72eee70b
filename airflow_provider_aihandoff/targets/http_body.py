"""The body of an HTTP request: JSON, a form, a text, or files. Planned exactly, and made to bytes when it is sent."""

from __future__ import annotations

import hashlib
import json as jsonlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: The most bytes of all the files of one request: they are held in memory while they are sent.
MAX_FILE_BYTES = 50_000_000

_FILE_FIELDS = frozenset({"path", "conn_id", "filename", "content_type"})

_FORM = "application/x-www-form-urlencoded"
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Body:
    """What an author writes as the body of a request; one of the four, except that a form may have files.

    :param json: a value, or a text that is JSON.
    :param form: the fields of a form.
    :param text: a text that is sent as it is.
    :param files: by the names of their form fields: ``{"path": ...}``, with ``conn_id``, ``filename`` and
        ``content_type`` where needed.
    """

    json: Any = None
    form: Mapping[str, Any] | None = None
    text: str | None = None
    files: Mapping[str, Mapping[str, Any]] | None = None

    def plan(self, name: str) -> dict[str, Any]:
        """The parts of the plan that are the body, with the header that says what it is.

        :param name: the effect's name, for messages.
        :raises PlanError: there is more than one body, or it cannot be what it is; a file cannot be read.
        """
        given = [part for part in ("json", "form", "text", "files") if getattr(self, part) is not None]
        if len(given) > 1 and given != ["form", "files"]:
            raise PlanError(
                f"the effect {name!r} has more than one body: {' and '.join(given)}.",
                remedy="Give one of json, form and text; only a form can have files.",
            )
        if self.files is not None:
            files = {field: _file_plan(field, file, name) for field, file in self.files.items()}
            if (size := sum(file["size"] for file in files.values())) > MAX_FILE_BYTES:
                raise PlanError(
                    f"the files of the effect {name!r} have {size} bytes or more, and {MAX_FILE_BYTES} are allowed.",
                    remedy="Upload them with an operator of your own, and send the target their address.",
                )
            return {"form": _fields(self.form or {}, name), "files": files}
        if self.form is not None:
            return {"form": _fields(self.form, name)}
        if self.text is not None:
            return {"text": str(self.text)}
        return {} if self.json is None else {"body": json_text(self.json, name)}


def json_text(value: Any, name: str) -> str:
    """The JSON of a value, or of a text that is JSON, without spaces.

    :param name: the effect's name, for messages.
    :raises PlanError: it is not JSON.
    """
    try:
        value = strict_json.loads(value, unique_keys=True) if isinstance(value, str) else value
        return jsonlib.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise PlanError(
            f"the body of the effect {name!r} did not render to JSON: {error}.",
            remedy="Write each value with the filter tojson: {{ job.output.title | tojson }}.",
        ) from error


def encoded(plan: Mapping[str, Any], key: str, name: str) -> tuple[bytes | None, str | None]:
    """The bytes of a planned body, and their content type.

    :param key: the effect key; the boundary between the parts of a form with files is made of it.
    :param name: the effect's name, for messages.
    :raises EffectNotNow: a file cannot be read now.
    :raises EffectRefused: a file is not what was approved.
    """
    if "files" not in plan:
        if "form" in plan:
            return urlencode(plan["form"]).encode(), _FORM
        if "text" in plan:
            return plan["text"].encode(), _TEXT
        return (plan["body"].encode(), "application/json") if "body" in plan else (None, None)
    from urllib3.filepost import encode_multipart_formdata

    parts: list[tuple[str, Any]] = list(plan["form"].items())
    for field, file in plan["files"].items():
        parts.append((field, (file["filename"], _approved_content(file, name), file["content_type"])))
    return encode_multipart_formdata(parts, boundary=f"aihandoff-{hashlib.sha256(key.encode()).hexdigest()[:32]}")


def _fields(form: Mapping[str, Any], name: str) -> dict[str, str]:
    """The fields of a form as the texts that are sent: a template makes texts anyway."""
    fields = {}
    for field, value in form.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise PlanError(
                f"the form field {field!r} of the effect {name!r} is a {type(value).__name__}.",
                remedy="Write it as the text that the target is to get.",
            )
        fields[str(field)] = str(value)
    return fields


def _file_plan(field: str, declared: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A file by reference: where it is, and the digest of what it has now."""
    if unknown := sorted(declared.keys() - _FILE_FIELDS):
        raise PlanError(
            f"the file {field!r} of the effect {name!r} has fields that are not known: {', '.join(unknown)}.",
            remedy=f"It takes: {', '.join(sorted(_FILE_FIELDS))}.",
        )
    if not declared.get("path"):
        raise PlanError(f"the file {field!r} of the effect {name!r} lacks a path.")
    path = _path_of(declared)
    file = {
        "path": str(declared["path"]),
        "filename": str(declared.get("filename") or path.name),
        "content_type": str(declared.get("content_type") or "application/octet-stream"),
    }
    if declared.get("conn_id"):
        file["conn_id"] = str(declared["conn_id"])
    try:
        content = _content(path)
    except OSError as error:
        raise PlanError(
            f"the file {file['path']!r} of the effect {name!r} cannot be read: {type(error).__name__}.",
            remedy="Write it before the approval task runs, at a place that every worker can read.",
        ) from error
    return {**file, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _approved_content(file: Mapping[str, Any], name: str) -> bytes:
    try:
        content = _content(_path_of(file))
    except OSError as error:
        raise EffectNotNow(
            f"the file {file['path']!r} of the effect {name!r} cannot be read: {type(error).__name__}.",
            remedy="Restore the file; a retry is safe.",
        ) from error
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise EffectRefused(
            f"the file {file['path']!r} of the effect {name!r} is not the one that was approved.",
            remedy="Restore the file, then clear this task; or clear the approval task, to ask about the new one.",
        )
    return content


def _path_of(file: Mapping[str, Any]) -> ObjectStoragePath:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(str(file["path"]), conn_id=file.get("conn_id") or None)


def _content(path: ObjectStoragePath) -> bytes:
    """Read a file, to a little beyond what one may have."""
    with path.open("rb") as opened:
        content: bytes = opened.read(MAX_FILE_BYTES + 1)
    return content
