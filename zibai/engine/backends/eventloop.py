"""The event loops of asyncio that tasks can run in."""

import asyncio
import sys
from importlib import import_module

from ...errors import MissingExtra


def make_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new event loop. Raises :class:`~zibai.errors.MissingExtra` where the one of that name is not installed."""
    if name != "uvloop":
        return asyncio.new_event_loop()
    module = "winloop" if sys.platform == "win32" else "uvloop"
    try:
        loop: asyncio.AbstractEventLoop = import_module(module).new_event_loop()
    except ImportError as error:
        text = f"{module} is not installed; pip install 'zibai-server[uvloop]', or leave out --loop uvloop"
        raise MissingExtra.because(error, module, text) from None
    return loop
