"""Exceptions and stacks as text. Nothing here raises, whatever the exception or the interpreter does.

Python's ``traceback`` looks at the exception and at the modules of its frames: it calls their code for a message, a
hint or a source line, and since Python 3.15 it may import a package of the user. Any of that can fail. Then the text
here has less in it, and the log still has its record.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

MOST: Final = 256 * 1024
"""Characters of one exception. A message may have any size, and nobody reads more."""


def format_exception(error: BaseException, frames: TracebackType | None) -> str:
    """What Python prints of an exception, its causes included, with ``frames`` as its own traceback."""
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as failure:  # an import of the user's code may raise SystemExit
        lines = [
            "Traceback (most recent call last):",
            *_plain_lines(frames),
            plain_line(error),
            f"(Python could not format this exception: {plain_line(failure)})",
        ]
        text = "\n".join(lines) + "\n"
    if len(text) > MOST:
        half = MOST // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters are left out here]\n{text[-half:]}"
    return text


def last_line(error: BaseException) -> str:
    """The type and the message of an exception, in one line."""
    try:
        # A syntax error has its place before that line, and notes come after it.
        lines = [line for line in traceback.format_exception_only(error) if not line.startswith(" ")]
        text = "".join(lines).splitlines()[0]
    except BaseException:  # as above
        text = plain_line(error)
    return text if len(text) <= MOST else text[:MOST] + " ..."


def plain_line(error: BaseException) -> str:
    """The same without any help of ``traceback``."""
    name = "an exception"
    try:
        name = str(type(error).__qualname__)
        lines = str(error).splitlines()
    except BaseException:  # the user's __str__ may raise anything
        return f"{name}: <it has no text>"
    return f"{name}: {lines[0]}" if lines else name


def _plain_lines(frames: TracebackType | None) -> Iterator[str]:
    """The lines of a traceback without source code, which a loader of the user might have to give."""
    while frames is not None:
        code = frames.tb_frame.f_code
        yield f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}'
        frames = frames.tb_next


# ----------------------------------------------------------------------------------------------- stacks

_OURS = str(Path(__file__).parent)
_STDLIB = os.path.dirname(os.__file__) + os.sep
_BELOW = (
    _OURS,
    "threading.py",
    os.sep + "gevent" + os.sep,
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


def print_exception(what: str, error: BaseException) -> None:
    """To standard error, where no log is left that could take it; nothing where that fails too."""
    try:
        sys.stderr.write(f"{what}\n{format_exception(error, error.__traceback__)}")
        sys.stderr.flush()
    except BaseException:  # noqa: S110 -- there is nobody left to tell
        pass
