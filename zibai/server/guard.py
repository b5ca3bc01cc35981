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

# Names by which a program may find out whether it runs in a worker.
_GUARDS = {"__name__", "parent_process", "current_process"}


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
    return frame.f_lineno if _is_certain(body, frame.f_lineno) else 0


def _is_certain(body: list[ast.stmt], line: int) -> bool:
    """Whether each run of ``body`` executes this line of it, as far as the source tells."""
    for statement in body:
        if statement.lineno <= line <= (statement.end_lineno or 0):
            return not _names(statement) & _GUARDS and _is_certain_in(statement, line)
        if _may_guard(statement):
            return False
    return False


def _is_certain_in(statement: ast.stmt, line: int) -> bool:
    """The same for the only statement of a body that has the line, and that contains no guard."""
    match statement:
        case ast.Expr() | ast.Assign():
            return not any(isinstance(node, ast.BoolOp | ast.IfExp) for node in ast.walk(statement))
        case ast.With(body=body):
            return line < body[0].lineno or _is_certain(body, line)
        case ast.Try(body=body, orelse=orelse, finalbody=finalbody):
            return any(_is_certain(part, line) for part in (body, orelse, finalbody))
        case _:
            return False  # a condition, or a loop: it may not run


def _may_guard(statement: ast.stmt) -> bool:
    """Whether it may keep a worker from the following lines: by leaving, or by assigning or defining something.

    ``__name__`` that is only passed on, as to ``getLogger``, is no guard.
    """
    found = _names(statement) & _GUARDS
    if found == {"__name__"} and isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign):
        return any("__name__" in _names(node) for node in ast.walk(statement) if isinstance(node, ast.Compare))
    return bool(found)


def _names(tree: ast.AST) -> set[str]:
    return {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(tree)}
