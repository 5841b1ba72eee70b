"""The error answers of OpenAI's API: status, and a body with `message`, `type`, `param` and `code`."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


class ApiError(Exception):
    """An answer in OpenAI's error format.

    Args:
        status: HTTP status.
        message: for a person.
        type: OpenAI's class of errors.
        param: the request parameter at fault.
        code: what a client branches on.
        headers: more response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}
        self.headers = headers

    def as_response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def unauthorized() -> ApiError:
    """No API key was sent."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header "
        "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def response_not_found(response_id: str) -> ApiError:
    """The id is unknown, deleted, or of a response that was not stored."""
    return ApiError(404, f"Response with id '{response_id}' not found.")


def previous_response_not_found(response_id: str) -> ApiError:
    """The response that a request goes on from is unknown, or deleted."""
    return ApiError(
        400,
        f"Previous response with id '{response_id}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def conversation_not_found(conversation_id: str) -> ApiError:
    """The id of a conversation is unknown."""
    return ApiError(404, f"Conversation with id '{conversation_id}' not found.")


def conversation_locked(conversation_id: str) -> ApiError:
    """Another response runs in the conversation."""
    return ApiError(
        400,
        f"Another process is currently operating on this conversation ({conversation_id}). Please retry in a moment.",
        param="conversation",
        code="conversation_locked",
    )


def injected(fault: str) -> ApiError:
    """The answer of a fault that is named by its status (`faults` has the list)."""
    match fault:
        case "400":
            return ApiError(400, "Injected by the stand-in: invalid prompt.", code="invalid_prompt")
        case "404":
            return ApiError(404, "Injected by the stand-in: not found.")
        case "429":
            return ApiError(
                429,
                "Injected by the stand-in: rate limit reached. Please try again in 1s.",
                type="requests",
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        case "429_quota":
            return ApiError(
                429,
                "Injected by the stand-in: you exceeded your current quota.",
                type="insufficient_quota",
                code="insufficient_quota",
            )
        case "429_spend":
            return ApiError(
                429,
                "Injected by the stand-in: the project has reached its spend limit.",
                type="insufficient_quota",
                code="project_spend_limit_exceeded",
            )
        case "503":
            return ApiError(
                503,
                "Injected by the stand-in: the server is overloaded. Please try again later.",
                type="server_error",
                code="server_overloaded",
            )
    return ApiError(500, "Injected by the stand-in: the server had an error.", type="server_error")
