"""A whole run, offline: what its file holds is compared with what the run directory holds."""

import json
import runpy
import warnings
from csv import DictReader
from pathlib import Path

import pytest
import torch
import yaml

from lrm_lightning.training.lightning_internals import quieten
from lrm_lightning.training.run import train

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
read = runpy.run_path(str(HERE / "wandb_file.py"))["read"]
N_VAL, N_TEST, EPOCHS = 20, 30, 2
RUN = (
    "method=alp",
    "data=digits",
    "data.batch_size=16",
    "data.val_size=40",
    "data.eval_batch_size=16",
    "model=resnet_tiny",
    "model.widths=[4,4,4,4]",
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.limit_train_batches=3",
    "trainer.limit_test_batches=2",
    "trainer.log_every_n_steps=1",
    "attack.steps=1",
    "scheduler.warmup_epochs=0",
    "optimizer.lr=0.05",
    f"robust_accuracy.n_images={N_VAL}",
    f"robust_accuracy.test_n_images={N_TEST}",
    "logger=wandb",
    "logger.wandb.checkpoint=true",
    "logger.wandb.tags=[small]",
    "sweep=smoothing",
)


@pytest.fixture
def cfg(tmp_path, composed):
    return composed("config", *RUN, f"runs_dir={tmp_path}")


def _train(cfg, folder):
    with warnings.catch_warnings():
        quieten()
        return train(cfg, folder)


def _plotted():
    """Metrics and settings in the dashboard's specification, whatever kind of panel."""
    found = {"summary": set(), "config": set()}
    specification = yaml.safe_load((HERE / "dashboard.yaml").read_text())
    for section in specification["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            settings = panel["config"]
            names = [f"summary:{name}" for name in settings.get("metrics", [])]
            names += [
                settings[axis] for axis in ("xAxis", "yAxis") if ":" in settings.get(axis, "")
            ]
            names += [f"config:{settings['groupBy']}"] if "groupBy" in settings else []
            assert names
            for kind, _, name in (each.partition(":") for each in names):
                found[kind].add(name)
    return found["summary"], found["config"]


def test_a_run_offline_is_read_back_key_by_key(alone, cfg, tmp_path, capsys):
    folder = tmp_path / "alp-0123abcd"
    _train(cfg, folder)
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "W&B" in each]
    assert line.startswith("W&B: offline (no key")

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = read(file)
    assert found.run.run_id.startswith("alp-0123abcd-")
    assert found.run.display_name == "alp-0123abcd"
    assert (found.run.project, found.run.run_group) == ("lrm_lightning", "smoothing")
    assert (found.run.job_type, list(found.run.tags)) == ("alp", ["small"])
    assert found.exit_code == 0

    # the configuration, and the code's version
    saved = yaml.safe_load((folder / "config.yaml").read_text())["config"]
    assert {key: found.config[key] for key in saved} == saved
    record = json.loads((folder / "record.json").read_text())
    assert found.config["git"] == record["git"]
    assert found.config["versions"] == record["versions"]

    # every number of the metrics' file, at its step and epoch, and nothing else but the media
    rows = [
        {key: value for key, value in row.items() if not key.startswith("_")}
        for row in found.history
    ]
    media, others = [], {}
    for row in rows:
        if "train/images_per_s" in row or "test/examples" in row:
            media.append(row)
        else:
            entry = others.setdefault(row["trainer/global_step"], {})
            assert not (entry.keys() & row.keys()) - {"epoch", "trainer/global_step"}
            entry |= row
    expected = _metrics(folder)
    assert others == {step: row | {"trainer/global_step": step} for step, row in expected.items()}
    assert [row["_step"] for row in found.history] == list(range(len(rows)))

    # the media; what they show is tested in test_wandb_media.py
    *epochs, last = media
    assert [row["epoch"] for row in epochs] == list(range(EPOCHS))
    for kind in ("clean", "adv"):
        counts = [sum(row[f"val/logits/{kind}/histogram"]["values"]) for row in epochs]
        assert counts == [N_VAL * 10] * EPOCHS
    assert len(last["test/examples"]["captions"]) == 8
    for picture in last["test/examples"]["filenames"]:
        assert (file.parent / "files" / picture).is_file()

    # summaries: the last value of everything
    for key in ("val/acc/clean", "val/acc/fgsm", "val/acc/pgd10"):
        values = [row[key] for row in expected.values() if key in row]
        assert len(values) == EPOCHS
        assert found.summary[key] == values[-1]
    assert found.summary["test/acc/pgd20"] == expected[6]["test/acc/pgd20"]

    # the weights that were tested
    (model,) = [each for each in found.artifacts if each.type == "model"]
    (content,) = model.manifest.contents
    assert (model.name, content.path) == (f"model-{found.run.run_id}", "last.ckpt")
    assert Path(content.local_path).stat().st_size == content.size

    # what the dashboard plots
    metrics, settings = _plotted()
    assert len(metrics) > 8
    assert metrics <= {key for row in found.history for key in row}
    for name in settings:
        group, _, key = name.partition(".value.")
        assert key in found.config[group]


def _metrics(folder):
    with (folder / "metrics.csv").open(newline="") as lines:
        rows = [
            {key: float(each) for key, each in row.items() if each} for row in DictReader(lines)
        ]
    return {int(row.pop("step")): row for row in rows}


def test_an_outage_from_beginning_to_end_changes_nothing(
    silent_server, cfg, tmp_path, capsys, monkeypatch
):
    score = _train(cfg, tmp_path / "online")
    lines = [each for each in capsys.readouterr().out.splitlines() if "W&B" in each]
    assert [line[:15] for line in lines] == [
        "W&B: offline (F",
        "W&B: uploading ",
        "W&B: not all is",
    ]
    monkeypatch.delenv("WANDB_API_KEY")
    assert _train(cfg, tmp_path / "offline") == score
    weights = [
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("online", "offline")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    # the same command again: nothing is trained, the rest arrives
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    silent_server.start()
    assert _train(cfg, tmp_path / "online") == score
    out = capsys.readouterr().out
    assert "already finished" in out
    assert "training" not in out.partition("already finished")[2]
    (run,) = silent_server.runs.values()
    assert run.exit_code == 0
    arrived = {}
    for row in run.history:
        arrived.setdefault(row["trainer/global_step"], {}).update(row)
    for step, row in _metrics(tmp_path / "online").items():
        assert {key: arrived[step][key] for key in row} == row
    assert sum("test/examples" in row for row in run.history) == 1
    assert run.artifacts == [f"model-{run.name}"]
