"""Which files matter, and one callback when they change."""

from __future__ import annotations

import builtins
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zibai.errors import MissingExtra
from zibai.server import reloader
from zibai.server.places import IGNORED, Place, matches, tree
from zibai.server.reloader import Reloader

from support import ROOT, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("path", "patterns", "expected"),
    [
        ("app.py", ["*.py"], True),
        ("package/module.py", ["*.py"], True),
        ("package/module.py", ["package/*.py"], True),
        ("other/module.py", ["package/*.py"], False),
        (".env", ["*.py", ".env"], True),
        ("deep/down/.env", [".env"], True),
        ("app.pyc", ["*.py"], False),
        ("app.py~", ["*.py"], False),
        (".app.py.swp", ["*.py"], False),
        ("__pycache__/app.py", ["*.py"], False),
        (".venv/lib/module.py", ["*.py"], False),
        ("node_modules/x/y.py", ["*.py"], False),
        (".git/hooks/x.py", ["*.py"], False),
        ("build/lib/x.py", ["*.py"], False),
        ("build.py", ["*.py"], True),
    ],
)
def test_which_changes_matter(tmp_path: Path, path: str, patterns: list[str], expected: bool) -> None:
    assert matches(str(tmp_path / path), patterns, str(tmp_path)) is expected


KINDS = {
    "caches": ["__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"],
    "virtual environments": [".venv", "venv", ".env", "env", "virtualenv", "site-packages", ".tox", ".nox"],
    "version control": [".git", ".hg", ".svn", ".bzr", ".jj", "CVS"],
    "builds": ["build", "dist", ".eggs"],
    "Node": ["node_modules", "bower_components", ".npm", ".yarn"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_no_source_lives_in(tmp_path: Path, kind: str) -> None:
    for folder in KINDS[kind]:
        for path in (f"{folder}/x.py", f"package/{folder}/deep/x.py"):
            assert not matches(str(tmp_path / path), ["*.py"], str(tmp_path)), path
        assert matches(str(tmp_path / folder), ["*"], str(tmp_path)), "only folders: .env is also a file"


def test_they_do_not_matter_above_the_directory_that_is_watched(tmp_path: Path) -> None:
    root = tmp_path / "build" / "venv"
    assert matches(str(root / "app.py"), ["*.py"], str(root))


def test_they_are_all_in_the_docs() -> None:
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    section = text.partition("## Watching files")[2].partition("\n## ")[0]
    assert [name for name in sorted(IGNORED) if f"`{name}`" not in section] == []


def test_a_change_is_one_call_and_an_atomic_save_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "atomic.py").write_text("x", encoding="ascii")
    said: list[str] = []

    def heard(name: str) -> int:
        # Two changes may come together, on a busy machine. So each file here comes before the last in the alphabet, and
        # is the one that is named.
        return sum(text.startswith(f"{name} ") for text in said)

    with Reloader("*.py;.env", said.append):
        # Nothing tells when it has begun to watch, so the first change is made until it is heard.
        wait_for(lambda: (tmp_path / "first.py").write_text("x", encoding="ascii") and heard("first.py"))
        for number in range(20):
            (tmp_path / "burst.py").write_text(str(number), encoding="ascii")
        wait_for(lambda: heard("burst.py"))
        (tmp_path / "save").write_text("x", encoding="ascii")
        os.replace(tmp_path / "save", tmp_path / "atomic.py")
        wait_for(lambda: heard("atomic.py"))
        (tmp_path / "notes.txt").write_text("x", encoding="ascii")
        (tmp_path / ".env").write_text("x", encoding="ascii")
        wait_for(lambda: heard(".env"))
    assert not any("notes" in text or "save" in text for text in said)
    assert heard("burst.py") < 10, "a burst is not a storm"  # of more than one where the machine makes a pause in it


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'watchfiles'", name="watchfiles"), r"zibai-server\[reload\]"),
        (ImportError("DLL load failed"), "watchfiles is installed and cannot be imported: DLL load failed$"),
        (ModuleNotFoundError("No module named 'anyio'", name="anyio"), "cannot be imported: No module named 'anyio'$"),
    ],
    ids=["not installed", "broken", "without something it needs"],
)
def test_without_the_extra_it_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, words: str
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "watchfiles":
            raise error
        return original(name, *args)

    monkeypatch.delitem(sys.modules, "watchfiles", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=words) as raised:
        Reloader("*.py", lambda what: None)
    assert raised.value.is_broken is ("zibai-server" not in words)


# --- what cannot be watched -------------------------------------------------------------------------


