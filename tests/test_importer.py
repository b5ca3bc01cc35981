"""From a string to an application: every way to fail says what to do, and shows the user's code if it is to blame."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from zibai import importer
from zibai.errors import LoadError
from zibai.importer import add_cwd_to_path, import_from_string, load_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into a directory on ``sys.path``; what the test imported is forgotten at its end."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, source: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def failure(spec: str, call: bool = False) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_app(spec, call)
    error = caught.value
    assert error.exit_code == 3
    assert "\n" not in str(error)
    for ours in (importer.__file__, importlib.__file__, "<frozen importlib"):
        assert ours not in error.trace
    return error


def test_finds_what_is_there(write: Write) -> None:
    write("pack/__init__.py", "")
    write("pack/deep.py", "class Box:\n    @staticmethod\n    def app(environ, start): return [b'x']\nnothing = None\n")
    assert load_app("pack.deep:Box.app", False)(None, None) == [b"x"]
    assert import_from_string("pack.deep:Box.app.__name__") == "app"
    assert import_from_string("pack.deep:nothing") is None
    assert import_from_string("os:path.join") is os.path.join


def test_calls_a_factory(write: Write) -> None:
    write("fact.py", "def create_app():\n    return lambda environ, start: [b'made']\n")
    assert load_app("fact:create_app", True)(None, None) == [b"made"]


@pytest.mark.parametrize(
    "spec",
    ["", ":", ".example", "a..b", "example:", ":app", ".example:app", "a..b:app", "a:b..c", "a:b:c", "C:\\x.py:app"],
)
def test_malformed(spec: str) -> None:
    error = failure(spec)
    assert str(error) == f"{spec!r} is not of the form module:attribute, as in example:app"
    assert error.trace == ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere_xyz:app", "no module named 'nowhere_xyz'; check the name, or start zibai in the directory that"),
        ("nowhere_xyz.sub:app", "no module named 'nowhere_xyz'; check the name"),
        ("real.sub:app", "no module named 'real.sub'; check the name"),
        ("real.py:app", "no module named 'real.py'; write real:app, without the .py"),
    ],
)
def test_missing_module(write: Write, spec: str, message: str) -> None:
    write("real.py", "")
    error = failure(spec)
    assert str(error).startswith(message)
    assert error.trace == ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("things:ap", "module 'things' has no attribute 'ap'; did you mean app?"),
        ("things:aplication", "module 'things' has no attribute 'aplication'; did you mean application?"),
        ("things:xyzzy", "module 'things' has no attribute 'xyzzy'"),
        ("things:Site.wsg", "'Site' in module 'things' has no attribute 'wsg'; did you mean wsgi?"),
        ("things:make()", "module 'things' has no attribute 'make'"),
        ("made:app", "module 'made' has no attribute 'app'; did you mean make_app()?"),
        ("made:log", "module 'made' has no attribute 'log'; did you mean logger?"),
        ("things:APP", "module 'things' has no attribute 'APP'; did you mean app?"),
    ],
)
def test_missing_attribute(write: Write, spec: str, message: str) -> None:
    write("things.py", "def app(): pass\nclass Site:\n    wsgi = 1\n")
    write("made.py", "logger = 'applicator'\ndef make_app(): pass\n")
    if "aplication" in spec:
        write("things.py", "def application(): pass\n")
    error = failure(spec)
    assert str(error) == message
    assert error.trace == ""


def test_app_where_the_module_says_application(write: Write) -> None:
    write("long.py", "def application(): pass\n")
    assert str(failure("long:app")) == "module 'long' has no attribute 'app'; did you mean application?"


ECHO = "def create_app(*args, **keywords):\n    return lambda environ, start: [repr((args, keywords))]\n"


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        ("fact:create_app()", "((), {})"),
        ('fact:create_app("prod")', "(('prod',), {})"),
        ("fact:create_app('a:b', None, debug=True, hosts=['x'])", "(('a:b', None), {'debug': True, 'hosts': ['x']})"),
        ("fact:Shop.create_app(-1.5)", "((-1.5,), {})"),
        ("fact", "((), {})"),
    ],
)
def test_a_call_in_the_name(write: Write, spec: str, given: str) -> None:
    write("fact.py", ECHO + "class Shop:\n    create_app = staticmethod(create_app)\n")
    assert load_app(spec, False)(None, None) == [given]


@pytest.mark.parametrize(
    "spec", ["fact:create_app(config)", "fact:create_app(", "fact:create_app()()x", "fact:create_app(**{})", "fact:(1)"]
)
def test_only_plain_values_are_passed(write: Write, spec: str) -> None:
    write("fact.py", ECHO)
    assert str(failure(spec)) == (
        f"{spec!r} is no call with plain values, as in 'example:create_app(\"production\", debug=False)'"
    )


def test_a_call_and_a_flag(write: Write) -> None:
    write("fact.py", ECHO)
    assert str(failure("fact:create_app()", call=True)) == "'fact:create_app()' is called already; leave --call out"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def app(e, s): return ['app']\ndef application(e, s): return ['application']", "app"),
        ("app = None\ndef application(e, s): return ['application']", "application"),
        ("def create_app(): return lambda e, s: ['create_app']", "create_app"),
        ("def make_app(): return lambda e, s: ['make_app']", "make_app"),
    ],
)
def test_a_module_alone(write: Write, source: str, found: str) -> None:
    write("alone/__init__.py", source)
    assert load_app("alone", False)(None, None) == [found]


def test_a_package_whose_app_is_a_module(write: Write) -> None:
    write("alone/__init__.py", "from . import app\ndef create_app(): return lambda e, s: ['made']\n")
    write("alone/app.py", "")
    assert load_app("alone", False)(None, None) == ["made"]
    assert str(failure("alone:app")) == "'alone:app' is a module; name the application in it, as in alone.app:app"


def test_a_module_alone_without_one(write: Write) -> None:
    write("alone.py", "server = 1\n")
    assert str(failure("alone")) == (
        "module 'alone' has none of app, application, create_app, make_app; name the application, as in alone:NAME"
    )
    write("lazy.py", "def __getattr__(name):\n    raise RuntimeError(name)\n")
    assert str(failure("lazy")).startswith("looking up 'lazy:app' failed: RuntimeError: app")


def test_a_path(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("src/shop/__init__.py", "")
    write(
        "src/shop/web.py",
        "from shop import __name__ as name\ndef app(e, s): return [name]\ndef other(e, s): return [2]\n",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert load_app("src/shop/web.py", False)(None, None) == ["shop"]
    assert load_app(str(tmp_path / "src" / "shop" / "web.py:other"), False)(None, None) == [2]
    assert sys.path[0] == str(tmp_path / "src")
    assert str(failure("src/shop/wbe.py")) == "there is no file 'src/shop/wbe.py'; check the path"
    write("src/my.site.py", "")
    assert str(failure("src/my.site.py:app")) == (
        "'my.site.py' has a dot in its name, so Python cannot import it; rename it"
    )


def test_what_cannot_be_called(write: Write) -> None:
    write("flat.py", "app = 'text'\nnothing = None\ndef bad():\n    return 3\ndef forgot():\n    pass\n")
    assert str(failure("flat:app")) == "'flat:app' is a value of type str and cannot be called; name an application"
    assert str(failure("flat:nothing")) == "'flat:nothing' is None and cannot be called; name an application"
    assert str(failure("flat:app", call=True)) == (
        "'flat:app' is a value of type str and cannot be called; name a factory of applications"
    )
    assert str(failure("flat:bad", call=True)) == (
        "'flat:bad' returned a value of type int, which cannot be called; it should return the application"
    )
    assert str(failure("flat:forgot", call=True)) == (
        "'flat:forgot' returned None, which cannot be called; it should return the application"
    )


def test_what_cannot_be_called_but_makes_the_application(write: Write) -> None:
    """As web.py's ``application``, Pyramid's ``Configurator`` and FastMCP."""
    write("kept.py", "class Kept:\n    def http_app(self):\n        return print\nclass site:\n    app = Kept()\n")
    text = "'kept:site.app' is a value of type Kept and cannot be called; have its application made: zibai "
    assert str(failure("kept:site.app")) == f"{text}'kept:site.app.http_app()'"
    assert load_app("kept:site.app.http_app()", False) is print


def test_a_port_that_another_worker_has(write: Write) -> None:
    """As with ``prometheus_client.start_http_server`` in the module of the application."""
    write("port.py", "import errno\nraise OSError(errno.EADDRINUSE, 'Address already in use')\n")
    assert str(failure("port:app")).endswith(
        "Address already in use; another process has it, and may be another worker: each does this, and so does its "
        "replacement"
    )


def test_an_import_inside_the_module_is_missing(write: Write) -> None:
    write("inner.py", "import os\nimport missing_xyz\n")
    error = failure("inner:app")
    assert str(error) == "importing 'inner' failed: ModuleNotFoundError: No module named 'missing_xyz'"
    assert error.trace.startswith('Traceback (most recent call last):\n  File "')
    assert 'inner.py", line 2, in <module>\n    import missing_xyz' in error.trace
    assert error.trace.endswith("ModuleNotFoundError: No module named 'missing_xyz'\n")


def test_a_package_that_imports_its_own_missing_module(write: Write) -> None:
    """The missing name is the very one that the user gave, but it is the package that fails."""
    write("own/__init__.py", "from own import site_xyz\nimport own.mod\n")
    write("own/site_xyz.py", "")
    error = failure("own.mod:app")
    assert "importing 'own.mod' failed: ModuleNotFoundError: No module named 'own.mod'" in str(error)
    assert "import own.mod" in error.trace


@pytest.mark.parametrize(
    ("source", "message", "traced"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero", "line 1, in <module>\n    1 / 0"),
        ("def f(:\n", "SyntaxError: invalid syntax", 'bad.py", line 1\n    def f(:'),
        ("import sys\nsys.exit(4)\n", "SystemExit: 4", "sys.exit(4)"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one", "ValueError: one\ntwo"),
        ("try:\n    a\nexcept NameError:\n    {}['b']\n", "KeyError: 'b'", "During handling of the above exception"),
        ("class E(BaseException): pass\nraise E\n", "bad.E", "raise E"),
        ("x = b'\\0'.decode('nope')\n", "LookupError: unknown encoding: nope", "decode('nope')"),
        (
            "import asyncio\nasyncio.get_running_loop()\n",
            "RuntimeError: no running event loop; with ASGI it runs from the lifespan on: do this there",
            "get_running_loop",
        ),
        (
            "raise RuntimeError('There is no current event loop.')",
            "RuntimeError: There is no current event loop; with ASGI it runs from the lifespan on: do this there",
            "event loop.",
        ),
    ],
)
def test_an_exception_inside_the_module(write: Write, source: str, message: str, traced: str) -> None:
    write("bad.py", source)
    error = failure("bad:app")
    assert str(error) == f"importing 'bad' failed: {message}"
    assert traced in error.trace
    assert "bad.py" in error.trace


def test_the_trace_starts_in_the_users_code_and_keeps_all_of_it(write: Write) -> None:
    write("first.py", "import second\n")
    write("second.py", "def boom():\n    raise RuntimeError('deep')\nboom()\n")
    trace = failure("first:app").trace
    places = [line.split(", ", 1)[1] for line in trace.splitlines() if line.startswith("  File ")]
    assert places == ["line 1, in <module>", "line 3, in <module>", "line 2, in boom"]


def test_an_exception_inside_the_factory(write: Write) -> None:
    write("fac.py", "def make():\n    raise RuntimeError('no database')\ndef leave():\n    raise SystemExit(1)\n")
    error = failure("fac:make", call=True)
    assert str(error) == "calling 'fac:make' failed: RuntimeError: no database"
    assert "line 2, in make" in error.trace
    assert str(failure("fac:leave", call=True)) == "calling 'fac:leave' failed: SystemExit: 1"


def test_a_factory_that_wants_arguments(write: Write) -> None:
    write("args.py", "def app(config, mode): pass\n")
    assert "calling 'args:app' failed: TypeError: app() missing 2 required" in str(failure("args:app", call=True))


def test_an_exception_while_an_attribute_is_looked_up(write: Write) -> None:
    write("lazy.py", "def __getattr__(name):\n    raise RuntimeError(name)\n")
    error = failure("lazy:app")
    assert str(error) == "looking up 'lazy:app' failed: RuntimeError: app"
    assert "in __getattr__" in error.trace


def test_ctrl_c_passes(write: Write) -> None:
    write("slow.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_app("slow:app", False)


def test_the_current_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    add_cwd_to_path()
    add_cwd_to_path()
    assert sys.path == [os.getcwd(), "/elsewhere"]


@pytest.mark.parametrize("spec", ["flat: app", "flat:app ", " flat:app", "flat:app\n", "flat :app", " flat"])
def test_a_space_beside_a_name(write: Write, spec: str) -> None:
    write("flat.py", "def app(environ, start_response): pass\n")
    assert str(failure(spec)) == f"{spec!r} has a space beside a name; leave it out"


@pytest.mark.parametrize(
    "source",
    ["def app(environ, start_response): 1 / 0\n", "async def app(scope, receive, send): 1 / 0\n"],
    ids=["WSGI", "ASGI"],
)
def test_an_application_that_is_called_as_a_factory(write: Write, source: str) -> None:
    write("flat.py", source)
    for spec, call in (("flat:app()", False), ("flat:app", True)):
        error = failure(spec, call=call)
        assert str(error) == f"{spec!r} is an application, not a factory; leave the call out"
        assert error.trace == ""


@pytest.mark.filterwarnings("error")
def test_a_factory_that_is_async(write: Write) -> None:
    write("flat.py", "async def create_app(): pass\n")
    for spec in ("flat:create_app()", "flat"):
        assert "is async, and a factory must not be" in str(failure(spec))


def test_a_path_without_its_ending(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("pack/web.py", "")
    monkeypatch.chdir(tmp_path)
    assert str(failure("pack/web:app")) == "'pack/web' is no module; for a file, write pack/web.py:app"
    assert str(failure("./pack/web")) == "'./pack/web' is no module; for a file, write ./pack/web.py"
    for name in ("pack/", "./pack", "."):
        assert str(failure(name)) == f"{name!r} is a directory; name a module in it, and the directory with --app-dir"
