"""One review from question to answer: reads what exists, lets the rules judge, asks whether the writer may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from brain.model.quota import Kind, Quota
from webhook import review, rules
from webhook.errors import ApiError
from webhook.review import Answer

logger = logging.getLogger(__name__)


class Api(Protocol):
    """What the API server is asked; see :class:`webhook.api.Api`."""

    async def quotas(self, kind: Kind, namespace: str | None = None) -> list[Quota]:
        """The quotas of a kind, in one namespace or in all."""

    async def may_not_create_quotas(self, user: review.User, namespaces: Sequence[str]) -> list[str]:
        """Those of the namespaces in which a user may not create ElasticQuotas."""


async def validate(api: Api, kind: Kind, request: review.Request, seconds: float) -> Answer:
    """Whether a quota may be written. Where that cannot be told, it may not, and the message says why.

    Args:
        api: what exists, and who may do what.
        kind: of the quota.
        request: what is to be written.
        seconds: for the API server's part. The one that waits for this answer must wait longer, else its client
            reads of a time-out only.
    """
    if request.harmless or request.object is None:
        return Answer()
    quota = review.quota(kind, request.object, namespace=request.namespace)
    try:
        async with asyncio.timeout(seconds):
            existing, forbidden = await _ask(api, quota, request)
    except (ApiError, TimeoutError) as error:
        problem = str(error) or f"no answer from the API server within {seconds:g} s"
        logger.warning("undecided", extra={"quota": quota.key, "problem": problem})
        return Answer(500, f"cannot check {quota.key} against the quotas that exist: {problem}; try again")
    judgement = rules.judge(quota, existing, exists=request.operation == "UPDATE")
    problems = [*judgement.problems]
    if forbidden:
        problems.append(
            f"{request.user_info.username} may not create ElasticQuotas in {', '.join(forbidden)}; who writes a "
            "CompositeElasticQuota must be allowed to in each namespace that it lists"
        )
    if problems:
        return Answer(403, "; ".join(problems))
    return Answer(warnings=judgement.warnings)


async def _ask(api: Api, quota: Quota, request: review.Request) -> tuple[list[Quota], list[str]]:
    """The quotas that may stand in a quota's way, and the namespaces that its writer may not give a quota to."""
    if quota.kind is Kind.SINGLE:
        singles, composites = await asyncio.gather(api.quotas(Kind.SINGLE, quota.namespace), api.quotas(Kind.COMPOSITE))
        return singles + composites, []
    singles, composites, forbidden = await asyncio.gather(
        api.quotas(Kind.SINGLE),
        api.quotas(Kind.COMPOSITE),
        api.may_not_create_quotas(request.user_info, quota.namespaces),
    )
    return singles + composites, forbidden
