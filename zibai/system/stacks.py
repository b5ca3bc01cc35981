"""Exceptions and stacks as text. Nothing here raises, whatever the exception or the interpreter does.

Python's ``traceback`` looks at the exception and at the modules of its frames: it calls their code for a message, a
hint or a source line, and since Python 3.15 it may import a package of the user. Any of that can fail. Then the text
is shorter, and the log still has its record.
"""

import os
import traceback
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


def format_stack(frame: FrameType | None) -> str:
    """Where a thread or greenlet is, as in a traceback; without the frames that come before the application."""
    frames = _frames(frame)
    while len(frames) > 1 and any(below in frames[0].f_code.co_filename for below in _BELOW):
        del frames[0]
    if not frames:
        return "  (it has just ended)"
    try:
        return "".join(traceback.format_list(traceback.extract_stack(frames[-1])[-len(frames) :])).rstrip("\n")
    except BaseException:  # a loader of the user gives the source lines
        places = ((each.f_code.co_filename, each.f_lineno, each.f_code.co_name) for each in frames)
        return "\n".join(f'  File "{name}", line {number}, in {function}' for name, number, function in places)


def application_frame(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of a stack that belongs to the user's code, or None.

    It is the same object for as long as that call of the application runs.
    """
    return next((each for each in _frames(frame) if _is_applications(each.f_code.co_filename)), None)


def _is_applications(filename: str) -> bool:
    if any(below in filename for below in _BELOW):
        return False
    # Packages of the user may lie below the standard library's directory.
    return not filename.startswith(_STDLIB) or "site-packages" in filename or "dist-packages" in filename


def _frames(frame: FrameType | None) -> list[FrameType]:
    """The frames of a stack, the outermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


# --------------------------------------------------------------------------------------------- the last way


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
