"""Imports run one way: commands -> methods, callbacks -> attacks, losses, data -> torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lrm_lightning"
COMMANDS = ("train", "evaluate", "transfer", "report", "export", "dashboard", "cli")
SHARED = ("checks", "errors", "draws", "storage")

# part of the package -> the parts that it may import, besides itself
ALLOWED = {
    "__init__": ("models",),
    "checks": (),
    "errors": (),
    "draws": (),
    "storage": ("errors",),
    "losses": ("checks",),
    "diagnostics": ("checks",),
    "attacks": ("checks", "errors"),
    "data": SHARED,
    "models": (*SHARED, "run_dir"),
    "engine": ("checks", "models"),
    "methods": (*SHARED, "engine", "attacks", "data", "losses", "diagnostics"),
    "callbacks": (*SHARED, "engine", "attacks", "data", "losses", "diagnostics"),
    "loggers": SHARED,
    "run_dir": (*SHARED, "evaluation"),
    "config": (*SHARED, "engine", "attacks", "data"),
}


def _imports(path):
    """What a file imports anywhere, and what at its top alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    everywhere, top = set(), set()
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        everywhere |= names
        if node not in lazy:
            top |= names
    return everywhere, top


def _is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _parts(names):
    """The parts of the package among dotted names: ``lrm_lightning.data.batch`` is ``data``."""
    dotted = [name.split(".") for name in names]
    return {each[1] for each in dotted if each[0] == "lrm_lightning" and len(each) > 1}


def _files(part):
    path = PACKAGE / part
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_lies_below_it(part):
    files = _files(part)
    assert files
    for path in files:
        everywhere, _ = _imports(path)
        assert _parts(everywhere) <= {part, *ALLOWED[part], "__version__"}, path


def test_nothing_imports_a_command():
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own not in COMMANDS:
            everywhere, _ = _imports(path)
            assert not _parts(everywhere) & set(COMMANDS), path


def test_what_lies_below_does_not_know_lightning():
    for part in ("checks", "errors", "draws", "storage", "losses", "attacks", "models"):
        for path in _files(part):
            everywhere, _ = _imports(path)
            assert not {name for name in everywhere if name.split(".")[0] == "lightning"}, path


def test_evaluation_does_not_train():
    for path in _files("evaluation"):
        everywhere, _ = _imports(path)
        assert not _parts(everywhere) & {"methods", "callbacks", "loggers", "train"}, path


def test_report_makes_no_network_and_no_attack():
    paths = [*_files("report"), *_files("reporting")]
    assert all(path.exists() for path in paths)
    for path in paths:
        everywhere, _ = _imports(path)
        heavy = {"torch", "lightning", "torchmetrics", "wandb"}
        assert not {name.split(".")[0] for name in everywhere} & heavy, path
        parts = _parts(everywhere)
        assert not parts & {"methods", "callbacks", "loggers", "attacks", "models", "losses"}, path


def test_the_launcher_imports_the_package_only_when_it_is_used():
    files = sorted((ROOT / "hydra_plugins").rglob("*.py"))
    assert files
    for path in files:
        everywhere, top = _imports(path)
        assert _parts(top) <= {"checks", "errors", "evaluation"}, path
        assert not {name.split(".")[0] for name in top} & {"torch", "lightning", "wandb"}, path
        assert not _parts(everywhere) & {"train", "methods", "callbacks", "data", "attacks"}, path


def test_hydra_demands_a_namespace():
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists()


@pytest.mark.slow
def test_importing_the_package_or_the_launcher_is_light():
    code = (
        "import sys, lrm_lightning, hydra_plugins.lrm_process_launcher;"
        "heavy = {'torch', 'lightning', 'wandb', 'sklearn'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
