"""The black-box matrix."""

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.evaluation.blackbox import transfer_matrix
from lrm_lightning.evaluation.images import starts
from lrm_lightning.evaluation.journal import Journal

ATTACK = PGDAttack(eps=0.08, step_size=0.02, steps=5)


class Counting(torch.nn.Module):
    """Counts the images that passed with a gradient, and without."""

    def __init__(self, network):
        super().__init__()
        self.network, self.attacked, self.scored = network, 0, 0

    def forward(self, x):
        self.attacked += len(x) * x.requires_grad
        self.scored += len(x) * (not x.requires_grad)
        return self.network(x)


def test_every_cell_is_the_target_on_the_sources_images(images, undefended, robust):
    networks = {"plain": undefended, "pgd": robust}
    correct = transfer_matrix(networks, networks, images, ATTACK, seed=2, batch_size=80)
    start = starts(ATTACK, images, np.arange(80), 2, "blackbox")
    for column, source in enumerate(networks.values()):
        x_adv = ATTACK(source, images.x, images.y, start=start)
        for row, target in enumerate(networks.values()):
            with torch.no_grad():
                expected = target(x_adv).argmax(dim=1) == images.y
            assert (correct[row, column] == expected.numpy()).all()
    # own examples hurt most
    accuracy = correct.mean(axis=2)
    assert accuracy[0, 0] < accuracy[0, 1]
    assert accuracy[1, 1] < accuracy[1, 0]


def test_examples_are_made_once_for_all_targets(images, undefended, robust):
    source, target = Counting(undefended), Counting(robust)
    transfer_matrix({"a": source}, {"b": target, "c": target, "d": robust}, images, ATTACK)
    assert source.attacked == 80 * ATTACK.steps
    assert source.scored == 0
    assert (target.attacked, target.scored) == (0, 160)


def test_resumes(images, undefended, robust, tmp_path):
    networks = {"plain": undefended, "pgd": robust}
    settings = {"images": images, "attack": ATTACK, "batch_size": 30}
    expected = transfer_matrix(networks, networks, **settings)
    journal = Journal(tmp_path / "pieces")
    calls = []

    class Stop(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            if len(calls) == 8:
                raise KeyboardInterrupt
            return robust(x)

    with pytest.raises(KeyboardInterrupt):
        transfer_matrix({"plain": undefended, "pgd": Stop()}, networks, **settings, journal=journal)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("*.npz")}
    assert 3 <= len(kept) < 6
    found = transfer_matrix(networks, networks, **settings, journal=Journal(tmp_path / "pieces"))
    assert (found == expected).all()
    assert {name: (tmp_path / "pieces" / name).stat().st_mtime_ns for name in kept} == kept
