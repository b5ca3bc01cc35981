"""Whether an error is the application's fault, or a consequence of an error that the server has raised."""

from asyncio import CancelledError
from typing import Final

from ..errors import Gone

_FAREWELLS: Final = frozenset({"ClientDisconnect", "WebSocketDisconnect", "WebSocketDisconnected"})
"""What Starlette, Litestar and Falcon raise when they receive ``http.disconnect`` or ``websocket.disconnect``."""


def is_ours(error: BaseException | None, seen: frozenset[int] = frozenset()) -> bool:
    """Whether the server has raised an error, or its cause, or each error of a group.

    ``seen`` has the ids of the errors that led here, since the context of an error may lead back to itself.
    """
    while error is not None and id(error) not in seen:
        seen |= {id(error)}
        if isinstance(error, Gone):
            return True
        if isinstance(error, BaseExceptionGroup):
            rest = [each for each in error.exceptions if not isinstance(each, CancelledError)]
            return bool(rest) and all(is_ours(each, seen) for each in rest)
        error = error.__cause__ or error.__context__
    return False


def is_farewell(error: BaseException) -> bool:
    """Whether an error says no more than that the client has left, which it has: it is ours, or a framework has made it
    of the event. The latter counts for itself alone: what fails in a reaction to the event is a failure.
    """
    if isinstance(error, BaseExceptionGroup):
        rest = [each for each in error.exceptions if not isinstance(each, CancelledError)]
        return bool(rest) and all(map(is_farewell, rest))
    return type(error).__name__ in _FAREWELLS or is_ours(error)
