"""The average of the weights: against a loop's, in every place where a run uses it."""

import shutil
from functools import partial

import lightning as L
import pytest
import torch
from torch.optim import SGD

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.export import export_model
from lrm_lightning.methods.ikl import ImprovedKL
from lrm_lightning.models import ResNet
from lrm_lightning.runs.networks import load_model
from lrm_lightning.training.averaging import EMA
from lrm_lightning.training.checkpoints import run_checkpoints

DECAY = 0.8
ATTACK = PGDAttack(eps=0.05, step_size=0.05, steps=1)


def _state(module):
    return {name: each.detach().clone() for name, each in module.state_dict().items()}


def _assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, each in found.items():
        assert torch.equal(each, expected[name]), name


class Loop(L.Callback):
    """The average by a loop of its own, batch norm's statistics included."""

    def __init__(self):
        self.trained, self.averages, self.validated, self.tested = {}, {}, {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        step, self.trained = trainer.global_step, _state(pl_module)
        before = self.averages.get(step - 1, self.trained)
        self.averages[step] = {
            name: (DECAY * before[name] + (1 - DECAY) * each).to(each.dtype) if step > 1 else each
            for name, each in self.trained.items()
        }

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.validated[trainer.global_step] = _state(pl_module)

    def on_test_batch_end(self, trainer, pl_module, *_):
        self.tested = _state(pl_module)


class Copies(L.Callback):
    """Copies each checkpoint that a run writes."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, *_):
        self._copy(trainer)

    def on_train_end(self, trainer, *_):
        self._copy(trainer)

    def _copy(self, trainer):
        for path in self.folder.glob("*.ckpt"):
            step = torch.load(path, weights_only=True)["global_step"]
            shutil.copy(path, self.folder.parent / f"{step}.ckpt")


def _fit(folder, *callbacks, checkpoint=None):
    """Two epochs of three batches; the defence that they have trained, and its Trainer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(depth=1, widths=(4, 4, 8, 8))
    optimizer = partial(SGD, lr=0.1, momentum=0.9)
    defense = ImprovedKL(network, attack=ATTACK, awp=0.01, optimizer=optimizer)
    saving = run_checkpoints(folder, every_minutes=1e-9, best_by=None) if folder else []
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        max_epochs=2,
        limit_train_batches=3,
        limit_test_batches=1,
        log_every_n_steps=1,
        callbacks=[*callbacks, *saving],
    )
    data = DigitsDataModule(val_size=16, batch_size=16, eval_batch_size=16)
    trainer.fit(defense, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return defense, trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An undisturbed run: its defence, its Trainer, the loop beside it, its checkpoints by step."""
    folder = tmp_path_factory.mktemp("ema")
    loop = Loop()
    defense, trainer = _fit(folder / "saved", EMA(DECAY), loop, Copies(folder / "saved"))
    return _state(defense), trainer, loop, folder


def test_average_is_a_loops_and_what_is_validated_and_left(run):
    state, _, loop, _ = run
    assert sorted(loop.averages) == [1, 2, 3, 4, 5, 6]
    _assert_equal(state, loop.averages[6])
    assert sorted(loop.validated) == [3, 6]
    for step, validated in loop.validated.items():
        _assert_equal(validated, loop.averages[step])
    trained = loop.trained
    name = next(name for name in state if name.endswith("running_mean"))
    assert not torch.equal(state[name], trained[name])


def test_average_does_not_touch_the_training(run):
    loop = Loop()
    defense, _ = _fit(None, loop)
    _assert_equal(loop.trained, run[2].trained)
    assert not torch.equal(defense.class_means, torch.full((10, 10), 0.1))  # IKL's, of epoch 1


@pytest.mark.parametrize("step", [2, 3, 5, 6])
def test_resumed_bit_for_bit(step, run, tmp_path):
    state, _, loop, folder = run
    checkpoint = folder / f"{step}.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    _assert_equal(saved["state_dict"], loop.averages[step])
    defense, trainer = _fit(tmp_path, EMA(DECAY), checkpoint=checkpoint)
    assert trainer.global_step == 6
    _assert_equal(_state(defense), state)


def test_test_of_a_checkpoint_is_of_the_average(run):
    _, trainer, loop, folder = run
    given = {"datamodule": trainer.datamodule, "weights_only": True, "verbose": False}
    trainer.test(trainer.lightning_module, ckpt_path=folder / "3.ckpt", **given)
    _assert_equal(loop.tested, loop.averages[3])


@pytest.mark.parametrize("decay", [-0.1, 1, None])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=rf"^decay={decay} must be a number >= 0 and < 1"):
        EMA(decay)


def test_run_exports_and_records_the_average(command, finished, tmp_path):
    command.run("method=trades", "callbacks=ema", "callbacks.ema.decay=0.5")
    run = finished("trades")
    saved = torch.load(run.path / "checkpoints/last.ckpt", weights_only=True)
    weights = dict(load_model(export_model(run.path, tmp_path / "out")).state_dict())
    averaged = {f"network.{name}": each for name, each in weights.items()}
    _assert_equal(averaged, saved["state_dict"])
    name = "network.linear.weight"
    assert not torch.equal(averaged[name], saved["current_model_state"][name])
    assert run.record["config"]["callbacks"]["ema"]["decay"] == 0.5
