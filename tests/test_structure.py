"""The structure of the repository: sizes, imports, names."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("worldmodel", "planners", "envs")
FILES = {
    str(path.relative_to(ROOT)): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULE_LINES, CLASS_LINES, FUNCTION_LINES, VERB_LINES, JSON_LINES = 450, 250, 80, 80, 300
# Packages of worldmodel/ from low to high: no file imports from a higher layer. `agent.py` and
# `wrappers.py` lie between packages; the verbs at the root are on top.
LAYERS = (
    ("errors",),
    ("cli",),
    ("data", "encoders"),
    ("models",),
    ("training", "control"),
    ("agent",),
    ("wrappers", "measure"),
    ("deploy", "studies", "webapp"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
VERBS = len(LAYERS)
ENVIRONMENTS = re.compile(r"push[-_ ]?t(?![a-z])|maze|chip", re.IGNORECASE)
CHECKPOINTS = [path.name for path in (ROOT / "worldmodel/checkpoints").iterdir() if path.is_dir()]
# Names of bundled checkpoints, but not in paths of datasets such as data/NAME.
BUNDLED = re.compile(rf"(?<![\w/])({'|'.join(sorted(CHECKPOINTS, reverse=True))})(?!\w)")


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def module_of(name: str) -> str:
    """``worldmodel/cli/__init__.py`` as ``worldmodel.cli``."""
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(name): name for name in FILES}


def imports(name: str, at_import_time: bool = False) -> set[str]:
    """Modules of the project that a file imports; `at_import_time`: not those inside functions or
    under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(each if each in MODULES else str(node.module) for each in inner)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(name))
    return {each for each in found if each in MODULES}


def definitions(kind: type | tuple[type, ...]) -> Iterator[tuple[str, ast.AST]]:
    for name in FILES:
        for node in ast.walk(parsed(name)):
            if isinstance(node, kind):
                yield name, node


def assert_none(wrong: Iterable[str]) -> None:
    found = list(wrong)
    assert not found, "\n" + "\n".join(found)


def lines(node: ast.AST) -> int:
    return int(node.end_lineno - node.lineno + 1)  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------- sizes
def test_modules_are_short() -> None:
    counts = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert_none(f"{name}: {count}" for name, count in counts.items() if count > MODULE_LINES)


def test_classes_and_functions_are_short() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    assert_none(
        f"{name}: {node.name} has {lines(node)} lines"  # type: ignore[attr-defined]
        for kind, limit in ((ast.ClassDef, CLASS_LINES), (functions.__args__, FUNCTION_LINES))
        for name, node in definitions(kind)
        if lines(node) > limit
    )


def test_json_files_are_short() -> None:
    folders = ("worldmodel", "results", "configs", "docs", "examples")
    counts = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.json")
    }
    assert_none(f"{name}: {count}" for name, count in counts.items() if count > JSON_LINES)
    for name in counts:
        json.loads((ROOT / name).read_text())


def test_modules_with_a_main_are_thin() -> None:
    """Library code lies in packages, the commands at the root of worldmodel/."""
    found = []
    for name in FILES:
        mains = [node for node in parsed(name).body if getattr(node, "name", None) == "main"]
        count = len(FILES[name].read_text().splitlines())
        is_verb = Path(name).parent == Path("worldmodel") or Path(name).name == "__main__.py"
        if mains and (not is_verb or count >= VERB_LINES):
            found.append(f"{name}: {count} lines")
    assert_none(found)


# -------------------------------------------------------------------------------------- imports
def level(module: str) -> int:
    parts = module.split(".")
    return LEVEL.get(parts[1], VERBS) if len(parts) > 1 else -1


def test_no_import_from_a_higher_layer() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        if name.startswith("worldmodel/") and module_of(name) != "worldmodel"
        for other in sorted(imports(name))
        if other.startswith("worldmodel.") and level(other) > level(module_of(name))
    ]
    assert_none(wrong)


def test_planners_and_envs_import_no_other_package() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        for other in sorted(imports(name))
        if not name.startswith("worldmodel/") and other.split(".")[0] != name.split("/")[0]
    ]
    assert_none(wrong)


def test_no_import_cycle() -> None:
    graph = {
        module: {each for each in imports(name, at_import_time=True) if each != module}
        for module, name in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                if not module.startswith(f"{other}."):  # a package comes before its modules
                    visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


# ---------------------------------------------------------------------------------------- names
def _code_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names, attributes and strings of the code, with their line; no docstrings, no comments."""
    texts = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in texts:
                yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def test_no_environment_is_named_outside_envs() -> None:
    """Except names of bundled checkpoints; `Task` tells all that differs between environments."""
    found = [
        f"{name}:{line}: {text[:60]}"
        for name in FILES
        if not name.startswith("envs/")
        for line, text in _code_strings(parsed(name))
        if ENVIRONMENTS.search(BUNDLED.sub("", text))
    ]
    assert_none(found)


def test_no_environment_class_is_checked_by_type() -> None:
    classes = {
        node.name  # type: ignore[attr-defined]
        for name, node in definitions(ast.ClassDef)
        if name.startswith("envs/")
    }
    found = [
        f"{name}:{node.lineno}"  # type: ignore[attr-defined]
        for name, node in definitions(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance"  # type: ignore[attr-defined]
        if {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)} & classes  # type: ignore[attr-defined]
        if not name.startswith("envs/")
    ]
    assert_none(found)


def test_no_name_is_defined_twice() -> None:
    """Public classes and functions, except the ones that each command or study has: ``main``,
    ``table`` (its result as Markdown) and ``draw`` (its plot)."""
    places = defaultdict(set)
    for name in FILES:
        for node in parsed(name).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(name)
    allowed = {"main", "table", "draw"}
    assert_none(
        f"{name}: {', '.join(sorted(files))}"
        for name, files in places.items()
        if len(files) > 1 and name not in allowed
    )


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
