"""The API server over a connection that stays open, as the administrator.

What is looked at ten times a second, or made a hundred times, is not worth a process each time: kubectl takes a tenth
of a second of a core to start. This module refuses to change objects, and to know what any of them means.
"""

from __future__ import annotations

import http.client
import json
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from .errors import ApiError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

ANSWER_SECONDS: Final = 60.0
"""Time for an answer; the server of a busy machine may take seconds."""
PLACES: Final = {
    "nodes": "/api/v1",
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "secrets": "/api/v1",
    "configmaps": "/api/v1",
    "serviceaccounts": "/api/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "daemonsets": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "mutatingadmissionpolicies": "/apis/admissionregistration.k8s.io/v1",
    "elasticquotas": "/apis/n8s.nebuly.ai/v1alpha1",
    "compositeelasticquotas": "/apis/n8s.nebuly.ai/v1alpha1",
}
"""Where the server keeps objects, by the plural of their kind."""


class Api:
    """The API server's objects. Threads may share it; they wait for each other."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Describes the connection, which the first question opens.

        Args:
            host: address of the server.
            port: its TCP port.
            context: trusts the server, and says who asks.
        """
        self._connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the connection; a further question would open it again."""
        self._connection.close()

    def get(self, plural: str, name: str, *, namespace: str = "") -> dict[str, Any]:
        """One object.

        Args:
            plural: one of :data:`PLACES`.
            name: of the object.
            namespace: of the object; empty where its kind has none.

        Raises:
            ApiError: there is none, or the server does not answer.
        """
        return self._call("GET", f"{_path(plural, namespace)}/{name}")

    def items(self, plural: str, *, namespace: str = "", labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        """Objects of a kind.

        Args:
            plural: one of :data:`PLACES`.
            namespace: where they are; empty: all namespaces, or their kind has none.
            labels: label selector.
            fields: field selector.

        Raises:
            ApiError: the server does not answer, or does not know the kind.
        """
        query = urlencode({"labelSelector": labels, "fieldSelector": fields})
        items: list[dict[str, Any]] = self._call("GET", f"{_path(plural, namespace)}?{query}")["items"]
        return items

    def create(self, document: Mapping[str, Any], *, namespace: str = "", dry_run: bool = False) -> dict[str, Any]:
        """Makes an object.

        Args:
            document: the object; the plural of its kind is one of :data:`PLACES`.
            namespace: where it is to be; empty where its kind has none.
            dry_run: have the server answer as if it made it.

        Returns:
            The object as it was made.

        Raises:
            ApiError: the server refused, or does not answer; then it may have been made.
        """
        path = _path(f"{document['kind'].lower()}s", namespace)
        return self._call("POST", f"{path}?dryRun=All" if dry_run else path, json.dumps(document))

    def delete(self, plural: str, name: str = "", *, namespace: str = "", grace_seconds: int | None = None) -> None:
        """Asks for the end of objects; they may take time to go.

        Args:
            plural: one of :data:`PLACES`.
            name: of the object; empty: all of their kind in the namespace.
            namespace: where they are; empty where their kind has none.
            grace_seconds: what pods have to stop; None: as they say themselves.

        Raises:
            ApiError: there is none of that name, or the server does not answer; then they may be going.
        """
        if not name and not namespace:
            raise ValueError(f"all {plural} of all namespaces are not to be deleted")
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        self._call("DELETE", _path(plural, namespace) + (f"/{name}" if name else ""), json.dumps(options))

    def _call(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        with self._lock:
            try:
                try:
                    self._connection.request(method, path, body, headers)
                    response = self._connection.getresponse()
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    # The server had closed it meanwhile, so nothing was done.
                    self._connection.close()
                    self._connection.request(method, path, body, headers)
                    response = self._connection.getresponse()
                answer = response.read()
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                raise ApiError(method, path, 0, str(error) or type(error).__name__) from error
        document: dict[str, Any] = json.loads(answer)
        if response.status >= http.client.MULTIPLE_CHOICES:
            raise ApiError(method, path, response.status, document.get("message", ""))
        return document


def _path(plural: str, namespace: str) -> str:
    return f"{PLACES[plural]}/namespaces/{namespace}/{plural}" if namespace else f"{PLACES[plural]}/{plural}"
