"""Releases behind a symbolic link, ``current -> releases/1``: a restart takes the new one, and the old one may go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from test_e2e_upgrade import upgraded

from support import APPS, DEADLINE, ROOT, ZIBAI, Server, environment, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, and symbolic links")

APP = """
import json, os, sys
{more}

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{version}"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    release(tmp_path, "1")
    switch(tmp_path, "1")
    return tmp_path


def release(site: Path, version: str, more: str = "") -> None:
    folder = site / "releases" / version
    (folder / "deep").mkdir(parents=True)
    for place in (folder, folder / "deep"):
        (place / "released.py").write_text(APP.format(version=version, more=more))


def switch(site: Path, version: str) -> None:
    """As deploy tools do: at no moment there is none."""
    (site / "next").symlink_to(site / "releases" / version)
    (site / "next").replace(site / "current")


WAYS = {
    "PWD": ("current", ()),
    "deeper": ("current/deep", ()),
    "chdir": ("", ("--chdir", "current")),
    "chdir absolute": ("releases", ("--chdir", "{site}/current/deep")),
}


def start(site: Path, way: str, *flags: str, pwd: str = "", **more: str) -> Server:
    where, arguments = WAYS[way]
    arguments = tuple(each.format(site=site) for each in arguments)
    env = {"PWD": pwd or str(site / where), **more}
    return Server("released:app", "--no-gevent", *arguments, *flags, "--no-access-log", cwd=site / where, env=env)


def answers(server: Server, version: str) -> None:
    wait_for(lambda: {get(server.port).body.decode() for _ in range(4)} == {version})


MODES = pytest.mark.parametrize("mode", [("-p", "2"), ("-p", "1", "--preload")], ids=["workers", "preload"])


@MODES
@pytest.mark.daily("chdir-workers")
@pytest.mark.parametrize("way", WAYS)
def test_a_restart_takes_the_release_that_the_link_names_now(site: Path, way: str, mode: tuple[str, ...]) -> None:
    with start(site, way, *mode) as server:
        answers(server, "1")
        for version in ("2", "3"):
            release(site, version)
            switch(site, version)
            shutil.rmtree(site / "releases" / str(int(version) - 1))
            server.signal(signal.SIGHUP)
            answers(server, version)
        if "--preload" not in mode:
            wait_for(lambda: len(server.children()) == 2)
            os.kill(server.children()[0], signal.SIGKILL)
            server.wait_for_log("starting another")
            answers(server, "3")
        assert server.stop() == 0


@pytest.mark.daily("PWD")
@pytest.mark.parametrize("way", ["PWD", "chdir"])
def test_an_upgrade_takes_the_release_that_the_link_names_now(site: Path, way: str) -> None:
    with start(site, way, "-p", "1") as server:
        answers(server, "1")
        release(site, "2")
        switch(site, "2")
        shutil.rmtree(site / "releases" / "1")
        with upgraded(server) as new:
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.has_ended)
            answers(server, "2")
            release(site, "3")
            switch(site, "3")
            os.kill(new, signal.SIGHUP)
            answers(server, "3")


@pytest.mark.daily("PWD-preload")
@MODES
@pytest.mark.parametrize("way", ["PWD", "chdir"])
def test_while_there_is_no_release_the_old_workers_serve(site: Path, way: str, mode: tuple[str, ...]) -> None:
    with start(site, way, *mode) as server:
        answers(server, "1")
        (site / "current").unlink()
        shutil.rmtree(site / "releases" / "1")
        server.signal(signal.SIGHUP)
        line = server.wait_for_log("cannot start a worker")
        assert f"cannot change to the directory '{site / 'current'}': No such file or directory" in line
        answers(server, "1")
        release(site, "2")
        switch(site, "2")
        answers(server, "2")
        assert server.stop() == 0


