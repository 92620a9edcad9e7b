import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lrm_lightning.data import DigitsDataModule


@pytest.fixture(scope="module")
def digits():
    module = DigitsDataModule(batch_size=100)
    module.setup()
    return module


def test_sizes_and_provenance(digits):
    provenance = digits.provenance()
    fingerprint = provenance.pop("fingerprint")
    assert provenance == {
        "name": "digits",
        "official": True,
        "note": "",
        "n_train": 1257,
        "n_val": 180,
        "n_test": 360,
    }
    assert fingerprint == digits.fingerprint
    assert digits.num_classes == len(digits.class_names) == 10


def test_fingerprint_is_the_hash_of_images_and_labels(digits):
    digest = hashlib.sha256()
    for split in digits.load():
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    assert digits.fingerprint == digest.hexdigest()


def test_images_are_the_digits_four_times_as_large():
    train, test = DigitsDataModule().load()
    images = torch.cat([train.images, test.images])
    assert images.shape == (1797, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])

    pixels, labels = load_digits(return_X_y=True)
    padded = np.pad(pixels.reshape(-1, 8, 8), ((0, 0), (1, 0), (1, 0)), mode="edge")
    own, left, above = padded[:, 1:, 1:], padded[:, 1:, :-1], padded[:, :-1, 1:]
    diagonal = padded[:, :-1, :-1]
    # the second pixel of four lies 1/8 of the way to the digit's previous pixel, the first one 3/8
    for offset, far in ((0, 3 / 8), (1, 1 / 8)):
        near = 1 - far
        large = near * (near * own + far * left) + far * (near * above + far * diagonal)
        wanted = np.round(large * 255 / 16).astype(np.uint8)
        found = images[:, 0, offset::4, offset::4].numpy()
        assert sorted(map(bytes, found)) == sorted(map(bytes, wanted))
    counts = torch.bincount(torch.cat([train.labels, test.labels]))
    assert counts.tolist() == np.bincount(labels).tolist()


def test_test_set_is_stratified_and_the_same_for_every_seed(digits):
    other = DigitsDataModule(seed=9, split_seed=9)
    other.setup()
    assert other.fingerprint == digits.fingerprint
    _, test = digits.load()
    assert all(35 <= count <= 37 for count in torch.bincount(test.labels).tolist())


def test_digits_are_not_flipped_by_default():
    assert not DigitsDataModule().augmentation.flip
