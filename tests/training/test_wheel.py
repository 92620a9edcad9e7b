"""The wheel, installed elsewhere and run from a folder that knows nothing of the checkout."""

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MISSING = [name for name in ("build", "hatchling", "pip") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def test_installed_wheel_trains(tmp_path, python):
    dist, site, elsewhere = (tmp_path / name for name in ("dist", "site", "elsewhere"))
    elsewhere.mkdir()
    build = ("-m", "build", "--wheel", "--no-isolation", f"--outdir={dist}")
    python(*build, folder=REPOSITORY, quiet=False)
    (wheel,) = dist.glob("lrm_lightning-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    for yaml in (REPOSITORY / "conf").rglob("*.yaml"):
        assert f"lrm_lightning/conf/{yaml.relative_to(REPOSITORY / 'conf')}" in names
    assert "hydra_plugins/lrm_process_launcher/launcher.py" in names
    assert "hydra_plugins/__init__.py" not in names
    assert "lrm_lightning/py.typed" in names
    assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]

    install = ("install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    python("-m", "pip", *install, f"--target={site}", str(wheel), folder=elsewhere)
    output = python(
        *("-m", "lrm_lightning.train", "-m", "method=pgd", "experiment=demo"),
        *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "attack.steps=1"),
        *("robust_accuracy.n_images=10", "robust_accuracy.test_n_images=10", "trainer=cpu"),
        folder=elsewhere,
        PYTHONPATH=str(site),
    )
    assert "PGD-20 %" in output
    (path,) = elsewhere.glob("runs/digits/pgd-*/record.json")
    record = json.loads(path.read_text())
    assert record["n"] == 10
    assert record["versions"]["lrm_lightning"] == wheel.name.split("-")[1]
    assert record["git"] == {"commit": None, "dirty": None}
