"""Who is to serve, and that there is no way back; the change itself is in test_e2e_daemon.py."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from zibai.errors import UsageError, ZibaiError
from zibai.system import daemon, privileges
from zibai.system.privileges import Identity, find

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such users")


def test_nobody_asked_for() -> None:
    assert find(None, None) is None


@posix
def test_who_we_are_already_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a server that was started by one that has changed already may have the same command line."""
    user, group = str(os.geteuid()), str(os.getegid())
    assert find(user, group) is None
    assert find(None, group) is None
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: 54321)
    for name in ("getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 54322)
    assert find("54321", "54322") is None
    with pytest.raises(ZibaiError, match="no permission to become user 54321; start the server as root"):
        find("54321", "54323")


@posix
@pytest.mark.parametrize("name", ["-1", "1.5", "", "99999999999999999999"])
def test_a_number_that_is_none(name: str) -> None:
    with pytest.raises(UsageError, match="--user: there is no user"):
        find(name, "0")
    with pytest.raises(UsageError, match="--group: there is no group"):
        find(None, name)


@pytest.mark.parametrize(("user", "group", "flag"), [("www", None, "--user"), (None, "www", "--group")])
def test_on_windows(user: str | None, group: str | None, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "sys", SimpleNamespace(platform="win32"))
    with pytest.raises(UsageError, match=f"^{flag}: not on this system"):
        find(user, group)
    monkeypatch.setattr(daemon, "sys", SimpleNamespace(platform="win32"))
    with pytest.raises(UsageError, match=r"^--daemon: not on this system"):
        daemon.detach()


class System:
    """Ids of a process that was root; ``kept`` are the calls that work although they should not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uid = self.euid = self.gid = self.egid = 0
        self.groups = [0, 4, 27]
        self.calls: list[str] = []
        self.kept: set[str] = set()
        for name in ("setgroups", "initgroups", "setgid", "setegid", "setuid", "seteuid"):
            monkeypatch.setattr(os, name, lambda *args, name=name: self.call(name, *args))
        for name in ("uid", "euid", "gid", "egid", "groups"):
            monkeypatch.setattr(os, f"get{name}", lambda name=name: getattr(self, name))
        monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, 44])
        monkeypatch.setattr(os, "access", lambda *_: True)

    def call(self, name: str, *args: object) -> None:
        self.calls.append(name)
        if self.euid != 0 and name not in self.kept:
            raise PermissionError(1, "Operation not permitted")
        match name:
            case "setgroups":
                self.groups = list(args[0])  # type: ignore[call-overload]
            case "initgroups":
                self.groups = [args[1], 44]  # type: ignore[list-item]
            case "setuid" | "setgid":
                setattr(self, name[3:], args[0])
                setattr(self, f"e{name[3:]}", args[0])
            case _:
                setattr(self, name[3:], args[0])


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


WWW = Identity("user www", 33, 33, "www", "/var/www")


@posix
def test_groups_come_first_and_the_user_last(system: System) -> None:
    WWW.assume()
    assert system.calls[:3] == ["initgroups", "setgid", "setuid"]
    assert (system.uid, system.euid, system.gid, system.egid, system.groups) == (33, 33, 33, 33, [33, 44])
    assert set(system.calls[3:]) == {"setuid", "seteuid", "setgid", "setegid"}, "the way back is tried"


@posix
def test_without_a_name_there_are_no_other_groups(system: System) -> None:
    Identity("user 33", 33, 34).assume()
    assert (system.calls[0], system.groups) == ("setgroups", [34])


@posix
@pytest.mark.parametrize("way", ["setuid", "seteuid", "setgid", "setegid"])
def test_a_way_back_is_an_error(system: System, way: str) -> None:
    system.kept.add(way)
    with pytest.raises(ZibaiError, match="the change to user www could be undone; not serving"):
        WWW.assume()


@posix
@pytest.mark.parametrize("name", ["setuid", "setgid", "initgroups"])
def test_a_step_that_does_nothing_is_an_error(system: System, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, name, lambda *_: None)
    with pytest.raises(ZibaiError, match="the change to user www was incomplete; not serving"):
        WWW.assume()


@posix
def test_a_step_that_fails_is_an_error(system: System) -> None:
    system.euid = 1
    with pytest.raises(ZibaiError, match="cannot become user www: Operation not permitted"):
        WWW.assume()


@posix
def test_a_python_that_he_may_not_run(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ZibaiError, match=r"user www may not run .*; install Python"):
        WWW.assume()


@posix
def test_the_environment_is_his(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("LOGNAME", "root")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    Identity("group www", 0, 33).adapt_environment()
    assert (os.environ["HOME"], os.environ["XDG_RUNTIME_DIR"]) == ("/root", "/run/user/0")
    WWW.adapt_environment()
    assert [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR")] == [
        "/var/www",
        "www",
        "www",
        None,
    ]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root")
def test_a_path_that_leads_through_a_directory_of_the_user(tmp_path: Path) -> None:
    identity, (theirs, ours) = Identity("nobody", 65534, 65534), (tmp_path / "theirs", tmp_path / "ours")
    for folder in (theirs, ours, theirs / "inside", tmp_path / "shared", tmp_path / "open"):
        folder.mkdir()
    for folder in (theirs, theirs / "inside"):
        os.chown(folder, 65534, 65534)
    os.chown(tmp_path / "shared", 0, 65534)
    (tmp_path / "shared").chmod(0o775)
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open" / "ours").mkdir()
    (tmp_path / "open" / "theirs").mkdir()
    os.chown(tmp_path / "open" / "theirs", 65534, 65534)
    (theirs / "link").symlink_to(ours)
    (ours / "link").symlink_to(theirs)
    (ours / "far").symlink_to("../theirs/link")
    (ours / "loop").symlink_to("loop")

    def redirected(path: str) -> bool:
        return identity.may_redirect(str(tmp_path / path))

    safe = ("ours/log", "theirs/log", "ours/link/log", "shared/log", "open/log", "open/ours/log")
    assert not any(map(redirected, safe))
    told = ("theirs/link/log", "theirs/inside/log", "ours/link/link/log", "ours/far/log", "open/theirs/log",
            "ours/loop/log", "ours/missing/log", "theirs/link/../log")  # fmt: skip
    assert all(map(redirected, told))
    assert not Identity("root", 0, 0).may_redirect(str(theirs / "link" / "log"))
