"""What GPUs and several processes ask of a run, as far as a processor can show it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.errors import UserError
from lrm_lightning.methods import Regular
from lrm_lightning.runs.directory import RunDir
from lrm_lightning.runs.provenance import check_device
from lrm_lightning.training.batch_norm_sync import BatchNormSync
from lrm_lightning.training.checkpoints import run_checkpoints
from lrm_lightning.training.interruption import TALK_EVERY, Interruption
from lrm_lightning.training.lightning_internals import send_no_signals_each_batch
from lrm_lightning.training.robust_accuracy import RobustAccuracy
from lrm_lightning.training.run import build_trainer


def test_accuracies_of_a_record_know_no_tf32(network, digits, make_trainer):
    seen = []

    def note(*_):
        matmul = torch.get_float32_matmul_precision()
        seen.append((torch.backends.cudnn.allow_tf32, matmul, torch.is_autocast_enabled("cpu")))

    network.register_forward_hook(note)
    callback = RobustAccuracy(PGDAttack(eps=0.02, steps=2), test_steps=[2], test_n_images=8)
    trainer = make_trainer(callback, limit_test_batches=1, precision="bf16-mixed")
    assert torch.backends.cudnn.allow_tf32  # torch's default
    trainer.test(Regular(network), datamodule=digits, verbose=False)
    assert set(seen) == {(False, "highest", False)}


def test_metrics_add_up_on_the_processor_where_the_gpu_has_no_float64():
    callback = RobustAccuracy(PGDAttack())
    callback._begin("val", SimpleNamespace(device=torch.device("mps")))
    metrics = (callback._correctness, callback._pairing, *callback._statistics.values())
    assert {each.device.type for each in metrics} == {"cpu"}


def test_a_device_that_is_seen_but_does_not_compute_is_one_line():
    check_device(torch.device("cpu"))
    missing = "cuda:99" if torch.cuda.is_available() else "cuda:0"
    with pytest.raises(UserError, match=rf"the device {missing} cannot be used: .*trainer=cpu"):
        check_device(torch.device(missing))


@pytest.mark.parametrize(("trainer", "sent"), [("ddp", False), ("auto", None)])
def test_synchronised_buffers_are_not_sent_again(trainer, sent, composed, tmp_path):
    overrides = [f"trainer={trainer}", "trainer.accelerator=cpu", "data=digits"]
    cfg, run_dir = composed("config", *overrides), RunDir(tmp_path / "run", {})
    made = build_trainer(cfg, run_dir, [], validates=True)
    assert getattr(made.strategy, "_ddp_kwargs", {}).get("broadcast_buffers") is sent
    if trainer == "ddp":
        assert made.world_size == 2


def test_a_batch_that_the_processes_cannot_share_is_refused_before_they_start(composed, tmp_path):
    overrides = ["trainer=ddp", "trainer.accelerator=cpu", "data=digits", "data.batch_size=33"]
    cfg, run_dir = composed("config", *overrides), RunDir(tmp_path / "run", {})
    message = r"^data\.batch_size=33 .* multiple of the 2 processes .*, or trainer\.devices$"
    with pytest.raises(UserError, match=message):
        build_trainer(cfg, run_dir, [], validates=True)


@pytest.mark.parametrize(("world_size", "times"), [(1, 2 * TALK_EVERY + 1), (2, 3)])
def test_ranks_talk_once_every_few_batches(world_size, times, make_trainer, monkeypatch, tmp_path):
    talks = []
    trainer = make_trainer(max_epochs=1)
    monkeypatch.setattr(type(trainer), "world_size", world_size)
    for talk in ("reduce_boolean_decision", "broadcast"):
        monkeypatch.setattr(trainer.strategy, talk, lambda said, **_: talks.append(said) or said)
    _, saves = run_checkpoints(tmp_path, every_minutes=5, best_by=None)
    for callback in (Interruption(), saves):
        talks.clear()
        for batch_idx in range(2 * TALK_EVERY + 1):
            module = Regular(nn.Linear(1, 1))
            callback.on_train_batch_end(trainer, module, None, None, batch_idx)
        assert len(talks) == times


def test_lightning_sends_no_signals_before_each_batch(make_trainer, monkeypatch):
    trainer, sent = make_trainer(max_epochs=1), []
    loop = trainer.fit_loop.epoch_loop
    monkeypatch.setattr(type(loop), "_broadcast_sigterm_tensor", lambda _: sent.append("asked"))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    for _ in range(2):
        with pytest.raises(StopIteration):  # there is no batch
            loop.advance(iter([]))
        send_no_signals_each_batch(trainer)
    assert sent == ["asked"]


def test_batch_norm_is_torchs_own_where_gpus_talk(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    synced = BatchNormSync().apply(nn.Sequential(nn.BatchNorm2d(3)))
    assert type(synced[0]) is nn.SyncBatchNorm
