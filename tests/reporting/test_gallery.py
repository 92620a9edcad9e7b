"""The gallery's pictures, decoded again."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lrm_lightning.reporting.aggregate import aggregate, load
from lrm_lightning.reporting.gallery import galleries
from lrm_lightning.reporting.parts import Gallery


def decoded(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def shown(records):
    (results,) = aggregate(load([str(records.folder)]))
    found = [each for each in galleries(results) if isinstance(each, Gallery)]
    return found, results.records.skipped


def test_image_perturbation_and_attacked_image(records):
    path = records.paper(records.run("pgd")).with_suffix(".npz")
    x = np.full((1, 3, 4, 4), 102, np.uint8)  # 0.4
    x_adv = np.full((1, 3, 4, 4), 0.4, np.float32)
    x_adv[0, 0, 0, 0] = 0.43  # ten times 0.03 above grey: 0.8
    x_adv[0, 1, 2, 3] = 0.37  # below: 0.2
    x_adv[0, 2, 1, 1] = 0.5  # beyond white
    one = np.array([3])
    records.gallery(
        path, x=x, x_adv=x_adv, index=np.array([42]), y=one, clean=one, adversarial=one + 2
    )
    (gallery,), skipped = shown(records)
    assert skipped == []
    (example,) = gallery.examples
    assert (example.index, example.label, example.clean, example.adversarial) == (
        42,
        "cat",
        "cat",
        "dog",
    )
    assert (decoded(example.image) == 102).all()
    perturbation = decoded(example.perturbation)
    assert perturbation[0, 0].tolist() == [204, 128, 128]
    assert perturbation[2, 3].tolist() == [128, 51, 128]
    assert perturbation[1, 1].tolist() == [128, 128, 255]
    assert decoded(example.attacked)[0, 0].tolist() == [110, 102, 102]


@pytest.mark.parametrize(
    ("names", "label"), [({}, "class 1"), ({"class_names": ["Ann", "Bob"]}, "Bob")]
)
def test_classes_of_a_data_set_of_ones_own(records, names, label):
    path = records.paper(records.run("pgd", data=records.digits | {"name": "faces"} | names))
    records.gallery(path.with_suffix(".npz"))
    (gallery,), _ = shown(records)
    assert gallery.examples[1].label == label


@pytest.mark.parametrize(
    "changed",
    [
        {"x": np.zeros((3, 3, 8, 8), np.float32)},
        {"x_adv": np.zeros((3, 3, 8, 9), np.float32)},
        {"y": np.zeros(2, int)},
        {"clean": np.array(["a", "b", "c"])},
    ],
)
def test_a_foreign_file_is_one_line(records, changed):
    path = records.paper(records.run("pgd")).with_suffix(".npz")
    records.gallery(path, **changed)
    assert shown(records) == ([], [f"{path}: no readable gallery"])


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"not an archive", "pickle"])
def test_a_record_whose_verdicts_are_damaged_is_left_out(records, content):
    path = records.paper(records.run("pgd")).with_suffix(".npz")
    if content == "pickle":  # it must not be opened
        records.gallery(path, index=np.array([{}, {}, {}]))
    else:
        path.write_bytes(content)
    found, (line,) = shown(records)
    assert found == []
    assert line.startswith(f"{path}: it is damaged: ")


@pytest.mark.parametrize("labels", [{}, {"gallery_index": np.arange(3), "gallery_y": np.arange(3)}])
def test_a_file_without_pictures_is_no_fault(labels, records):
    path = records.paper(records.run("pgd")).with_suffix(".npz")
    np.savez(path, index=np.arange(500), **labels)
    assert shown(records) == ([], [])
    np.savez(path, index=np.arange(500), **labels, gallery_x=np.zeros((3, 3, 8, 8), np.uint8))
    assert shown(records) == ([], [f"{path}: no readable gallery"])


def test_a_missing_file_is_no_gallery(records):
    records.paper(records.run("pgd")).with_suffix(".npz").unlink()
    assert shown(records) == ([], [])
