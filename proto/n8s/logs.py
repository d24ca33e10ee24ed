"""One line per log record, as ``key=value``: what happened in ``msg``, the objects at hand in fields of their own.

Every program of ours writes its log so.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"=]+")


class KeyValueFormatter(logging.Formatter):
    """Formats a record with the fields given as ``extra``; time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, where there is one, is put on that line too."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = {"time": when, "level": record.levelname.lower(), "from": record.name}
        fields["msg"] = record.getMessage()
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def set_up(level: int) -> None:
    """Has all loggers write to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _value(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
