"""``python -m lrm_lightning.transfer``: the record of the matrix, one line for every mistake."""

import json

import numpy as np
import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.transfer import transfer

SMALL = ("n_images=30", "steps=2", "batch_size=20")


def test_matrix_is_recorded(processes, make_run):
    one, other = make_run("a-1"), make_run("b-2", scale=0.5)
    printed = processes.run(
        "lrm_lightning.transfer", f"sources=[{one}]", f"targets=[{one},{other}]", "out=kept", *SMALL
    )
    record = json.loads((processes.folder / "kept" / "transfer.json").read_text())
    assert (record["schema"], record["kind"]) == (1, "blackbox")
    assert [each["label"] for each in record["sources"]] == ["a-1"]
    assert [each["label"] for each in record["targets"]] == ["a-1", "b-2"]
    assert record["same_network"] == [[True], [False]]
    assert (record["n"], record["attack"]["steps"], record["attack"]["eps"]) == (30, 2, 0.1)
    with np.load(processes.folder / "kept" / "transfer.npz") as arrays:
        correct = arrays["correct"]
        assert len(arrays["index"]) == 30
    assert correct.shape == (2, 1, 30)
    assert record["accuracy"] == correct.mean(axis=2).tolist()
    assert record["intervals"][1][0] == list(wilson_interval(int(correct[1, 0].sum()), 30))
    assert "a white-box number" in printed
    assert not (processes.folder / "kept" / "transfer.progress").exists()


def test_is_not_done_again(composed, make_run, tmp_path, capsys):
    one = make_run("a-1")
    overrides = (f"sources=[{one}]", f"targets=[{one}]", f"out={tmp_path}", *SMALL)
    first = transfer(composed("transfer", *overrides))
    assert transfer(composed("transfer", *overrides)) == first
    assert "already evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("targets=[{run}]",), "no sources: give sources="),
        (("sources=[{run}]",), "no targets: give targets="),
        (("sources=[nowhere]", "targets=[{run}]"), "no run in nowhere"),
        (("sources=[{run}]", "targets=[{run}]", "steps=0"), "steps=0 must be"),
        (("sources=[{run}]", "targets=[{run}]", "n_images=0"), "n_images=0 must be"),
        (("sources=[{run}]", "targets=[{run}]", "attack.eps=2e3x"), "attack.eps='2e3x' must be"),
    ],
)
def test_wrong_values(composed, make_run, overrides, message):
    run = make_run()
    with pytest.raises(UserError, match=message):
        transfer(composed("transfer", *(each.format(run=run) for each in overrides)))


def test_runs_of_different_threat_models(composed, make_run, tmp_path):
    one, other = make_run("a-1"), make_run("b-2")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("eps: 0.1", "eps: 0.2"))
    overrides = (f"sources=[{one}]", f"targets=[{other}]", f"out={tmp_path}", *SMALL)
    with pytest.raises(UserError, match="trained against different attacks; choose one"):
        transfer(composed("transfer", *overrides))
    record = transfer(composed("transfer", *overrides, "attack.eps=0.05"))
    assert record["attack"]["eps"] == 0.05
