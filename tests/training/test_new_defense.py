"""A defence of one's own: a file and a YAML anywhere, nothing else touched."""

import json
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

DEFENSE = '''
from lrm_lightning.checks import check_number
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods import Defense


class Confidence(Defense):
    """Keeps the largest logit small."""

    def __init__(self, network, *, strength=0.5, **shared):
        super().__init__(network, **shared)
        check_number("strength", strength, low=0)
        self.strength = strength

    def loss_terms(self, batch):
        logits = self(batch.x)
        return {
            "natural": soft_cross_entropy(logits, self.training_targets(batch)),
            "confidence": self.strength * logits.amax(dim=1).square().mean(),
        }
'''

YAML = """
_target_: my_defense.Confidence
name: confidence
epochs: 3
strength: 0.5
smoothing: 0.0
squeeze_weight: 0.0
mixing: none
mixing_alpha: 1.0
"""


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, str]:
    """The overrides that choose it; the code lies in ``tmp_path/code``."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/my_defense.py").write_text(DEFENSE)
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_text(YAML)
    return "method=mine", f"hydra.searchpath=[file://{tmp_path}/conf]"


def _first_value(run, term: str) -> float:
    return float(run.metrics[0][f"train/loss/{term}"])


def test_its_term_is_logged_and_its_knob_turned(command, mine, finished):
    path = "sys.path.insert(0, 'code')"
    one_step = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")
    command.run(*mine, *one_step, prelude=path)
    plain = finished("confidence")
    assert plain.record["method"] == "confidence"
    assert _first_value(plain, "confidence") > 0
    plain.path.rename(command.folder / "kept")

    command.run(*mine, *one_step, "method.strength=2", prelude=path)
    strong = finished("confidence")
    assert strong.record["config"]["method"]["strength"] == 2
    assert _first_value(strong, "confidence") == pytest.approx(
        4 * _first_value(plain, "confidence"), rel=1e-6
    )
    assert _first_value(strong, "natural") == _first_value(plain, "natural")

    line = command.start(*mine, "method.strength=-1", prelude=path).error()
    assert "method.strength=-1 must be" in line


def test_sweep_over_it_and_others(tmp_path, mine, small, python):
    _, searchpath = mine
    settings = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")
    output = python(
        *("-m", "lrm_lightning.train", "-m", "method=alp,lrm,mine"),
        *(searchpath, *small, *settings),
        folder=tmp_path,
        PYTHONPATH=f"{tmp_path}/code{os.pathsep}{REPOSITORY}",
    )
    records = {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in tmp_path.glob("runs/digits/*/record.json")
    }
    assert sorted(records) == ["alp", "confidence", "lrm"]
    table = output[output.index("clean %") :]
    for name, record in records.items():
        (row,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
        assert f"{100 * record['metrics']['clean']:.1f} [" in row
        assert f"runs/digits/{name}-{record['run_id']}" in row
