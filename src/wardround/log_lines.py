"""How a program logs: one line an event on stderr; an error with its traceback and never with its local variables.

Local variables may hold clinical values and secrets, and the library's default for errors prints them.
"""

from __future__ import annotations

import logging
import sys

import structlog


def write_log_lines() -> None:
    """Set it up, once in a process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
