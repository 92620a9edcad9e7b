"""Imports run down, from the commands to the checks, without an exception."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lrm_lightning"
# From the bottom to the top: a room may import what lies below it, and itself.
LAYERS = (
    {"checks", "errors"},
    {"runs", "losses"},
    {"diagnostics"},
    {"models"},
    {"attacks", "data"},
    {"evaluation", "methods", "tracking"},
    {"reporting", "training"},
    {"cli"},
    {"dashboard", "evaluate", "export", "report", "train", "transfer", "__main__", ""},
)
HEAVY = {"torch", "lightning", "torchmetrics", "wandb"}


def _files():
    """Dotted name of each module of the package to its file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = _files()


def _imports(path, *, lazy):
    """Dotted names that a file imports: with ``lazy`` anywhere, else when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if node in later and not lazy:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _modules(names):
    """The package's modules that these names need, packages on the way included."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE:
            prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            found |= prefixes & FILES.keys()
    return found


def _reached(start):
    """Every module of the package that importing ``start`` imports, itself included."""
    reached, todo = set(), _modules({start})
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= _modules(_imports(FILES[module], lazy=False)) - reached
    return reached


def _room(module):
    parts = [*module.split("."), ""]
    return "__main__" if "__main__" in parts else parts[1]  # a room's command is a command


def _layer(room):
    (number,) = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    return number


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_its_own_room_and_what_lies_below(module):
    room = _room(module)
    # `lrm_lightning/__init__.py` names what the package offers; importing it imports nothing.
    others = {_room(each) for each in _modules(_imports(FILES[module], lazy=True)) if _room(each)}
    above = {each for each in others - {room} if _layer(each) >= _layer(room)}
    assert not above, f"{module} imports {', '.join(sorted(above))}"


@pytest.mark.parametrize(
    "module", [each for each in FILES if _room(each) in ("reporting", "report", "__main__")]
)
def test_a_report_needs_no_network(module):
    for reached in _reached(module):
        names = {name.split(".")[0] for name in _imports(FILES[reached], lazy=False)}
        assert not names & HEAVY, f"{module} reaches {reached}, which imports {names & HEAVY}"


@pytest.mark.parametrize("room", ["checks", "errors", "losses", "attacks", "models", "runs"])
def test_what_lies_below_does_not_know_lightning(room):
    for module in FILES:
        if _room(module) == room:
            names = {name.split(".")[0] for name in _imports(FILES[module], lazy=True)}
            assert "lightning" not in names, module


def test_the_launcher_imports_nothing_heavy_before_it_is_used():
    files = sorted((ROOT / "hydra_plugins").rglob("*.py"))
    assert files
    for path in files:
        names = _imports(path, lazy=False)
        rooms = {_room(each) for each in _modules(names)} - {""}
        assert rooms <= {"checks", "errors", "runs", "evaluation"}, path
        assert not {name.split(".")[0] for name in names} & HEAVY, path


def test_hydra_demands_a_namespace():
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    ["lrm_lightning, hydra_plugins.lrm_process_launcher.launcher", "lrm_lightning.report"],
)
def test_importing_them_is_light(modules):
    code = (
        f"import sys, {modules};"
        f"heavy = {HEAVY | {'sklearn', 'scipy'}} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
