"""The record of one exchange of WSGI in the log, when its response is out."""

import logging
from typing import TYPE_CHECKING

from ..clock import clock
from ..engine.stream import Stream
from ..logger import access_logger, error_logger
from ..telemetry.records import ResponseDetails, log_exchange

if TYPE_CHECKING:
    from .exchange import Exchange
    from .interface import Environ


def log(exchange: "Exchange", stream: Stream, environ: "Environ", ended: float = 0.0) -> None:
    """Log the exchange. If the loop calls, ``ended`` is when its runner left it, and this must not block."""
    error = exchange.error
    failed = error is not None or stream.status >= 500
    logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
    if logger.isEnabledFor(level):
        duration = clock() - stream.started
        sent = max(0, exchange.sent - stream.sender.lost)
        status = stream.status
        if ended:
            told = _tell(exchange, stream, ended)  # now, since the report may come later
            facts = (logger, level, environ, status, duration, sent, error, lambda: told)
            stream.service.report(log_exchange, *facts)
        else:
            log_exchange(logger, level, environ, status, duration, sent, error, lambda: _tell(exchange, stream, ended))
    exchange.error = None  # it refers to this frame; a cycle would keep the environ until the next collection


def _tell(exchange: "Exchange", stream: Stream, ended: float) -> ResponseDetails:
    """Details of the response, for log formats that show them."""
    head, now = exchange.head, clock()
    return ResponseDetails(b"" if head is None else head.data, stream.phases(ended or now, now))
