"""Attacked images that an evaluation keeps, and accuracy on such images."""

import os

import numpy as np
import pytest
import torch

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import shown_eps
from lrm_lightning.evaluation.tables import print_evaluations
from lrm_lightning.runs.files import file_sha256
from lrm_lightning.runs.networks import load_model

EPS = 0.005
ATTACK = f"attack.eps={EPS}"
# Everything that the strong suite does, as little of it as there can be.
SMALL = (
    *("suite=strong", "n_images=24", "batch_size=12", "seed=3", "suite.pgd_steps=2"),
    *(
        "suite.pgd_restarts=2",
        "suite.targets=1",
        "suite.targeted_steps=1",
        "suite.square_queries=2",
    ),
    *("suite.large_eps_steps=2", "suite.autoattack_iterations=1"),
)
PAPER = ("suite=paper", "suite.steps=3", "suite.table=[1,3]", "suite.logits_at=3")


@pytest.fixture(scope="module")
def digits():
    datamodule = DigitsDataModule()
    datamodule.setup()
    return datamodule.test_dataloader().split


def kept_file(folder, record):
    return folder / f"evaluations/{record.suite}-{record.evaluation_id}-images.npz"


@pytest.mark.slow
def test_images_of_the_strong_suite_are_those_of_all_attacks_together(
    evaluated, make_run, digits, capsys
):
    folder = make_run()
    fixed = (f"runs=[{folder}]", *SMALL, ATTACK, "attack_loss=margin")
    (plain,) = evaluated(*fixed)
    (record,) = evaluated(*fixed, "keep_images=true")
    assert record.metrics == plain.metrics
    assert record.evaluation_id != plain.evaluation_id
    assert record.metrics["worst"] < record.metrics["clean"]
    path = kept_file(folder, record)
    assert record.files[path.name] == file_sha256(path)
    with np.load(path) as arrays:
        x_adv, index = torch.from_numpy(arrays["x_adv"]), arrays["index"]
    x, y = digits.images[index].float() / 255, digits.labels[index]
    assert x_adv.dtype == torch.float32
    assert x_adv.shape == (24, 3, 32, 32)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    farthest = (x_adv - x).abs().max().item()
    assert 0 < farthest <= EPS + 1e-6
    with torch.no_grad():
        correct = load_model(folder)(x_adv).argmax(dim=1) == y
    assert correct.float().mean().item() == pytest.approx(record.metrics["worst"])
    assert (record.kept.attack, record.kept.accuracy) == ("worst", record.metrics["worst"])
    assert record.kept.distance == pytest.approx(farthest)

    (scored,) = evaluated(f"runs=[{folder}]", "suite=kept_images", f"images={path}", ATTACK)
    assert scored.metrics["kept_images"] == record.metrics["worst"]
    assert scored.metrics["clean"] == record.metrics["clean"]
    assert (scored.n, scored.kept.sha256) == (24, file_sha256(path))
    assert scored.kept.distance == pytest.approx(farthest)
    capsys.readouterr()
    print_evaluations([record, scored])
    told = capsys.readouterr().out
    assert f"images of all together in {path.name}: at most {farthest:.6g} from the orig" in told
    assert f"images of {path}: at most {farthest:.6g} from the originals in L-inf" in told
    threat = f"L-inf eps {shown_eps(EPS, 'linf')}"
    assert f"24 test images of Digits, subset seed {record.subset.seed}, {threat}; 95%" in told
    assert f"24 test images of Digits, {threat}; 95%" in told  # no seed has drawn those of the file
    other = make_run("regular-11111111", scale=0.5)
    (elsewhere,) = evaluated(f"runs=[{other}]", "suite=kept_images", f"images={path}", ATTACK)
    assert elsewhere.network.label == "regular-11111111"


