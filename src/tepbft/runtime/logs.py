"""Structured logs: one JSON object per line, to standard error or to a file.

What strangers can cause is limited per event name, so that nobody can fill the disk;
what was left out is counted in the next line that is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from tepbft.errors import TepbftError
from tepbft.runtime.settings import NodeSettings

LIMITED = frozenset({"peer_fault", "client_fault", "client_refused", "link_refused", "tc_refused"})
LIMIT_LINES = 20
LIMIT_S = 10.0
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class RateLimit:
    """A structlog processor: at most `LIMIT_LINES` lines per `LIMIT_S` of each name in `LIMITED`."""

    def __init__(self) -> None:
        self._windows: dict[str, list[float]] = {}
        """name -> [start of the window, lines in it, suppressed]."""

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.get("event"))
        if name not in LIMITED:
            return event
        now = time.monotonic()
        window = self._windows.setdefault(name, [now, 0, 0])
        if now - window[0] > LIMIT_S:
            if window[2]:
                event["suppressed_before"] = int(window[2])
            window[:] = [now, 0, 0]
        window[1] += 1
        if window[1] > LIMIT_LINES:
            window[2] += 1
            raise structlog.DropEvent
        return event


class LossyStream:
    """Writes what the disk takes and drops the rest: a full disk must stop a node's journal, which
    heals, and never the node itself by way of its log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a text stream; errors of the system are swallowed."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of a text stream; errors of the system are swallowed."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _open(settings: NodeSettings, log_file: Path) -> TextIO:
    if settings.log_file in ("", "-"):
        return sys.stderr
    try:
        descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TepbftError(
            str(log_file), f"the log cannot be opened ({error.strerror})", "Set log_file in node.toml."
        ) from None
    return os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)


def configure_logs(settings: NodeSettings, log_file: Path) -> None:
    """Set up structlog for this process. TepbftError if the file cannot be written."""
    stream = _open(settings, log_file)
    renderer: Any
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer(default=_plain)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            RateLimit(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks
            if settings.log_format == "json"
            else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LossyStream(stream))),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()


def logs_debug() -> bool:
    """True if lines of level `debug` are written."""
    return bool(structlog.get_logger("tepbft").bind().is_enabled_for(logging.DEBUG))


def _plain(value: Any) -> str:
    """JSON form of a value that has none."""
    return value.hex() if isinstance(value, bytes) else str(value)
