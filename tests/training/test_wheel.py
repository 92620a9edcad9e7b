"""The wheel, installed elsewhere, sweeps over a defence of one's own that it knows nothing of."""

import importlib.util
import json
import os
import zipfile
from functools import partial
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MISSING = [name for name in ("build", "hatchling", "pip") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

DEFENSE = """
from lrm_lightning.methods import PGDTraining

class Mine(PGDTraining):
    pass
"""
YAML = """
defaults: [pgd]
_target_: my_defense.Mine
name: mine
"""


@pytest.mark.slow
def test_installed_wheel_sweeps(tmp_path, python):
    python = partial(python, fresh=True)
    dist, site, elsewhere = (tmp_path / name for name in ("dist", "site", "elsewhere"))
    (elsewhere / "conf/method").mkdir(parents=True)
    (elsewhere / "conf/method/mine.yaml").write_text(YAML)
    (elsewhere / "my_defense.py").write_text(DEFENSE)
    build = ("-m", "build", "--wheel", "--no-isolation", f"--outdir={dist}")
    python(*build, folder=REPOSITORY, quiet=False)
    (wheel,) = dist.glob("lrm_lightning-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    for yaml in (REPOSITORY / "conf").rglob("*.yaml"):
        name = f"lrm_lightning/conf/{yaml.relative_to(REPOSITORY / 'conf')}"
        assert (name in names) == (yaml.parent.name != "local")  # a machine's own settings
    assert "hydra_plugins/lrm_process_launcher/launcher.py" in names
    assert "hydra_plugins/__init__.py" not in names
    assert "lrm_lightning/py.typed" in names
    assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]

    install = ("install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    python("-m", "pip", *install, f"--target={site}", str(wheel), folder=elsewhere)
    output = python(
        *("-m", "lrm_lightning.train", "-m", "method=pgd,mine", "experiment=demo", "trainer=cpu"),
        *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "attack.steps=1"),
        *("robust_accuracy.n_images=10", "robust_accuracy.test_n_images=10"),
        "hydra.searchpath=[file://conf]",
        folder=elsewhere,
        PYTHONPATH=f"{site}{os.pathsep}{elsewhere}",
    )
    table = output[output.index("PGD-20 %") :]
    for method in ("pgd", "mine"):
        (path,) = elsewhere.glob(f"runs/digits/{method}-*/record.json")
        record = json.loads(path.read_text())
        assert (record["method"], record["n"]) == (method, 10)
        assert record["versions"]["lrm_lightning"] == wheel.name.split("-")[1]
        assert record["git"] == {"commit": None, "dirty": None}
        (row,) = [line for line in table.splitlines() if line.split()[:1] == [method]]
        assert f"{100 * record['metrics']['clean']:.1f} [" in row
        assert str(path.parent.relative_to(elsewhere)) in row