@pytest.mark.slow
def test_images_of_the_paper_suite_are_those_of_its_worst_attack(
    evaluated, make_run, digits, tmp_path
):
    folder = make_run()
    (record,) = evaluated(f"runs=[{folder}]", *PAPER, ATTACK, "n_images=null", "keep_images=true")
    worst = min(share for name, share in record.metrics.items() if name != "clean")
    assert record.metrics[record.kept.attack] == record.kept.accuracy == worst
    path = kept_file(folder, record)
    tensor = path.with_suffix(".pt")  # of the whole test set: the form that RobustBench asks for
    assert record.files[tensor.name] == file_sha256(tensor)
    x_adv = torch.load(tensor, weights_only=True)
    assert (x_adv.dtype, x_adv.shape) == (torch.float32, digits.images.shape)
    with np.load(path) as arrays:
        assert (arrays["x_adv"] == x_adv.numpy()).all()
        assert (arrays["index"] == np.arange(len(x_adv))).all()
    for file in (path, tensor):
        (scored,) = evaluated(f"runs=[{folder}]", "suite=kept_images", f"images={file}", ATTACK)
        assert scored.metrics["kept_images"] == worst
    torch.save(x_adv[:7].clone(), tmp_path / "first.pt")
    given = ("suite=kept_images", f"images={tmp_path / 'first.pt'}", ATTACK)
    (first,) = evaluated(f"runs=[{folder}]", *given)
    assert first.n == 7
    path.unlink()  # without its images an evaluation isn't finished
    evaluated(f"runs=[{folder}]", *PAPER, ATTACK, "n_images=null", "keep_images=true")
    assert record.files[path.name] == file_sha256(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_images_that_are_refused(evaluated, make_run, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, x = make_run(), digits.images[:4].float().numpy() / 255
    index = np.arange(4)
    moved = x.copy()
    moved[2, 0, 5, 5] += np.where(moved[2, 0, 5, 5] > 0.5, -0.02, 0.02)
    beyond = x.copy()
    beyond[1, 0, 0, 0] = 1.25
    for name, arrays in {
        "good": {"x_adv": x, "index": index},
        "moved": {"x_adv": moved, "index": index},
        "beyond": {"x_adv": beyond, "index": index},
        "nan": {"x_adv": np.full_like(x, np.nan), "index": index},
        "double": {"x_adv": x.astype(np.float64), "index": index},
        "small": {"x_adv": x[:, :, :9], "index": index},
        "twice": {"x_adv": x, "index": np.array([0, 1, 1, 2])},
        "late": {"x_adv": x, "index": np.array([0, 1, 2, 99999])},
        "bare": {"x": x},
        "pickled": {"x_adv": np.array([Evil()], dtype=object), "index": index},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    torch.save(Evil(), tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("no tensor")
    (tmp_path / "empty.pt").write_text(".")  # torch.load: pop from an empty list

    def score(name, *more):
        return evaluated(f"runs=[{folder}]", "suite=kept_images", f"images={name}", *more)

    assert score("good.npz", ATTACK)[0].kept.distance == 0
    messages = {
        "moved.npz": r"image 2 is 0\.02 from .* L-inf, more than eps = 0\.005; give .*data\.name",
        "beyond.npz": "go from 0 to 1.25, not from 0 to 1",
        "nan.npz": "go from nan to nan",
        "small.npz": r"have shape \(4, 3, 9, 32\), but the originals \(4, 3, 32, 32\)",
        "late.npz": "there is no test image 99999, only 360",
        "absent.npz": "images=absent.npz: there is no such file",
        **dict.fromkeys(
            [
                "double.npz",
                "twice.npz",
                "bare.npz",
                "pickled.npz",
                "evil.pt",
                "text.pt",
                "empty.pt",
            ],
            r"images=\w+\.\w+ must be an .npz of x_adv",
        ),
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as error:
            score(name, ATTACK)
        assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "evil").exists()
    assert score("moved.npz", "attack.eps=0.03")[0].kept.distance == pytest.approx(0.02, abs=1e-6)
    with pytest.raises(UserError, match="suite=kept_images needs images=PATH"):
        evaluated(f"runs=[{folder}]", "suite=kept_images")
    with pytest.raises(UserError, match="images is of suite=kept_images, not of suite=paper"):
        evaluated(f"runs=[{folder}]", "suite=paper", "images=good.npz")
    with pytest.raises(UserError, match="keep_images='yes' must be true or false"):
        evaluated(f"runs=[{folder}]", "suite=paper", "keep_images='yes'")
