"""How the author of a Dag declares that it does a type of job for those who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.job_requests.declared_type import KEYWORD, PARAM, TAG, DeclaredType

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Param

__all__ = ["JobType"]


class JobType(DeclaredType):
    """A kind of work that a Dag does for those who ask: see :class:`DeclaredType` for its arguments.

    Give :attr:`params` and :attr:`tags` to the Dag, and the type itself to its draft as ``job_type``.
    """

    @property
    def params(self) -> dict[str, Param]:
        """The param of the Dag that has the request: ``{{ params.job_request.input }}``."""
        from airflow.providers.common.compat.sdk import Param

        schema: dict[str, Any] = {"type": ["object", "null"], KEYWORD: self.to_json()}
        said = f"Filled in by a request for a job of the type {self.name}."
        return {PARAM: Param(None, description=said, **schema)}

    @property
    def tags(self) -> list[str]:
        """The tag by which the Dag is found."""
        return [TAG]
