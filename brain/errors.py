"""What can go wrong in the brain, as one tree; errors of libraries do not get past the modules that use them.

BrainError
├── ConfigError         a setting that cannot be used
├── ApiError            a call to the Kubernetes API did not do what was asked
│   ├── UnreachableError    no answer at all, or none in time
│   └── RefusedError        an answer other than success, by its status
└── LeaseLostError      this brain leads no longer
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class BrainError(Exception):
    """The root of the tree."""


class ConfigError(BrainError):
    """A setting that cannot be used.

    Attributes:
        field: the setting, as the command line names it.
        problem: what is wrong with it and what is expected.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ApiError(BrainError):
    """A call to the Kubernetes API did not do what was asked.

    Attributes:
        method: the HTTP method.
        path: the path at the API server.
        problem: what went wrong.
    """

    def __init__(self, method: str, path: str, problem: str) -> None:
        super().__init__(f"{method} {path}: {problem}")
        self.method = method
        self.path = path
        self.problem = problem


class UnreachableError(ApiError):
    """The API server gave no answer, or none in time. The call may have taken effect all the same."""


class RefusedError(ApiError):
    """The API server answered with something other than success.

    Attributes:
        status: the HTTP status.
        reason: the machine-readable reason of its answer, e.g. ``Expired``; empty where it has none.
        causes: what its answer names as causes: what is wrong, by machine-readable reason.
    """

    def __init__(
        self,
        method: str,
        path: str,
        problem: str,
        *,
        status: int,
        reason: str = "",
        causes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(method, path, f"{status} {reason}: {problem}")
        self.status = status
        self.reason = reason
        self.causes = causes


class LeaseLostError(BrainError):
    """This brain leads no longer: another took the Lease, or it could not be renewed in time.

    Attributes:
        problem: which of the two, in words.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
