"""The layout of the official files, read back with pickle alone."""

import hashlib
import io
import os
import pickle
import tarfile
from typing import ClassVar

import numpy as np
import pytest
import torch

from lrm_lightning.data import CIFAR100DataModule, cifar100
from lrm_lightning.errors import UserError

FOLDER = "cifar-100-python"
SIZES = {"train": 300, "test": 200}


class _Python2(pickle._Pickler):
    """Writes bytes as the strings of Python 2, with which the official files were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, text):
        self.write(pickle.BINSTRING + len(text).to_bytes(4, "little") + text)
        self.memoize(text)

    dispatch[bytes] = _save_string


def _as_python_2(content):
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue()


@pytest.fixture
def contents(monkeypatch):
    """Both files with the keys of the official ones, whose place they take: name -> bytes."""
    rng, files = np.random.default_rng(0), {}
    for name, size in SIZES.items():
        fine = rng.permutation(np.arange(size) % 100)
        content = {
            b"filenames": [b"a.png"] * size,
            b"batch_label": name.encode(),
            b"fine_labels": fine.tolist(),
            b"coarse_labels": (fine // 5).tolist(),
            b"data": rng.integers(0, 256, (size, 3072), dtype=np.uint8),
        }
        files[name] = _as_python_2(content)
    md5 = {name: hashlib.md5(raw).hexdigest() for name, raw in files.items()}
    monkeypatch.setattr(cifar100, "FILES", md5)
    return files


@pytest.fixture
def folder(tmp_path, contents):
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, raw in contents.items():
        (folder / name).write_bytes(raw)
    return folder


def _error(root):
    with pytest.raises(UserError) as error:
        CIFAR100DataModule(root, download=False, val_size=100).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_fine_labels_and_planes_are_read(folder):
    module = CIFAR100DataModule(folder.parent, download=False, val_size=100)
    for split, name in zip(module.load(), SIZES, strict=True):
        saved = pickle.loads((folder / name).read_bytes(), encoding="latin1")
        for number in (0, 7, SIZES[name] - 1):
            red, green, blue = np.split(np.array(saved["data"][number]), 3)
            image = np.stack([each.reshape(32, 32) for each in (red, green, blue)])
            assert np.array_equal(split.images[number].numpy(), image)
        assert split.labels.tolist() == saved["fine_labels"]
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    module.setup()
    assert module.official
    counts = {"n_train": 200, "n_val": 100, "n_test": 200}
    assert module.provenance().items() >= ({"name": "cifar100"} | counts).items()
    assert len(set(module.class_names)) == module.num_classes == 100


class _Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_other_pickles_are_never_opened(folder, tmp_path):
    (folder / "test").write_bytes(pickle.dumps(_Bomb(tmp_path / "made")))
    message = _error(folder.parent)
    assert message.startswith(f"{folder / 'test'} has MD5 ")
    assert "an unknown pickle is never opened" in message
    assert message.endswith("or use data=arrays for images of your own")
    assert not (tmp_path / "made").exists()


def test_missing_files(folder, tmp_path):
    (folder / "train").unlink()
    assert _error(folder.parent).startswith(f"{folder / 'train'} is missing; move {folder} away")
    empty = tmp_path / "empty"
    assert _error(empty).startswith(f"no CIFAR-100 in {empty}, where {FOLDER}.tar.gz is missing")
    assert f"give the folder above it, data.root={folder.parent}" in _error(folder)


def test_archive_put_there_by_hand(contents, tmp_path, monkeypatch):
    archive = tmp_path / f"{FOLDER}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, raw in (*contents.items(), ("meta", b"x")):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    (url,) = CIFAR100DataModule.downloads
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100DataModule, "downloads", {url: md5})
    module = CIFAR100DataModule(tmp_path, download=False, val_size=0)
    module.setup()
    assert module.provenance()["n_train"] == SIZES["train"]
    assert sorted(os.listdir(tmp_path / FOLDER)) == ["test", "train"]