def test_a_name_of_another_directory_is_not_believed(site: Path) -> None:
    """``PWD`` may be left over from another process: ``env -C``, a service manager."""
    release(site, "2")
    with start(site, "PWD", "-p", "1", pwd=str(site / "releases" / "2")) as server:
        answers(server, "1")
    with start(site, "PWD", "-p", "1", pwd="current") as server:
        answers(server, "1")


def test_a_module_that_the_new_release_lacks_is_not_taken_from_the_old_one(site: Path) -> None:
    """``python -m`` and a relative ``PYTHONPATH`` have the old directory on the import path."""
    for place in (".", "lib"):
        (site / "releases" / "1" / place).mkdir(exist_ok=True)
        (site / "releases" / "1" / place / f"only_in_1_{place == 'lib'}.py").write_text("")
    more = """
from importlib.util import find_spec
assert [find_spec("only_in_1_True"), find_spec("only_in_1_False")] == [None, None], sys.path
import in_lib
"""
    with start(site, "PWD", "-p", "1", PYTHONPATH=f"lib{os.pathsep}{ROOT}") as server:
        answers(server, "1")
        release(site, "2", more)
        (site / "releases" / "2" / "lib").mkdir()
        (site / "releases" / "2" / "lib" / "in_lib.py").write_text("")
        switch(site, "2")
        server.signal(signal.SIGHUP)
        answers(server, "2")


def test_an_interpreter_in_the_release_that_was_named_by_a_relative_path(site: Path) -> None:
    """A virtual environment of each release, ``.venv/bin/python``."""
    for version in ("1", "2"):
        folder = site / "releases" / version / "bin"
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)
    where, _ = WAYS["PWD"]
    libraries = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    env = {"PWD": str(site / where), "PYTHONPATH": libraries}
    command = ("bin/python", *ZIBAI[1:])
    with Server("released:app", "--no-gevent", "-p", "1", cwd=site / where, env=env, command=command) as server:
        answers(server, "1")
        (site / "releases" / "2" / "released.py").write_text(APP.format(version="2", more=""))
        switch(site, "2")
        shutil.rmtree(site / "releases" / "1")
        server.signal(signal.SIGHUP)
        answers(server, "2")


def test_changes_are_watched_in_the_release_that_the_link_names_now(site: Path) -> None:
    pytest.importorskip("watchfiles")
    with start(site, "PWD", "--watchfiles", "*.py") as server:
        answers(server, "1")
        release(site, "2")
        switch(site, "2")
        answers(server, "2")
        (site / "releases" / "2" / "released.py").write_text(APP.format(version="saved", more=""))
        answers(server, "saved")


REMOVED = """
import os, sys
os.rmdir(os.getcwd())
from zibai.__main__ import main
main()
"""


can_import = pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0), reason="Python 3.13.0 itself cannot import socket in such a directory"
)


@can_import
@pytest.mark.daily("single", "preload")
@pytest.mark.parametrize("mode", [(), ("-p", "1"), ("-p", "1", "--preload")], ids=["single", "worker", "preload"])
def test_a_server_starts_in_a_directory_that_has_been_removed(tmp_path: Path, mode: tuple[str, ...]) -> None:
    """As a shell stays in it. The application is found where Python finds it otherwise."""
    place = tmp_path / "gone"
    place.mkdir()
    command = (sys.executable, "-c", REMOVED)
    env = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(APPS)))}
    with Server("plain:hello", "--no-gevent", *mode, cwd=place, command=command, env=env) as server:
        assert get(server.port).body == b"Hello World!"
        if mode:
            server.signal(signal.SIGHUP)
            server.wait_for_log("restart done")
        assert get(server.port).body == b"Hello World!"
        assert server.stop() == 0


@can_import
def test_a_file_in_a_directory_that_has_been_removed_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", REMOVED, "plain:hello", "--listen", "127.0.0.1:0", "--pid-file", "a.pid"],
        cwd=place,
        env=environment({"PYTHONPATH": os.pathsep.join((str(ROOT), str(APPS)))}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "zibai: error: --pid-file: 'a.pid' cannot be used: No such file or directory" in done.stderr.splitlines()
