"""The pytest fixture ``zibai_server``, which pytest finds by the entry point of this package."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def zibai_server() -> Iterator[Callable[..., str]]:
    """Call it with an application, and options of ``zibai.serving()``: the URL of a server that ends with the test."""
    from .serving import serving  # not before a test needs it

    with ExitStack() as stack:

        def start(app: Callable[..., Any], **options: Any) -> str:
            return stack.enter_context(serving(app, **options))

        yield start
