"""A user's own .npz: what is read from it, and one line for each that is not one."""

import itertools
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from lrm_lightning.data import ArraysDataModule
from lrm_lightning.errors import UserError


def _arrays(shape=(28, 28), classes=3):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (60, *shape), dtype=np.uint8),
        "y_train": np.arange(60, dtype=np.int32) % classes,
        "x_test": rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        "y_test": np.arange(20, dtype=np.uint8) % classes,
    }


@pytest.fixture
def save(tmp_path):
    """``save(**arrays)``: the file."""

    def write(**arrays):
        np.savez_compressed(tmp_path / "my.npz", **arrays)
        return tmp_path / "my.npz"

    return write


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((28, 28), 1), ((7, 9, 1), 1), ((40, 24, 3), 3), ((3, 3), 1)],
    ids=str,
)
def test_images_of_any_size(save, shape, channels):
    arrays = _arrays(shape, classes=7)
    module = ArraysDataModule(save(**arrays), val_size=14)
    assert (module.num_classes, module.in_channels) == (7, channels)
    module.setup()
    for split, part in zip(module.load(), ("train", "test"), strict=True):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        assert split.images.shape == (len(x), channels, *shape[:2])
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.labels.tolist() == y.tolist()
        for row, column, channel in ((0, 0, 0), (shape[0] - 1, 1, channels - 1)):
            pixels = x.reshape(*x.shape[:3], channels)[:, row, column, channel]
            assert split.images[:, channel, row, column].tolist() == pixels.tolist()
    provenance = module.provenance()
    assert (provenance["name"], provenance["note"]) == ("arrays", "my.npz")
    assert not provenance["official"]


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=["grey", "colours"])
def test_a_folder_of_images_is_the_file_of_the_same(shape, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays, names = _arrays(shape), ("apple", "bear", "cup")
    for part in ("train", "test"):
        order = np.argsort(arrays[f"y_{part}"], kind="stable")
        for key in ("x", "y"):
            arrays[f"{key}_{part}"] = arrays[f"{key}_{part}"][order]
        pairs = zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)
        for number, (x, y) in enumerate(pairs):
            folder = tmp_path / "mine" / part / names[y]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(folder / f"{number:02}.png")
    file, folder = (ArraysDataModule(root, val_size=10) for root in (save(**arrays), "mine"))
    for module in (file, folder):
        module.setup()
    assert (folder.num_classes, folder.in_channels) == (file.num_classes, file.in_channels)
    assert folder.fingerprint == file.fingerprint
    assert folder.note == "mine"
    (tmp_path / "mine/test/cup/00.png").write_text("no image")
    with pytest.raises(UserError, match=r"^data\.root=mine: cannot identify image file .*00\.png"):
        ArraysDataModule("mine")
    Image.new("L", (9, 9)).save(tmp_path / "mine/test/cup/00.png")
    with pytest.raises(UserError, match=r"^data\.root=mine: all input arrays must have the same"):
        ArraysDataModule("mine")


def test_other_modes_and_classes_of_a_folder_are_not_taken_for_what_they_are_not(tmp_path):
    def saved(name, image):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path

    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    for mode in ("1", "L", "LA"):
        for part, label in itertools.product(("train", "test"), "ab"):
            saved(f"{mode}/{part}/{label}/0.png", Image.fromarray(pixels).convert(mode))
        module = ArraysDataModule(tmp_path / mode, val_size=0)
        assert (module.num_classes, module.in_channels) == (2, 1)
        assert module.load()[0].images.tolist() == [[pixels.tolist()]] * 2
    deep = saved("L/test/b/0.png", Image.fromarray(pixels.astype(np.uint16) * 257))
    with pytest.raises(UserError, match=rf"{deep} has more than 8 bits a channel \(I;16\)"):
        ArraysDataModule(tmp_path / "L")
    saved("1/test/c/0.png", Image.fromarray(pixels))
    with pytest.raises(UserError, match=r"train and test must have the same classes, not \['c'\]"):
        ArraysDataModule(tmp_path / "1")


def test_fingerprint_is_of_the_content(save, tmp_path):
    def fingerprint(path):
        module = ArraysDataModule(path, val_size=10)
        module.setup()
        return module.fingerprint

    arrays = _arrays()
    first = fingerprint(save(**arrays))
    np.savez(tmp_path / "other.npz", **arrays)  # other bytes, the same images
    assert fingerprint(tmp_path / "other.npz") == first
    arrays["x_test"][3, 4, 5] ^= 1
    assert fingerprint(save(**arrays)) != first


BAD = {
    "float": ({"x_train": np.zeros((60, 8, 8))}, r"x_train is float64 of shape \(60, 8, 8\) inst"),
    "planes first": ({"x_test": np.zeros((20, 3, 8, 8), np.uint8)}, "x_test is uint8 of shape"),
    "two channels": ({"x_test": np.zeros((20, 8, 8, 2), np.uint8)}, "x_test is uint8 of shape"),
    "flat": ({"x_train": np.zeros((60, 64), np.uint8)}, "x_train is uint8 of shape"),
    "other size": ({"x_test": np.zeros((20, 8, 8), np.uint8)}, "images of different shapes"),
    "one-hot": (
        {"y_train": np.eye(60, dtype=int)},
        r"y_train is int64 of shape \(60, 60\) instead",
    ),
    "too few labels": (
        {"y_test": np.zeros(19, int)},
        "y_test is int64 of shape .* each of 20 images",
    ),
    "names": ({"y_train": np.array(["cat"] * 60)}, "y_train is <U3 of shape"),
    "from 1": ({"y_train": np.arange(60) % 3 + 1}, "y_train has 3 classes from 1 to 3, y_test"),
    "one class": ({"y_train": np.zeros(60, int)}, "y_train has 1 classes from 0 to 0"),
    "unknown class": (
        {"y_test": np.full(20, 3)},
        "y_test classes from 3 to 3; they must be 0 to C",
    ),
    "negative": ({"y_test": np.full(20, -1)}, "y_test classes from -1 to -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arrays(save, case):
    changed, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        ArraysDataModule(save(**(_arrays() | changed)))
    assert str(error.value).endswith("(docs/data.md)")


class _Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_nothing_in_it_is_executed(save, tmp_path, name):
    bomb = np.empty(60, object)
    bomb[:] = _Bomb(tmp_path / "made")
    arrays = _arrays() | {name: bomb}
    with pytest.raises(UserError, match=r"^data\.root="):
        ArraysDataModule(save(**arrays))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(bomb))
    with pytest.raises(UserError, match=r"^data\.root="):
        ArraysDataModule(tmp_path / "pickle.npz")
    assert not (tmp_path / "made").exists()


def test_no_such_file(save, tmp_path):
    path = save(x_train=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"^data\.root=.*my\.npz: .*y_train"):
        ArraysDataModule(path)
    with pytest.raises(
        UserError, match=r"^data\.root=.*nothing\.npz: No such file or directory; gi"
    ):
        ArraysDataModule(tmp_path / "nothing.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    path.write_bytes(path.read_bytes()[:-30])
    for damaged in (path, tmp_path / "one.npy", tmp_path):
        with pytest.raises(UserError, match=r"^data\.root="):
            ArraysDataModule(damaged)
    with pytest.raises(ValueError, match=r"^root=None must be the \.npz"):
        ArraysDataModule()
