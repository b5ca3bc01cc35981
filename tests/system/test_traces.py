"""Exceptions and stacks as text, when everything that Python asks on the way fails."""

from __future__ import annotations

import linecache
import logging
import sys
import threading
import traceback
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from zibai.errors import TEXT_LIMIT, LoadError, format_exception, last_line
from zibai.importer import guarded
from zibai.system import stacks as traces
from zibai.system.stacks import application_frame, format_stack
from zibai.telemetry.format import Formatter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Weird(BaseException):
    """What nobody expects, and `except Exception` does not catch."""


class Silent(Exception):
    def __str__(self) -> str:
        raise Weird("no text")

    __repr__ = __str__


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Named(type):
    def __getattribute__(cls, name: str) -> Any:
        raise Weird(f"no {name}")


NO_TEXT = [Silent(), Endless(), ValueError(), KeyError("\udc80")]


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as again:
        return again


def text_of(error: BaseException) -> str:
    return format_exception(caught(error), error.__traceback__)


@pytest.fixture(params=[ValueError("no hint"), Weird("exit"), SystemExit(3), RecursionError("deep")], ids=repr)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """An interpreter whose own formatting raises, as that of Python 3.15 may."""

    def fail(*args: Any, **kwargs: Any) -> Iterator[str]:
        raise request.param

    for name in ("format_exception", "format_exception_only", "format_list"):
        monkeypatch.setattr(traceback, name, fail)
    return request.param  # type: ignore[no-any-return]


def test_as_python_prints_it() -> None:
    error = caught(ValueError("bad\nvalue"))
    assert format_exception(error, error.__traceback__) == "".join(traceback.format_exception(error))
    assert last_line(error) == "ValueError: bad"


def test_where_python_fails_the_rest_is_there(broken: BaseException) -> None:
    text = text_of(ImportError("no module\nforged"))
    assert text.startswith("Traceback (most recent call last):\n")
    assert f'File "{__file__}", line ' in text
    assert "in caught\n    raise error\nImportError: no module\n" in text
    assert type(broken).__name__ in text.splitlines()[-1]
    assert last_line(ImportError("no module")) == "ImportError: no module"


@pytest.mark.usefixtures("broken")
def test_a_stack_where_python_fails() -> None:
    assert format_stack(sys._getframe()).endswith("in test_a_stack_where_python_fails")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("error", NO_TEXT, ids=lambda error: type(error).__name__)
def test_where_everything_fails(error: BaseException) -> None:
    assert type(error).__name__ in text_of(error)
    assert last_line(error).startswith(type(error).__name__)
    record = logging.makeLogRecord({"msg": "m", "exc_info": (type(error), error, error.__traceback__)})
    assert Formatter("%(message)s").format(record).startswith("m\n  Traceback")


@pytest.mark.parametrize("error", NO_TEXT, ids=lambda error: type(error).__name__)
def test_exceptions_that_have_no_text(error: BaseException) -> None:
    assert type(error).__name__ in text_of(error)
    assert type(error).__name__ in last_line(error)


def test_an_exception_whose_class_has_no_name() -> None:
    cls: Any = Named("Odd", (Exception,), {})
    assert "Traceback" in text_of(cls("x"))
    assert "\n" not in last_line(cls("x"))


def test_the_line_of_a_syntax_error_and_of_one_with_notes() -> None:
    with pytest.raises(SyntaxError) as broken:
        compile("x = = 1", "broken.py", "exec")
    assert last_line(broken.value) == "SyntaxError: invalid syntax"
    noted = ValueError("bad")
    noted.add_note("a note")
    assert last_line(noted) == "ValueError: bad"


def test_causes_that_go_round() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert "ValueError: one" in format_exception(one, None)


def test_a_message_of_any_size() -> None:
    error = ValueError("begin " + "x" * 5_000_000 + " end")
    text = text_of(error)
    assert len(text) < TEXT_LIMIT + 100
    assert text.startswith("Traceback")
    assert "characters are left out here" in text
    assert text.endswith(" end\n")
    assert len(last_line(error)) < TEXT_LIMIT + 10


def test_a_loader_that_fails_to_give_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        def get_source(self, name: str) -> str:
            raise Weird("no source")

    module = ModuleType("lazy")
    module.__dict__["__loader__"] = Loader()
    exec(compile("def fail(): raise ValueError('of the module')", "lazy.py", "exec"), module.__dict__)
    linecache.clearcache()
    try:
        module.fail()
    except ValueError as error:
        text = format_exception(error, error.__traceback__)
    assert 'File "lazy.py", line 1, in fail' in text
    assert "ValueError: of the module" in text


@pytest.mark.usefixtures("broken")
def test_a_failed_import_is_a_load_error_all_the_same() -> None:
    def fail() -> None:
        raise ModuleNotFoundError("no module named 'engine'", name="own.engine")

    with pytest.raises(LoadError) as error:
        guarded("importing 'own'", fail)
    assert str(error.value) == "importing 'own' failed: ModuleNotFoundError: no module named 'engine'"
    assert "in fail" in error.value.trace


# --- stacks ---------------------------------------------------------------------------------------------


def stack_of(*filenames: str) -> FrameType:
    """A stack of calls, the outermost first."""
    found: list[FrameType] = []
    call: Any = lambda: found.append(sys._getframe(1))
    for filename in reversed(filenames):
        space: dict[str, Any] = {"call": call}
        exec(compile("def function(): call()", filename, "exec"), space)
        call = space["function"]
    thread = threading.Thread(target=call)  # without pytest's frames
    thread.start()
    thread.join()
    return found[0]


OURS, GEVENT = traces.__file__, "/venv/lib/python3/site-packages/gevent/hub.py"
LOGGING, FLASK = logging.__file__, traces._STDLIB + "site-packages/flask/app.py"


@pytest.mark.parametrize(
    ("filenames", "outermost"),
    [
        ([GEVENT, OURS, FLASK, "/srv/views.py"], FLASK),
        ([GEVENT, "/srv/background.py", LOGGING], "/srv/background.py"),
        ([GEVENT, OURS, LOGGING], None),  # the server writes its log
        ([GEVENT, OURS], None),
        ([GEVENT], None),
        (["<string>", OURS, "/srv/app.py", OURS], "/srv/app.py"),
    ],
)
def test_the_frame_of_the_application(filenames: list[str], outermost: str | None) -> None:
    found = application_frame(stack_of(*filenames))
    assert (found and found.f_code.co_filename) == outermost


def test_no_stack() -> None:
    assert application_frame(None) is None
    assert format_stack(None) == "  (it has just ended)"
