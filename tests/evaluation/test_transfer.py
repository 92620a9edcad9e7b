"""``python -m lrm_lightning.transfer``: the black-box matrix, its record, one line a mistake."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.cache import Cache
from lrm_lightning.evaluation.transfer import transfer_matrix
from lrm_lightning.runs.intervals import wilson_interval

SMALL = ("n_images=30", "steps=2", "batch_size=20")


class Counting(torch.nn.Module):
    """Counts the images that passed with a gradient, and without."""

    def __init__(self, network):
        super().__init__()
        self.network, self.attacked, self.scored = network, 0, 0

    def forward(self, x):
        self.attacked += len(x) * x.requires_grad
        self.scored += len(x) * (not x.requires_grad)
        return self.network(x)


@pytest.fixture
def bench(make_bench):
    return replace(make_bench(), threat=replace(make_bench().threat, steps=5), seed=2)


def test_every_cell_is_the_target_on_the_sources_images(bench, images, undefended, robust):
    networks = {"plain": undefended, "pgd": robust}
    bench = replace(bench, batch_size=80)
    correct = transfer_matrix(bench, networks, list(networks.values()))
    start = bench.starts(bench.threat, np.arange(80), "blackbox")
    for column, source in enumerate(networks.values()):
        x_adv = bench.threat(source, images.x, images.y, start=start)
        for row, target in enumerate(networks.values()):
            with torch.no_grad():
                expected = target(x_adv).argmax(dim=1) == images.y
            assert (correct[row, column] == expected.numpy()).all()
    # own examples hurt most
    accuracy = correct.mean(axis=2)
    assert accuracy[0, 0] < accuracy[0, 1]
    assert accuracy[1, 1] < accuracy[1, 0]


def test_examples_are_made_once_for_all_targets(bench, undefended, robust):
    source, target = Counting(undefended), Counting(robust)
    transfer_matrix(bench, {"a": source}, [target, target, robust])
    assert source.attacked == 80 * bench.threat.steps
    assert source.scored == 0
    assert (target.attacked, target.scored) == (0, 160)


def test_resumes(bench, undefended, robust, tmp_path):
    bench, targets = replace(bench, batch_size=30), [undefended, robust]
    expected = transfer_matrix(bench, {"plain": undefended, "pgd": robust}, targets)
    calls = []

    class Stop(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            if len(calls) == 8:
                raise KeyboardInterrupt
            return robust(x)

    def run(source):
        kept = replace(bench, cache=Cache(tmp_path))
        return transfer_matrix(kept, {"plain": undefended, "pgd": source}, targets)

    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert 3 <= len(kept) < 6
    assert (run(robust) == expected).all()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_matrix_is_recorded(processes, make_run):
    one, other = make_run("a-1"), make_run("b-2", scale=0.5)
    printed = processes.run(
        "lrm_lightning.transfer", f"sources=[{one}]", f"targets=[{one},{other}]", "out=kept", *SMALL
    )
    (path,) = (processes.folder / "kept").glob("transfer-*.json")
    record = json.loads(path.read_text())
    assert (record["schema"], record["kind"]) == (1, "blackbox")
    assert [each["label"] for each in record["sources"]] == ["a-1"]
    assert [each["label"] for each in record["targets"]] == ["a-1", "b-2"]
    assert record["same_network"] == [[True], [False]]
    assert (record["n"], record["attack"]["steps"], record["attack"]["eps"]) == (30, 2, 0.1)
    with np.load(path.with_suffix(".npz")) as arrays:
        correct = arrays["correct"]
        assert len(arrays["index"]) == 30
    assert correct.shape == (2, 1, 30)
    assert record["accuracy"] == correct.mean(axis=2).tolist()
    assert record["intervals"][1][0] == list(wilson_interval(int(correct[1, 0].sum()), 30))
    assert "a white-box number" in printed
    assert not (processes.folder / "kept" / "transfer.progress").exists()


def test_is_not_done_again(transferred, make_run, tmp_path, capsys):
    one = make_run("a-1")
    overrides = (f"sources=[{one}]", f"targets=[{one}]", f"out={tmp_path}", *SMALL)
    first = transferred(*overrides)
    assert transferred(*overrides) == first
    assert "already evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("targets=[{run}]",), "no sources: give sources="),
        (("sources=[{run}]",), "no targets: give targets="),
        (("sources=[nowhere]", "targets=[{run}]"), "no run in nowhere"),
        (("sources=[{run}]", "targets=[{run}]", "steps=0"), "steps=0 must be"),
        (("sources=[{run}]", "targets=[{run}]", "n_images=0"), "n_images=0 must be"),
        (("sources=[{run}]", "targets=[{run}]", "checkpoint=best"), "best.ckpt is missing"),
        (("sources=[{run}]", "targets=[{run}]", "attack.eps=2e3x"), "attack.eps='2e3x' must be"),
    ],
)
def test_wrong_values(transferred, make_run, overrides, message):
    run = make_run()
    with pytest.raises(UserError, match=message):
        transferred(*(each.format(run=run) for each in overrides))


def test_runs_of_different_threat_models(transferred, make_run, tmp_path):
    one, other = make_run("a-1"), make_run("b-2")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("eps: 0.1", "eps: 0.2"))
    overrides = (f"sources=[{one}]", f"targets=[{other}]", f"out={tmp_path}", *SMALL)
    with pytest.raises(UserError, match="trained against different attacks; choose one"):
        transferred(*overrides)
    record = transferred(*overrides, "attack.eps=0.05")
    assert record.attack["eps"] == 0.05
