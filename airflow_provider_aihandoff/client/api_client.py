"""The calls: each is safe to repeat, and is repeated while the API server is unavailable.

An API server that is killed and comes back within the patience of the client is not noticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from airflow_provider_aihandoff.client.event_reader import read_events
from airflow_provider_aihandoff.client.refusals import ApiError, Unavailable, WaitTimeout
from airflow_provider_aihandoff.client.values import JobRequest, JobType
from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.version import __version__

PREFIX = "/aihandoff/api/v1"

#: Answers after which the same call may be taken later: bounds and limits of ours, and proxies without a server.
_LATER = frozenset({429, 502, 503, 504})

#: The problem of a key that a transaction under way is recording.
_IN_PROGRESS = "request-in-progress"

#: Seconds between two tries: at first, and at most.
_PAUSE_BASE, _PAUSE_CAP = 0.5, 10.0

#: Seconds for which one answer is held back, and seconds of silence after which a connection is given up. The server
#: says something every 15 seconds on a stream.
_HELD, _SILENCE = 30, 45.0

#: Seconds after which a stream that ends was alive: the server ends each after some minutes, to ask for rights again.
_ALIVE = 5.0

Token = str | Callable[[], str]


@dataclass(frozen=True)
class ClientEvent:
    """News of a request.

    :param name: ``request``: it stands otherwise. Others are passed on as they come, such as ``text``, a part of what
        the model writes.
    :param data: as the server has sent it.
    :param request: how it stands, with ``request`` alone.
    """

    name: str
    data: Any
    request: JobRequest | None = None


class Client:
    """Asks for jobs as one login. Threads can share it.

    :param base_url: of Airflow, with its path prefix if it has one.
    :param token: Airflow's bearer token; or a function that gets one, as :func:`log_in` returns it. The function is
        called at first, and again when a token has expired.
    :param patience: seconds for which a call is repeated after it has failed, while the API server is unavailable or
        wants it later. ``wait`` is patient for as long as it waits, if that is longer.
    :param options: of ``httpx.Client``, such as ``verify`` or ``proxy``.
    """

    def __init__(self, base_url: str, *, token: Token, patience: float = 120.0, **options: Any) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://.")
        self._get_token: Callable[[], str] = token if callable(token) else lambda: token
        self._token: str | None = None
        self._renews = callable(token)
        self._patience = patience
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + PREFIX,
            timeout=httpx.Timeout(10.0, read=_HELD + 30.0),
            headers={"User-Agent": f"airflow-provider-aihandoff/{__version__}"},
            **options,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def job_types(self) -> list[JobType]:
        """The types of jobs that you may ask for.

        :raises ApiError: the API has refused it.
        :raises Unavailable: no answer came.
        """
        return [JobType.from_json(each) for each in self._send("GET", "/job-types").json()["job_types"]]

    def submit(
        self,
        type: str,
        input: Mapping[str, Any],
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        permissions: Mapping[str, Any] | None = None,
        requested_for: str | None = None,
    ) -> JobRequest:
        """Ask for a job. With the same arguments it is the same job, however often and from wherever it is called.

        :param type: one of :meth:`job_types`.
        :param input: what the type takes.
        :param key: what identifies this piece of work among its kind; it becomes the job's key. Or give an
            ``idempotency_key``, unique among those of your login. Keep it where your program finds it again after a
            crash.
        :param permissions: what the work may touch, for reviewers and policies.
        :param requested_for: the user for whom a service account asks.
        :raises ValueError: there is no key.
        :raises ApiError: it was refused, and nothing was recorded.
        :raises Unavailable: no answer came. It may be recorded: submit it again with the same key.
        """
        if key is None and idempotency_key is None:
            raise ValueError(
                "A request needs a key or an idempotency_key: sent twice, it would make two jobs otherwise."
            )
        optional = {"key": key, "permissions": permissions, "requested_for": requested_for}
        body = {
            "type": type,
            "input": dict(input),
            **{name: each for name, each in optional.items() if each is not None},
        }
        headers = {} if idempotency_key is None else {"Idempotency-Key": f'"{_checked("key", idempotency_key)}"'}
        return JobRequest.from_json(self._send("POST", "/jobs", json=body, headers=headers).json())

    def get(self, request: JobRequest | UUID | str) -> JobRequest:
        """How a request of yours stands.

        :raises ApiError: the API has refused it.
        :raises Unavailable: no answer came.
        """
        return JobRequest.from_json(self._send("GET", _path(request)).json())

    def wait(self, request: JobRequest | UUID | str, timeout: float) -> JobRequest:
        """Wait until a request has ended.

        :param timeout: seconds. A job that waits for a person can take days.
        :raises WaitTimeout: it has not ended yet.
        :raises ApiError: the API has refused it.
        :raises Unavailable: no answer came.
        """
        until, path = time.monotonic() + timeout, _path(request)
        answer = self._send("GET", path)
        seen = JobRequest.from_json(answer.json())
        while not seen.ended:
            if (left := until - time.monotonic()) <= 0:
                raise WaitTimeout(seen, timeout)
            # At least one second: an answer that is not held back at all would be asked for again at once.
            held, known = max(1, min(_HELD, int(left))), {"If-None-Match": answer.headers["etag"]}
            news = self._send("GET", path, params={"wait": held}, headers=known, patience=max(left, self._patience))
            if news.status_code != httpx.codes.NOT_MODIFIED:
                answer, seen = news, JobRequest.from_json(news.json())
        return seen

    def follow(self, request: JobRequest | UUID | str) -> Iterator[ClientEvent]:
        """What happens to a request, as it happens, until it has ended. A connection that breaks is made again.

        :raises ApiError: the API has refused it.
        :raises Unavailable: no answer came.
        """
        path, last_id, failures = f"{_path(request)}/stream", "", _Failures(self._patience)
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            began = time.monotonic()
            try:
                with self._stream(path, headers) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    for event in read_events(answer.iter_lines(), last_id):
                        last_id, failures = event.last_id, _Failures(self._patience)
                        news = _event(event.name, event.data)
                        yield news
                        if news.request is not None and news.request.ended:
                            return
                if time.monotonic() - began > _ALIVE:
                    failures = _Failures(self._patience)
                failures.wait(httpx.RemoteProtocolError("the stream has ended before the request"))
            except httpx.TransportError as error:
                failures.wait(error)
            except ApiError as error:
                if not _may_pass(error):
                    raise
                failures.wait(error, error.retry_after)

    def cancel(self, request: JobRequest | UUID | str) -> JobRequest:
        """Stop what you have asked for, as long as it is not being carried out. Safe to repeat.

        :raises ApiError: it has ended, is being carried out, or is not yours.
        :raises Unavailable: no answer came. Call it again.
        """
        return JobRequest.from_json(self._send("POST", f"{_path(request)}/cancel").json())

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        patience: float | None = None,
        **options: Any,
    ) -> httpx.Response:
        """The answer to a call, which is repeated while it may be taken later."""
        failures = _Failures(self._patience if patience is None else patience)
        while True:
            try:
                return self._once(method, path, headers or {}, **options)
            except httpx.TransportError as error:
                failures.wait(error)
            except ApiError as error:
                if not _may_pass(error):
                    raise
                failures.wait(error, error.retry_after)

    def _once(self, method: str, path: str, headers: Mapping[str, str], **options: Any) -> httpx.Response:
        answer = self._client.request(method, path, headers=self._with_token(headers), **options)
        if self._has_expired(answer):
            answer = self._client.request(method, path, headers=self._with_token(headers), **options)
        return _taken(answer)

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(10.0, read=_SILENCE)
        for again in (True, False):
            with self._client.stream("GET", path, headers=self._with_token(headers), timeout=timeout) as answer:
                if again and self._has_expired(answer):
                    continue
                if answer.is_error:
                    answer.read()
                yield _taken(answer)
                return

    def _with_token(self, headers: Mapping[str, str]) -> dict[str, str]:
        token = self._token  # another thread may forget it meanwhile
        if token is None:
            token = self._token = _checked("token", self._get_token().strip())
        return {**headers, "Authorization": f"Bearer {token}"}

    def _has_expired(self, answer: httpx.Response) -> bool:
        """Whether the token was refused, and another one can be had."""
        if answer.status_code != httpx.codes.UNAUTHORIZED or not self._renews:
            return False
        if answer.request.headers["authorization"] == f"Bearer {self._token}":  # no other thread has a newer one
            self._token = None
        return True


class _Failures:
    """Failures in a row, and how much longer to be patient: from the first one on."""

    def __init__(self, patience: float) -> None:
        self._number, self._patience = 0, patience
        self._until: float | None = None

    def wait(self, error: Exception, seconds: float | None = None) -> None:
        """Wait before the next try.

        :param seconds: as the answer says.
        :raises ApiError: there is no time for it, and the answer was that there are too many requests.
        :raises Unavailable: there is no time for it.
        """
        now = time.monotonic()
        self._until = now + self._patience if self._until is None else self._until
        self._number += 1
        pause = max(seconds or 0.0, backoff(self._number, base=_PAUSE_BASE, cap=_PAUSE_CAP))
        if now + pause > self._until:
            if isinstance(error, ApiError) and error.status == httpx.codes.TOO_MANY_REQUESTS:
                raise error
            raise Unavailable(
                f"No answer within {self._patience:g} s; the last failure: {str(error) or type(error).__name__}. What "
                "was asked for may be recorded. Ask again with the same key: it is the same request."
            ) from error
        time.sleep(pause)


def log_in(base_url: str, username: str, password: str, **options: Any) -> Callable[[], str]:
    """A function that gets a token of Airflow's, where its auth manager has logins with passwords.

    :param base_url: of Airflow, with its path prefix if it has one.
    :param options: of ``httpx.post``.
    :raises ApiError: by the function: the login is refused.
    """

    def get() -> str:
        said = {"username": username, "password": password}
        answer = _taken(httpx.post(f"{base_url.rstrip('/')}/auth/token", json=said, **options))
        return str(answer.json()["access_token"])

    return get


def _taken(answer: httpx.Response) -> httpx.Response:
    if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
        return answer
    raise ApiError.of(answer)


def _checked(name: str, text: str) -> str:
    """A text that a header can have. The error of the HTTP client would quote it, and it may be a secret."""
    if not (text and text.isascii() and text.isprintable()):
        raise ValueError(f"The {name} is empty, or has characters that a header cannot have, such as a line break.")
    return text


def _may_pass(error: ApiError) -> bool:
    return error.status in _LATER or error.type == _IN_PROGRESS


def _path(request: JobRequest | UUID | str) -> str:
    request_id = request.request_id if isinstance(request, JobRequest) else UUID(str(request))
    return f"/requests/{request_id}"


def _event(name: str, text: str) -> ClientEvent:
    data = json.loads(text)
    return ClientEvent(name, data, JobRequest.from_json(data) if name == "request" else None)
