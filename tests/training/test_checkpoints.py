"""Checkpoints: whole whatever happens, and never another's; data is what it was."""

import errno
import os
import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.training.checkpoints import RunCheckpointIO, newest_usable

FILES = RunCheckpointIO("0a1b2c3d")


class Linear(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(40, 30)


def content(step=6):
    return {
        "state_dict": {"layer.weight": torch.full((30, 40), 0.5), "layer.bias": torch.ones(30)},
        "loops": {"fit_loop": {"ready": step}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
        "lr_schedulers": [],
        "callbacks": {},
        "global_step": step,
    }


@pytest.fixture
def path(tmp_path):
    """``last.ckpt`` of step 6, beside ``interrupted.ckpt`` of step 5."""
    FILES.save_checkpoint(content(5), tmp_path / "interrupted.ckpt")
    FILES.save_checkpoint(content(6), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def newest(path, capsys):
    """Name of the checkpoint to go on from, and what was printed."""
    order = [path, path.with_stem("interrupted")]
    found = newest_usable(order, FILES, Linear())
    return Path(found).stem, capsys.readouterr().out.splitlines()


def test_what_was_saved_is_loaded(path, capsys):
    assert newest(path, capsys) == ("last", [])
    saved = FILES.load_checkpoint(path)
    assert (saved["global_step"], saved["loops"]) == (6, {"fit_loop": {"ready": 6}})
    assert torch.equal(saved["state_dict"]["layer.weight"], torch.full((30, 40), 0.5))


def resave(path, change):
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


def flip_data_pkl(path):
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"global_step")] ^= 1
    path.write_bytes(raw)


def zero_weights(path):
    raw = path.read_bytes()
    block = np.full(1200, 0.5, np.float32).tobytes()
    assert raw.count(block) == 1
    path.write_bytes(raw.replace(block, bytes(len(block))))


def save(change=lambda saved: None, files=FILES, name="last"):
    def damage(path):
        saved = content(6)
        change(saved)
        files.save_checkpoint(saved, path.with_stem(name))
        path.with_stem(name).replace(path)

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    {
        "empty": (
            lambda path: path.write_bytes(b""),
            "damaged or holds something else than tensors",
        ),
        "garbage": (
            lambda path: path.write_bytes(b"garbage"),
            ": it is damaged or holds something",
        ),
        "a bit of data.pkl": (flip_data_pkl, "its bytes have changed"),
        "zeros in the weights": (zero_weights, "its bytes have changed"),
        "NaN": (save(lambda each: each["state_dict"]["layer.bias"].fill_(np.nan)), "NaN"),
        "another run": (save(files=RunCheckpointIO("99999999")), "99999999/last"),
        "another file": (save(name="best"), "0a1b2c3d/best"),
        "another network": (save(lambda each: each["state_dict"].popitem()), "another network"),
        "no optimizer": (
            lambda path: resave(path, lambda each: each.pop("optimizer_states")),
            "content has changed",
        ),
        "no momentum": (
            lambda path: resave(path, lambda each: each["optimizer_states"][0]["state"].clear()),
            "content has changed",
        ),
        "step": (
            lambda path: resave(path, lambda each: each.update(global_step=7)),
            "content has changed",
        ),
        "loops": (
            lambda path: resave(path, lambda each: each["loops"]["fit_loop"].update(ready=7)),
            "content has changed",
        ),
    }.values(),
)
def test_a_damaged_newest_falls_back_to_the_one_before_with_a_line(path, capsys, damage, why):
    damage(path)
    found, (line,) = newest(path, capsys)
    assert found == "interrupted"
    assert line.startswith("skipping ")
    assert str(path) in line
    assert why in line


def test_version_01_wrote_no_hash_and_no_run(path, capsys):
    torch.save(content(6), path)
    assert newest(path, capsys) == ("last", [])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_whatever_ends_a_save_the_one_before_is_there(
    path, monkeypatch, capsys, moment, error, tmp_path
):
    before = path.read_bytes()

    def fail(self, *_):
        if self.suffix == ".partial":
            if moment == "write_bytes":
                self.touch()
            raise error
        return os.replace(self, *_)

    with monkeypatch.context() as patched:
        patched.setattr(Path, moment, fail)
        with pytest.raises((Killed, UserError)):
            FILES.save_checkpoint(content(9), path)
    assert path.read_bytes() == before


def test_nothing_is_written_elsewhere(path, monkeypatch):
    """The folder for temporary files may be another file system, from which moving is copying."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("shutil.move", None)
    FILES.save_checkpoint(content(9), path)
    assert FILES.load_checkpoint(path)["global_step"] == 9
    assert FILES.load_checkpoint(path.with_stem("previous"))["global_step"] == 6
    names = ["interrupted.ckpt", "last.ckpt", "previous.ckpt"]
    assert sorted(each.name for each in path.parent.iterdir()) == names


# ---------------------------------------------------------------------- the data of a run

FEW_RECORDS = "from lrm_lightning.data import cifar10\ncifar10.RECORDS = 60\n"
AT_STEP_4 = """
import os, shutil, signal
from lrm_lightning.methods import Regular
loss_terms = Regular.loss_terms

def disturbed(self, batch):
    if self.global_step == 4:
        {what}
    return loss_terms(self, batch)

Regular.loss_terms = disturbed
"""


def write_images(root, seed):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        draw = random.Random(f"{seed} {name}")
        images = (bytes([draw.randrange(10)]) + draw.randbytes(3072) for _ in range(60))
        (folder / f"{name}.bin").write_bytes(b"".join(images))


def test_a_run_stays_with_its_data(command):
    for root, seed in (("one", 1), ("copy", 1), ("other", 2)):
        write_images(command.folder / root, seed)
    common = ("data=cifar10", "method=regular", "data.download=false", "data.batch_size=16")
    common += ("data.require_official=false", "data.val_size=40", "checkpoint.every_minutes=1e-9")

    def start(root, what="pass"):
        prelude = FEW_RECORDS + AT_STEP_4.format(what=what)
        return command.start("data=cifar10", *common, f"data.root={root}", prelude=prelude)

    start("one", "os.kill(os.getpid(), signal.SIGKILL)").ends(-9)
    assert "these are not the cifar10 data that the run was trained on" in start("other").error()
    # Once it is in memory, it may vanish.
    assert "resumed at step 4" in start("one", "shutil.rmtree('one')").ends().output
    assert not (command.folder / "one").exists()
    assert "these are not the cifar10 data that the run was trained on" in start("other").error()
    assert "already finished" in start("copy").ends().output
