"""The guard ``if __name__ == "__main__"``, which a program that starts workers needs.

A spawned worker imports the main module of the program again. Without the guard it would start a server of its own.
"""

import ast
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

HINT = 'each worker imports this file; put the call under: if __name__ == "__main__":'

# What a program may ask instead of ``__name__``.
_OTHER_GUARDS = {"__name__", "parent_process", "current_process"}


def check() -> None:
    """Raise UsageError, in one line, where a worker would start a server, and before one is started."""
    file = os.path.basename(sys.argv[0]) or "the program"
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(f"{file} starts a server while a worker imports it: {HINT}")
    line = _unguarded_line()
    if line:
        raise UsageError(f"{file}, line {line}: {HINT}")


def _unguarded_line() -> int:
    """The line of the main module from which the server is started, if it is certain that a worker runs it; else 0."""
    main = sys.modules.get("__main__")
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or (spec is not None and (spec.name == "__main__" or spec.name.endswith(".__main__"))):
        return 0  # a worker does not import it, as multiprocessing.spawn says
    frame: FrameType | None = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)):
        frame = frame.f_back
    if frame is None:
        return 0
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):
        return 0
    for statement in body:
        names = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(statement)}
        if statement.lineno <= frame.f_lineno <= (statement.end_lineno or 0):
            return frame.f_lineno if isinstance(statement, ast.Expr | ast.Assign | ast.Try | ast.With) else 0
        if names & _OTHER_GUARDS and not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign):
            return 0
    return 0
