"""Whether an error is the application's fault, or a consequence of an error that the server has raised."""

from asyncio import CancelledError

from ..errors import Gone


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