class Watch:
    """In the place of watchfiles': fails as the test says, and then tells of the changes that the test makes."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.calls: list[dict[str, Any]] = []
        self.changed = threading.Event()

    def __call__(self, *paths: str, stop_event: threading.Event, **how: Any) -> Iterator[set[tuple[int, str]]]:
        self.calls.append({"paths": paths, **how})
        if self._failures:
            raise self._failures.pop(0)
        while not stop_event.is_set():
            if self.changed.wait(0.01):
                self.changed.clear()
                yield {(1, os.path.join(paths[0], "x.py"))}


@pytest.mark.parametrize("polls", [False, True])
def test_whatever_ends_the_watching_is_said_and_it_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, polls: bool
) -> None:
    """As when the limit of inotify is reached: the system cannot watch, so all files are looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reloader, "RETRY_INTERVAL", 0.2)
    limit = OSError("OS file watch limit reached")
    watch = Watch(limit, *[OSError("and now?"), limit, OSError("and now?")] * polls)
    calls: list[int] = []
    found = Reloader("*.py", lambda what: calls.append(1), warns=False)
    found._watch = watch  # type: ignore[assignment]
    logging.getLogger("zibai").addHandler(caplog.handler)
    try:
        with found:
            wait_for(lambda: len(watch.calls) == (5 if polls else 2))
            watch.changed.set()
            wait_for(lambda: calls)
    finally:
        logging.getLogger("zibai").removeHandler(caplog.handler)
    assert [call["force_polling"] for call in watch.calls[:2]] == [None, True]
    told = [record for record in dict.fromkeys(caplog.records) if record.levelno == logging.WARNING]
    assert "OS file watch limit reached; polling them instead" in told[0].getMessage()
    assert len(told) == (2 if polls else 1), "each reason once"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid(), reason="becomes a user who may not read a folder")
def test_a_folder_that_cannot_be_read_hides_nothing_else() -> None:
    """Also not those that the system lists after it, and those that are made later."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(20):
            (root / f"d{number}").mkdir()
        (root / "d9" / "secret").mkdir(mode=0o700)
        for path in (root, *root.iterdir()):
            path.chmod(0o777)
        code = f"""
import os, platform, sys, threading, time
import watchfiles
from zibai.server import reloader
os.setgid(65534); os.setuid(65534); os.chdir({folder!r})
heard = threading.Event()
def write(path):
    heard.clear()
    until = time.monotonic() + 15
    while True:
        open(path, "w").write("x")  # until it is heard, since nothing tells when it has begun to watch
        if heard.wait(0.5):
            return
        if time.monotonic() > until:
            sys.exit(path + " is not seen")
with reloader.Reloader("*.py", lambda what: heard.set(), warns=False):
    for number in range(20):
        write("d%d/x.py" % number)
    heard.clear()
    os.makedirs("new/deeper")
    open("new/deeper/first.py", "w").close()
    heard.wait(15) or sys.exit("what is in a new folder is not seen")
    write("new/deeper/second.py")
