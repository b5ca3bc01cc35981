"""Exceptions and stacks as text. Nothing here raises, whatever the exception or the interpreter does.

Python's ``traceback`` looks at the exception and at the modules of its frames: it calls their code for a message, a
hint or a source line, and since Python 3.15 it may import a package of the user. Any of that can fail. Then the text
is shorter, and the log still has its record.
"""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

# ----------------------------------------------------------------------------------------------- stacks

_OURS = str(Path(__file__).parent.parent)
_STDLIB = os.path.dirname(os.__file__) + os.sep
_BELOW = (
    _OURS,
    "threading.py",
    os.sep + "gevent" + os.sep,
    os.sep + "asyncio" + os.sep,
    "<frozen",
    "<string>",
    os.sep + "multiprocessing" + os.sep,
)


Stack = FrameType | Sequence[FrameType] | None
"""The innermost frame of a thread or greenlet, or all frames of a task, the outermost first; None if it has ended."""


def format_stack(stack: Stack) -> str:
    """The stack of a thread, greenlet or task, as a traceback without the frames that come before the application."""
    frames = frames_of(stack)
    while len(frames) > 1 and is_below(frames[0].f_code.co_filename):
        del frames[0]
    if not frames:
        return "  (it has just ended)"
    try:
        summary = traceback.StackSummary.extract((each, each.f_lineno) for each in frames)
        return "".join(traceback.format_list(summary)).rstrip("\n")
    except BaseException:  # a loader of the user gives the source lines
        places = ((each.f_code.co_filename, each.f_lineno, each.f_code.co_name) for each in frames)
        return "\n".join(f'  File "{name}", line {number}, in {function}' for name, number, function in places)


def application_frame(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of a stack that belongs to the user's code, or None.

    It is the same object for as long as that call of the application runs.
    """
    return next((each for each in frames_of(frame) if is_applications(each.f_code.co_filename)), None)


def is_ours(filename: str, wing: str = "") -> bool:
    """Whether a file belongs to this package, or to one of its wings."""
    return filename.startswith(os.path.join(_OURS, wing))


def is_below(filename: str) -> bool:
    """Whether a file belongs to the server or to its backend: its frames come before those of the application."""
    return any(below in filename for below in _BELOW)


def is_applications(filename: str) -> bool:
    """Whether a file is of the application or of a package that it uses, and not of Python or of the server."""
    if is_below(filename):
        return False
    # Packages of the user may lie below the standard library's directory.
    return not filename.startswith(_STDLIB) or "site-packages" in filename or "dist-packages" in filename


def root(stack: Stack) -> int:
    """The identity of a stack while it runs: that of its outermost frame."""
    return id(next(iter(frames_of(stack)), None))


def origin(filename: str) -> str:
    """Whose code a file is: of the ``server``, of ``python``, of a ``package``, or of the ``app``."""
    if is_ours(filename):
        return "server"
    if "site-packages" in filename or "dist-packages" in filename:
        return "package"
    return "python" if filename.startswith((_STDLIB, "<")) else "app"


def frames_of(stack: Stack) -> list[FrameType]:
    """The frames of a stack, the outermost first."""
    if not isinstance(stack, FrameType):
        return [*(stack or ())]
    frames = []
    frame: FrameType | None = stack
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def frames_of_coroutine(coroutine: object) -> list[FrameType]:
    """The frames of a coroutine that waits, outermost first."""
    found: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        found.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found
