"""The layout of the authors' MATLAB files, read back pixel by pixel."""

import hashlib

import numpy as np
import pooch
import pytest
import scipy.io
import torch

from lrm_lightning.data import SVHNDataModule, svhn
from lrm_lightning.errors import UserError

SIZES = {"train_32x32.mat": 40, "test_32x32.mat": 30}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of two small files that take the official ones' place."""
    rng, md5 = np.random.default_rng(0), {}
    for name, size in SIZES.items():
        labels = rng.permutation(np.arange(size) % 10 + 1).astype(np.uint8)
        pixels = rng.integers(0, 256, (32, 32, 3, size), dtype=np.uint8)
        content = {"X": pixels, "y": labels[:, None]}
        scipy.io.savemat(tmp_path / name, content, do_compression=True)
        md5[name] = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    monkeypatch.setattr(svhn, "FILES", md5)
    downloads = {f"{svhn.URL}/{name}": each for name, each in md5.items()}
    monkeypatch.setattr(SVHNDataModule, "downloads", downloads)
    return tmp_path


def _module(root, **settings):
    return SVHNDataModule(root, **{"val_size": 10, "download": False} | settings)


def test_pixels_and_labels_are_read(root):
    module = _module(root)
    for split, (name, size) in zip(module.load(), SIZES.items(), strict=True):
        saved = scipy.io.loadmat(root / name)
        assert split.images.shape == (size, 3, 32, 32)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        for number, row, column, channel in ((0, 0, 0, 0), (5, 3, 30, 1), (size - 1, 31, 2, 2)):
            pixel = saved["X"][row, column, channel, number]
            assert split.images[number, channel, row, column] == pixel
        digits = [0 if label == 10 else int(label) for (label,) in saved["y"]]
        assert split.labels.tolist() == digits
    module.setup()
    assert module.official
    assert not module.augmentation.flip
    counts = {"n_train": 30, "n_val": 10, "n_test": 30}
    assert module.provenance().items() >= ({"name": "svhn"} | counts).items()


def test_other_files_are_not_parsed(root, monkeypatch):
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("it was parsed"))
    path = root / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        _module(root).setup()
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert str(error.value).startswith(f"{path} has MD5 {md5}, not the official ")
    assert str(error.value).endswith("or use data=arrays for images of your own")


def test_only_what_is_missing_is_fetched(root, monkeypatch):
    (root / "test_32x32.mat").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"no SVHN in .*, where test_32x32\.mat is missing or"):
        _module(root).setup()

    def retrieve(url, known_hash, name, folder, **_):
        assert known_hash == f"md5:{SVHNDataModule.downloads[url]}"
        if not (folder / name).exists():
            (root / "elsewhere").rename(folder / name)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    _module(root, download=True).setup()
    _module(root).setup()
