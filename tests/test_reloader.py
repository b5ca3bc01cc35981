"""Which files matter, and one callback when they change."""

from __future__ import annotations

import builtins
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from zibai import reloader
from zibai.errors import MissingExtra
from zibai.reloader import IGNORED, Reloader, matches

from support import ROOT, wait_for

if TYPE_CHECKING:
    from pathlib import Path


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
    text = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    section = text.partition("## Watching files")[2].partition("\n## ")[0]
    assert [name for name in sorted(IGNORED) if f"`{name}`" not in section] == []


def test_a_change_is_one_call_and_an_atomic_save_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.py").write_text("x", encoding="ascii")
    calls: list[set[str]] = []  # the files of each
    changed: set[str] = set()

    def noting(path: str, patterns: list[str], root: str) -> bool:
        found = matches(path, patterns, root)
        if found:
            changed.add(os.path.basename(path))
        return found

    def call() -> None:
        calls.append(changed.copy())
        changed.clear()

    def heard(name: str) -> int:
        return sum(name in files for files in calls)

    monkeypatch.setattr(reloader, "matches", noting)
    with Reloader("*.py;.env", call):
        # Nothing tells when it has begun to watch, so the first change is made until it is heard.
        wait_for(lambda: (tmp_path / "first.py").write_text("x", encoding="ascii") and heard("first.py"))
        for number in range(20):
            (tmp_path / "burst.py").write_text(str(number), encoding="ascii")
        wait_for(lambda: heard("burst.py"))
        (tmp_path / "save").write_text("x", encoding="ascii")
        os.replace(tmp_path / "save", tmp_path / "kept.py")
        wait_for(lambda: heard("kept.py"))
        (tmp_path / "notes.txt").write_text("x", encoding="ascii")
        (tmp_path / ".env").write_text("x", encoding="ascii")
        wait_for(lambda: heard(".env"))
    assert all(calls), "one for nothing that matters"
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
        Reloader("*.py", lambda: None)
    assert raised.value.is_broken is ("zibai-server" not in words)
