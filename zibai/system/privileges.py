"""From root to the user of the server: after the listeners are bound, and before the application is imported.

Parent and workers all change: an attacker who takes over the application must not find a process with the rights of
root beside it. Groups are changed first, since only root can do that. Afterwards the process tries to become root
again, because a system has many ways to keep a right (saved ids, capabilities). If that works, the server does not run.
"""

import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..errors import UsageError, ZibaiError

MOST_LINKS: Final = 40
"""Links in one path that are followed, as many as Linux follows."""


@dataclass(frozen=True)
class Identity:
    """The user and group of the server. ``login`` and ``home`` are empty for a number without an entry in the
    system."""

    name: str
    uid: int
    gid: int
    login: str = ""
    home: str = ""

    @property
    def owner(self) -> tuple[int, int]:
        """User and group, as numbers."""
        return self.uid, self.gid

    def adapt_environment(self) -> None:
        """Set HOME and similar variables to those of the user: root's directories are useless to this user."""
        if sys.platform != "win32" and self.uid != os.geteuid():
            os.environ.pop("XDG_RUNTIME_DIR", None)
            if self.login:
                os.environ.update(HOME=self.home, USER=self.login, LOGNAME=self.login)

    def assume(self) -> None:
        """Become this user and group for good. Raises :class:`ZibaiError`; then the process must end."""
        if sys.platform == "win32":
            return
        uid, gid = os.getuid(), os.getgid()
        try:
            if self.login:
                os.initgroups(self.login, self.gid)
            else:
                os.setgroups([self.gid])
            os.setgid(self.gid)
            os.setuid(self.uid)
        except OSError as error:
            raise ZibaiError(f"cannot become {self.name}: {error.strerror}") from error
        self._verify(uid, gid)
        # Workers are started with it, and a single process still has to import modules from beside it.
        if sys.executable and not os.access(sys.executable, os.X_OK):
            raise ZibaiError(
                f"{self.name} may not run {sys.executable}; install Python and zibai where that is possible"
            )

    def may_redirect(self, path: str) -> bool:
        """Whether this user, or another one beside root, can put a link in the place of a directory of ``path``.

        Root must not make a file there: it could be made in any directory of root. The directory itself that the file
        is in may be the user's.
        """
        if sys.platform == "win32" or self.uid == 0:
            return False
        if ".." in path.split("/"):
            return True  # with "..", the path means one place before links are followed, and maybe another one after
        groups = {self.gid, *(os.getgrouplist(self.login, self.gid) if self.login else [])}
        current, rest, links = "/", os.path.dirname(os.path.abspath(path)).split("/")[::-1], 0
        while rest:
            name = rest.pop()
            if name in {"", ".", ".."}:
                current = os.path.dirname(current) if name == ".." else current
                continue
            entry = os.path.join(current, name)
            try:
                folder, info = os.stat(current), os.lstat(entry)
            except OSError:
                return True  # it is missing, and the user may create it as anything
            if _may_replace(folder, info, groups):
                return True
            if stat.S_ISLNK(info.st_mode):
                links += 1
                target = os.readlink(entry)
                if links > MOST_LINKS:
                    return True
                current = "/" if target.startswith("/") else current
                rest += target.split("/")[::-1]
            else:
                current = entry
        return False

    def _verify(self, uid: int, gid: int) -> None:
        """Check that the process cannot get the former ``uid`` and ``gid`` back."""
        if sys.platform == "win32":
            return
        groups = {self.gid, *(os.getgrouplist(self.login, self.gid) if self.login else [])}
        changed = {os.getuid(), os.geteuid()} == {self.uid} and {os.getgid(), os.getegid()} == {self.gid}
        if not changed or not groups.issuperset(os.getgroups()):
            raise ZibaiError(f"the change to {self.name} was incomplete; not serving")
        if self.uid == 0:
            return  # only the group was to change
        ways = [
            *((way, old) for way in (os.setuid, os.seteuid) for old in {0, uid} - {self.uid}),
            *((way, old) for way in (os.setgid, os.setegid) for old in {0, gid} - {self.gid}),
        ]
        for way, old in ways:
            try:
                way(old)
            except PermissionError:
                continue
            raise ZibaiError(f"the change to {self.name} could be undone; not serving")


def _may_replace(folder: os.stat_result, entry: os.stat_result, groups: set[int]) -> bool:
    """Whether a user other than root can replace an entry of a folder: its owner, one of ``groups``, or any user."""
    if folder.st_uid != 0:
        return True
    is_writable = folder.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWGRP and folder.st_gid in groups)
    return bool(is_writable) and not (folder.st_mode & stat.S_ISVTX and entry.st_uid == 0)


def find(user: str | None, group: str | None) -> Identity | None:
    """The identity of ``--user`` and ``--group``; None without them, or if it is the present one. Raises ZibaiError."""
    if user is None and group is None:
        return None
    if sys.platform == "win32":
        flag = "--user" if user is not None else "--group"
        raise UsageError(f"{flag}: not on this system; start the server as that user")
    import pwd

    uid, gid, login, home = os.geteuid(), -1, "", ""
    if user is not None:
        entry = None
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            if not _is_number(user):
                raise UsageError(f"--user: there is no user {user!r}") from None
            uid = int(user)
            with suppress(KeyError):
                entry = pwd.getpwuid(uid)
        if entry is not None:
            uid, gid, login, home = entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir
    if group is not None:
        gid = find_group(group, "--group")
    if gid < 0:
        raise UsageError(f"--user: {user} has no entry in the system's list of users; name its --group too")
    if {os.getuid(), os.geteuid()} == {uid} and {os.getgid(), os.getegid()} == {gid}:
        return None
    name = f"user {user}" if user is not None else f"group {group}"
    if os.geteuid() != 0:
        raise ZibaiError(f"no permission to become {name}; start the server as root")
    return Identity(name, uid, gid, login, home)


def find_group(group: str, flag: str) -> int:
    """The number of a group, by its name or number; raises UsageError, which names the flag."""
    if sys.platform == "win32":
        return -1
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if not _is_number(group):
            raise UsageError(f"{flag}: there is no group {group!r}") from None
        return int(group)


def _is_number(name: str) -> bool:
    """Whether it may be the number of a user or group; the highest number is no user to system calls."""
    return name.isascii() and name.isdecimal() and int(name[:20]) < 2**32 - 1
