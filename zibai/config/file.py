"""The file of options: finding and reading it."""

import os
import re
import stat
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ..errors import UsageError
from ..logger import escape
from .sources import Layer, profiles, read_table
from .values import Setting

FILES: Final = ("zibai.toml", "pyproject.toml")
"""Files that are looked for in the current directory; the first one that has options counts."""


class File(NamedTuple):
    """The options in a file; ``name`` is the name of the table in error messages."""

    name: str
    table: Mapping[str, Any]


def read_file(place: Setting | None, profile: Setting | None) -> list[Layer]:
    """The layers of a file: the profile, then the rest; none if there is no file. Raises UsageError."""
    file = _find() if place is None else _read(place.value, place.origin)
    if file is None:
        if profile is not None:
            raise UsageError(
                f"{profile.origin}: there is no file with profiles here; write zibai.toml, or add --config"
            )
        return []
    layers = [read_table(file.table, file.name)]
    for name in profiles(file.table):  # also those that are not used: a mistake there would wait for the next deploy
        table = file.table[name]
        inner = next(profiles(table), None)
        if inner is not None:
            raise UsageError(f"{file.name}: [{name}.{inner}] is a table within a profile; a profile has only options")
        layer = read_table(table, f"{file.name} [{name}]")
        if profile is not None and name == profile.value:
            layers.insert(0, layer)
    if profile is not None and len(layers) == 1:
        there = ", ".join(profiles(file.table)) or "none"
        raise UsageError(f"{profile.origin}: {file.name} has no profile {profile.value!r}; profiles there: {there}")
    return layers


def _find() -> File | None:
    for name in FILES:
        try:
            with open(name, "rb") as opened:
                status, data = os.fstat(opened.fileno()), opened.read()
        except OSError as error:
            if name == FILES[0] and (isinstance(error, PermissionError) or os.path.lexists(name)):
                # Without this file the server would have other options than those that are written there.
                raise UsageError(f"cannot read {name!r}: {error.strerror}") from None
            continue
        if name == FILES[1] and b"zibai" not in data:
            continue  # also one that is no TOML: this is the file of other tools
        file = _parse(name, data)
        if file is not None:
            if sys.platform != "win32" and os.geteuid() == 0 and (why := _distrust(name, status)):
                raise UsageError(f"{name}: {why}, and root would follow it; to trust it, add --config {name}")
            return file
    return None


def _distrust(name: str, status: os.stat_result) -> str:
    """Why root must not follow a file that the server has found by itself; empty if only root can change it.

    The file decides which modules root imports, which files it writes, and which user it becomes. A ``user`` in it does
    not help: the owner of the file could remove that.
    """
    try:
        link = os.lstat(name)
        folders = {os.curdir, os.path.dirname(os.path.realpath(name))}
        replaceable = any(_is_open(os.stat(folder), sticky=True) for folder in folders)
    except OSError:
        return "it is being replaced"
    if status.st_uid != 0 or link.st_uid != 0:
        return "it belongs to another user"
    if _is_open(status):
        return "another user may write it"
    return "another user may replace it" if replaceable else ""


def _is_open(status: os.stat_result, *, sticky: bool = False) -> bool:
    """Whether other users than root may write a file, or, with ``sticky``, root's entries of a folder."""
    if status.st_uid != 0:
        return True
    if sticky and status.st_mode & stat.S_ISVTX:
        return False
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0))


def _read(path: str, origin: str) -> File:
    if path.endswith((".py", ".ini", ".conf")):
        raise UsageError(f"{origin}: {path!r} is no TOML; zibai migrate {path} translates a gunicorn.conf.py")
    try:
        with open(path, "rb") as opened:
            file = _parse(path, opened.read())
    except OSError as error:
        raise UsageError(f"{origin}: cannot read {path!r}: {error.strerror}") from None
    if file is None:
        raise UsageError(f"{origin}: {path!r} has no table [tool.zibai]")
    return file


def _parse(path: str, data: bytes) -> File | None:
    """The table in a file; None for a file of other tools without a table of zibai."""
    import tomllib  # 4 % of a start, and most servers read no file

    try:
        text = data.decode("utf-8-sig")  # some editors of Windows begin a file with a byte order mark
        found = tomllib.loads(text)
    except UnicodeError:
        raise UsageError(f"{path}: the file is not UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}{_name_key(str(error), text)}") from None
    tools = found.get("tool")
    table = tools.get("zibai") if isinstance(tools, dict) else None
    if os.path.basename(path) == FILES[1]:
        if table is not None and not isinstance(table, dict):
            raise UsageError(f"{path}: tool.zibai must be a table: [tool.zibai]")
        return None if table is None else File(f"{path} [tool.zibai]", table)
    for name, there in (("[tool.zibai]", table), ("[zibai]", found.get("zibai"))):
        if there is not None:
            raise UsageError(f"{path}: {name} is no table of this file; write its options at the top, without a table")
    return File(path, found)


def _name_key(message: str, text: str) -> str:
    """The key of the line in the message of tomllib, without the value, which may be a secret."""
    lines = text.rstrip().split("\n")
    found = re.search(r"at line ([0-9]+)", message)
    line = lines[min(int(found[1]), len(lines)) - 1] if found else lines[-1]
    key = line.partition("=")[0].strip()
    return f": {escape(key[:80])}" if key else ""
