"""Forms as browsers send them, where their fields are not known beforehand, and large ones."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

#: Enough for the largest form that a page has: an output of some megabytes, or a bulk decision on a thousand jobs.
MAX_FORM = 16 * 2**20
MAX_FIELDS = 5_000


async def form_of(request: Request) -> FormData:
    """The form of a request.

    :raises HTTPException: it is too large, or does not say how large it is.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_FORM:
        raise HTTPException(413, f"A form may be at most {MAX_FORM // 2**20} MB.")
    return await request.form(max_fields=MAX_FIELDS, max_part_size=MAX_FORM)


FormDep = Annotated[FormData, Depends(form_of)]


def _typed(form: FormDep) -> dict[str, str]:
    return {name: text for name, text in form.items() if isinstance(text, str)}


#: What was typed, by the names of the fields.
TypedDep = Annotated[dict[str, str], Depends(_typed)]