"""
        # Not measured: that user may not write the file of the coverage either.
        env = {name: value for name, value in environment().items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_links_that_lead_back_are_no_endless_way(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "node_modules" / "x").mkdir(parents=True)
    with suppress(OSError):  # Windows may not let us
        (tmp_path / "package" / "back").symlink_to(tmp_path)
    folders, whole = tree(str(tmp_path))
    assert whole
    assert folders == [str(tmp_path)] + ([str(tmp_path / "package")] if sys.platform == "linux" else [])


# --- several directories -----------------------------------------------------------------------------


def instances() -> int:
    """How many instances of inotify this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify"
    return found


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("deep", [True, False], ids=["all below", "files beside each other"])
def test_many_directories_are_one_watch(tmp_path: Path, deep: bool) -> None:
    """A user has 128 instances of inotify, for all programs."""
    folders = [tmp_path / f"d{number}" for number in range(50)]
    for folder in folders:
        (folder / "below").mkdir(parents=True)
    said: list[str] = []
    threads = threading.active_count()
    with Reloader("*.py", said.append, str(folders[0]), warns=False, deep=deep) as found:
        for folder in folders[1:]:
            found.add(str(folder), "*.py;*.html")
        # A change counts from the first look at its directory on; the last one is looked at after all others.
        wait_for(lambda: (folders[-1] / "last.html").write_text("x") and heard(said, "last.html"))
        names = ["a0.py", *(f"a{number}.html" for number in range(1, 50))]
        for folder, name in zip(folders, names, strict=True):
            (folder / name).write_text("x")
        wait_for(lambda: all(heard(said, name) for name in names))
        if sys.platform == "linux":
            assert instances() <= 1
        assert threading.active_count() == threads + 1
        (folders[0] / "no.html").write_text("x")  # the patterns of another directory
        (folders[7] / "below" / "deep.py").write_text("x")
        (folders[8] / "last.py").write_text("x")
        wait_for(lambda: heard(said, "last.py"))
        assert heard(said, "no.html") == 0
        if deep:
            wait_for(lambda: heard(said, os.path.join("below", "deep.py")))
    assert deep or not any("deep.py" in text for text in said)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call tells all names; else it would tell the first one, and how many more."""
    monkeypatch.setattr(reloader, "_in_words", " ".join)


def heard(said: list[str], name: str) -> int:
    """How many calls tell of a file."""
    return sum(name in text.split(" ") for text in said)


@pytest.mark.usefixtures("whole")
def test_a_directory_that_is_added_hides_no_change(tmp_path: Path) -> None:
    """The watch ends and begins anew at each, and files are saved meanwhile."""
    for number in range(40):
        (tmp_path / f"d{number}").mkdir()
    said: list[str] = []
    with Reloader("*.py", said.append, str(tmp_path / "d0"), warns=False) as found:
        wait_for(lambda: (tmp_path / "d0" / "begin.py").write_text("x") and heard(said, "begin.py"))
        for number in range(1, 40):
            name = f"file{number}.py"
            (tmp_path / "d0" / name).write_text("x")
            if number % 2:
                wait_for(lambda name=name: heard(said, name))  # type: ignore[misc]
            found.add(str(tmp_path / f"d{number}"), "*.py")
            wait_for(lambda name=name: heard(said, name))  # type: ignore[misc]
        wait_for(lambda: (tmp_path / "d39" / "end.py").write_text("x") and heard(said, "end.py"))


def test_a_change_that_was_told_is_not_missed(tmp_path: Path) -> None:
    """Else a save would restart the workers again when their imports make the watch begin anew."""
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x")
    place = Place(str(tmp_path), "*.py", False, since=None)
    place.look(deep=True)
    later = time.time_ns() + 10**12
    os.utime(one, (1, 1))
    assert place.missed() == [], "it is older"
    os.utime(one, ns=(later, later))
    assert [place.missed(), place.missed()] == [["one.py"], []]
    os.utime(one, ns=(later + 10**9, later + 10**9))
    assert [place.missed(), place.missed()] == [["one.py"], []], "another change"
    two.write_text("x")
    os.utime(two, ns=(later, later))
    assert place.hear(str(two)) == "two.py"
    place.follow()
    place.look(deep=True)
    assert place.missed() == [], "a watch has told it"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old.py").write_text("x")
    os.utime(tmp_path / "new" / "old.py", (1, 1))
    place.look(deep=True)
    if sys.platform == "linux":  # elsewhere a place is one folder for the system
        assert [place.missed(), place.missed()] == [[os.path.join("new", "old.py")], []], "its folder is new"


def test_a_path_on_another_drive_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def relative(path: str, start: str) -> str:
        raise ValueError(f"path is on mount {path!r}, start on mount {start!r}")

    monkeypatch.setattr(os.path, "relpath", relative)
    assert not Place(str(tmp_path), "*.py", False, since=None).matters("D:\\x.py")


@pytest.mark.usefixtures("whole")
def test_changes_since_a_time_count_however_late_the_directory_is_added(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("x")
    os.utime(tmp_path / "b" / "b.py", (1, 1))
    said: list[str] = []
    with Reloader("*.py", said.append, str(tmp_path / "a"), warns=False) as found:
        for name in ("b", "c"):
            found.add(str(tmp_path / name), "*.py", since=1000.0)
        wait_for(lambda: said)
        wait_for(lambda: (tmp_path / "a" / "end.py").write_text("x") and heard(said, "end.py"))
    assert heard(said, "c.py") == 1
    assert heard(said, "b.py") == 0


@pytest.mark.usefixtures("whole")
def test_a_directory_that_goes_hides_no_other_and_may_come_back(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    said: list[str] = []
    with Reloader("*.py", said.append, str(tmp_path / "a"), warns=False) as found:
        found.add(str(tmp_path / "b"), "*.py")
        wait_for(lambda: (tmp_path / "b" / "first.py").write_text("x") and heard(said, "first.py"))
        os.rename(tmp_path / "a", tmp_path / "gone")
        wait_for(lambda: (tmp_path / "b" / "second.py").write_text("x") and heard(said, "second.py"))
        (tmp_path / "a").mkdir()
        wait_for(lambda: (tmp_path / "a" / "third.py").write_text("x") and heard(said, "third.py"))
        (tmp_path / "b" / "fourth.py").write_text("x")
        wait_for(lambda: heard(said, "fourth.py"))
