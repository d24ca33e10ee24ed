"""What can go wrong in the webhook, as one tree; errors of libraries do not get past the modules that use them.

WebhookError
├── ConfigError         a setting that cannot be used
├── CertificateError    the certificate or its key cannot be used
├── ReviewError         a request that is no review of a quota or pod
└── ApiError            the API server did not answer as it should
"""

from __future__ import annotations


class WebhookError(Exception):
    """The root of the tree."""


class ConfigError(WebhookError):
    """A setting that cannot be used.

    Attributes:
        field: the setting, as the command line names it.
        problem: what is wrong with it and what is expected.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class CertificateError(WebhookError):
    """The certificate or its key cannot be used.

    Attributes:
        directory: where they were looked for.
        problem: what is wrong with them.
    """

    def __init__(self, directory: object, problem: str) -> None:
        super().__init__(f"tls.crt and tls.key in {directory}: {problem}")
        self.directory = directory
        self.problem = problem


class ReviewError(WebhookError):
    """A request that is no review of a quota or pod.

    Attributes:
        problem: what it lacks.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class ApiError(WebhookError):
    """The API server did not answer as it should.

    Attributes:
        call: method and path.
        problem: what it did instead.
    """

    def __init__(self, call: str, problem: str) -> None:
        super().__init__(f"{call}: {problem}")
        self.call = call
        self.problem = problem
