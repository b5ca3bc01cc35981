"""The floor plan: eleven wings, each of which says what is in it, and no room that is too large to be read."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "zibai"
WINGS = {"cli", "config", "engine", "gateway", "net", "protocol", "server", "supervise", "system", "telemetry", "tls"}
FILES = {"__init__.py", "__main__.py", "clock.py", "errors.py", "importer.py", "logger.py", "py.typed", "version.py"}
DATA = {"config/options.py"}  # a table, which is no harder to read for being long

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def parse(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def test_the_wings() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == WINGS | FILES


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_a_wing_lists_its_modules(wing: str) -> None:
    said = ast.get_docstring(parse(f"{wing}/__init__.py")) or ""
    listed = re.findall(r"^ - (\w+)  ", said, re.MULTILINE)
    there = {path.stem for path in (PACKAGE / wing).iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read(name: str) -> None:
    text = (PACKAGE / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (800 if name in DATA else 400)
    tree = parse(name)
    assert ast.get_docstring(tree), "a module opens with what it is for"
    long = {each.name: size for each in functions(tree) if (size := (each.end_lineno or 0) - each.lineno + 1) > 50}
    assert not long


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_picture_is_the_tree() -> None:
    """docs/pictures/house.svg is drawn from the contract that the import linter checks."""
    assert generator().draw() == (ROOT / "docs" / "pictures" / "house.svg").read_text(encoding="utf-8")


def generator() -> object:
    path: Path = ROOT / "docs" / "generate_house.py"
    spec = importlib.util.spec_from_file_location("generate_house", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_leaf_is_light() -> None:
    """To log does not load the options."""
    code = "import sys, zibai.logger; print(*sorted(name for name in sys.modules if name.startswith('zibai')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["zibai", "zibai.errors", "zibai.logger", "zibai.version"]
