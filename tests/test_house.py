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
LONG = {  # modules of more than 300 lines, and the most that each may have
    "config/options.py": 850,  # a table, which is no harder to read for being long
}
# Classes of more than 20 attributes: the exchange of ASGI, since another object for each request costs 4 % of it.
MANY = {"HttpExchange", "Responding", "WebSocketExchange"}
TABLES = {"Options", "Option"}  # each attribute is an option, or a word of its declaration

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
    assert len(text.splitlines()) <= LONG.get(name, 300)
    tree = parse(name)
    assert ast.get_docstring(tree), "a module opens with what it is for"
    long = {each.name: size for each in functions(tree) if (size := (each.end_lineno or 0) - each.lineno + 1) > 50}
    assert not long


def test_an_object_can_be_kept_in_mind() -> None:
    """At most 20 attributes, those of its bases, too: slots, fields of a dataclass, and what its methods set."""
    classes = {
        (name, node.name): node for name in MODULES for node in ast.walk(parse(name)) if isinstance(node, ast.ClassDef)
    }
    known = {node.name: node for node in classes.values()}

    def collect(node: ast.ClassDef) -> set[str]:
        bases = (known.get(ast.unparse(base).rpartition(".")[2]) for base in node.bases)
        return attributes(node).union(*(collect(base) for base in bases if base not in (None, node)))

    sizes = {name: len(collect(node)) for (_, name), node in classes.items()}
    assert {name for name, size in sizes.items() if size > 20} == MANY | TABLES


def attributes(node: ast.ClassDef) -> set[str]:
    found = set()
    is_dataclass = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    for each in node.body:
        match each:
            case ast.Assign(targets=[ast.Name("__slots__")], value=value):
                found |= {slot.value for slot in ast.walk(value) if isinstance(slot, ast.Constant)}
            case ast.AnnAssign(target=ast.Name(name)) if is_dataclass:
                found.add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in ast.walk(each):
                    match part:
                        case ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store()):
                            found.add(name)
    return found


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
