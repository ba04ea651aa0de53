"""Logs on stderr: readable lines, or one JSON object per line for machines.

A line that is written on behalf of a call has the call's id, which the caller gets with an error (`request_ids.py`).
Warnings of the interpreter and of libraries are lines like all others.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from gestalt_cas.request_ids import current

FIELDS = ("request_id", "method", "code", "ms", "received_bytes", "sent_bytes")
"""What a record may have beyond what every one has; JSON lines show it under these names."""

_ours: logging.StreamHandler[TextIO] | None = None


class JsonLines(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, those of FIELDS that there are, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """The same for people: time, level, logger, message, and the call's id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        text = super().formatMessage(record)
        request_id = getattr(record, "request_id", "")
        return f"{text} (request {request_id})" if request_id else text


class _NamesRequest(logging.Filter):
    """Lets every record pass, with the id of the call on whose behalf it was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = current.get()
        if request is not None and not hasattr(record, "request_id"):
            record.request_id = request.id
        return True


_names_request = _NamesRequest()


def set_up(style: str = "text", level: int = logging.INFO) -> None:
    """Send the logs of this process to stderr, as "text" or "json"; handlers that send them elsewhere stay."""
    global _ours  # noqa: PLW0603 - as the root logger it belongs to the process
    _ours = logging.StreamHandler(sys.stderr)
    _ours.setFormatter(JsonLines() if style == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [_ours, *root.handlers]
    root.setLevel(level)
    only_ours()
    name_requests()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def only_ours() -> None:
    """Drop what others have added to write to the console, lest each line come twice; nothing before `set_up`."""
    if _ours is not None:
        root = logging.getLogger()
        root.handlers = [one for one in root.handlers if one is _ours or type(one) is not logging.StreamHandler]


def name_requests() -> None:
    """Have all handlers that there are by now know the ids of calls."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_names_request)  # a second time does nothing
