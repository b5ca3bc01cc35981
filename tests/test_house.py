"""The floor plan: eleven wings, each of which says what is in it, and no room that is too large to be read."""

from __future__ import annotations

import ast
import functools
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
    "config/options.py": 890,  # a table, which is no harder to read for being long
}
TABLES = {  # classes of more than 20 attributes: each is an option, or a word of its declaration
    ("config/keywords.py", "RunOptions"),
    ("config/keywords.py", "ServeOptions"),
    ("config/option.py", "Option"),
    ("config/options.py", "Options"),
}

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@functools.cache
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
    """At most 20 attributes, those of its bases, too: slots, what the class declares, and what its methods set."""
    classes = {
        (name, node.name): node for name in MODULES for node in ast.walk(parse(name)) if isinstance(node, ast.ClassDef)
    }

    def collect(module: str, node: ast.ClassDef) -> set[str]:
        bases = (find_base(module, ast.unparse(base), classes) for base in node.bases)
        return attributes(node).union(*(collect(*base) for base in bases if base is not None))

    found = {key: collect(key[0], node) for key, node in classes.items()}
    assert {key for key, names in found.items() if len(names) > 20} == TABLES
    assert {"sock", "codec", "_deadline_before"} <= found["tls/connection.py", "TLSConnection"], "of each base"
    assert {"_parent", "_successors"} <= found["server/control.py", "Control"], "of a base with the same name"


Classes = dict[tuple[str, str], ast.ClassDef]


def find_base(module: str, base: str, classes: Classes) -> tuple[str, ast.ClassDef] | None:
    """The base of a class of ``module``, and where it is; None if it is not of this package."""
    first, _, rest = base.partition("[")[0].partition(".")
    where, name = module, "" if rest else first
    for node in ast.walk(parse(module)):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if (alias.asname or alias.name) == first:
                folder = (PACKAGE / module).parents[node.level - 1] if node.level else PACKAGE.parent
                path = folder.joinpath(*(node.module or "").split("."), *([alias.name] if rest else []))
                package = path / "__init__.py"
                path = package if package.is_file() else path.with_suffix(".py")
                if not path.is_file() or not path.is_relative_to(PACKAGE):
                    return None
                where, name = path.relative_to(PACKAGE).as_posix(), rest or alias.name
    node = classes.get((where, name))
    return None if node is None else (where, node)


def attributes(node: ast.ClassDef) -> set[str]:
    found = set()
    for each in node.body:
        match each:
            case ast.Assign(targets=[ast.Name("__slots__")], value=value):
                found |= {slot.value for slot in ast.walk(value) if isinstance(slot, ast.Constant)}
            case ast.Assign(targets=[ast.Name(name)]):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(name), annotation=kind) if "ClassVar" not in ast.unparse(kind):
                found.add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in ast.walk(each):
                    match part:
                        case ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store()):
                            found.add(name)
    return {name for name in found if not (name.isupper() or name.startswith("__"))}


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


def test_each_word_of_a_daily_test_names_a_variant(unused_words: dict[str, set[str]]) -> None:
    """Else a test that is to run daily does not, and nobody sees it."""
    assert unused_words == {}


def test_no_property_has_a_limit_of_time() -> None:
    """Hypothesis has one of 0.2 s by default, which a loaded machine does not keep."""
    found = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                marks = [ast.unparse(each) for each in node.decorator_list]
                if any(each.startswith("given(") for each in marks) and "deadline=None" not in "".join(marks):
                    found.append(f"{path.name}:{node.lineno}")
    assert not found
