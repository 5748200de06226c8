"""The floors of the house: an import goes down or sideways, never up, never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import honne

ROOT = Path(honne.__file__).parent

FLOORS = (
    ("errors", "torchvision_guard", "console"),
    ("labels", "codes", "batch", "citations"),
    (
        "data",
        "faces",
        "features",
        "cues",
        "networks",
        "losses",
        "metrics",
        "schedules",
        "calibration",
        "thresholds",
        "smoothing",
    ),
    ("methods",),
    (
        "recipe",
        "recipe_files",
        "models",
        "card",
        "curves",
        "building",
        "training",
        "staging",
        "fitting",
        "runs",
        "evaluation",
        "explain",
        "analysis",
        "audit",
        "export",
        "interop",
        "report",
    ),
    ("demo", "doctor", "serve", "cli", "__main__"),
)
FORBIDDEN = {("faces", "data")}  # on one floor, but faces are cropped the same with no data set in sight


def modules() -> dict[str, ast.Module]:
    """Dotted name below `honne` -> syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    del found[""]  # honne/__init__.py names the public functions as strings and imports nothing of ours but the guard
    return found


MODULES = modules()


def imports(node: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """Modules of honne that a module imports, but not those that only a type checker imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.removeprefix("honne.") for alias in child.names if alias.name.startswith("honne."))
        elif isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "honne":
            package = child.module.removeprefix("honne").removeprefix(".")
            names = (f"{package}.{alias.name}".removeprefix(".") for alias in child.names)
            yield from {name if name in MODULES else package for name in names} - {""}
        assert not (isinstance(child, ast.ImportFrom) and child.level), "imports are absolute"
        yield from imports(child, inside_functions)


def floor(module: str) -> int:
    """Which floor a module is on."""
    return next(number for number, names in enumerate(FLOORS) if module.split(".")[0] in names)


def test_every_module_is_on_one_floor() -> None:
    on_floors = [name for names in FLOORS for name in names]
    assert len(on_floors) == len(set(on_floors))
    assert {name.split(".")[0] for name in MODULES} <= set(on_floors)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    for imported in imports(MODULES[module]):
        assert floor(imported) <= floor(module), f"honne.{module} imports honne.{imported}, which is above it"
        assert (module.split(".")[0], imported.split(".")[0]) not in FORBIDDEN


def test_there_is_no_circle() -> None:
    """Among the imports that run when a module is imported; `Model.analyze` reaches sideways when it is called."""
    graph = {name: set(imports(tree, inside_functions=False)) - {name} for name, tree in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_command_line_imports_nothing_heavy() -> None:
    assert set(imports(MODULES["cli"], inside_functions=False)) <= {"errors"}
