"""Small made-up records in the formats that train, evaluate and transfer write."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lrm_lightning.report import report
from lrm_lightning.reporting.aggregate import aggregate, load
from lrm_lightning.reporting.figures.style import style

OFFICIAL = {
    "name": "cifar10", "official": True, "fingerprint": "ab" * 32, "note": "",
    "n_train": 45000, "n_val": 5000, "n_test": 10000,
}  # fmt: skip
JPEG = OFFICIAL | {"official": False, "fingerprint": "cd" * 32, "note": "not the official bytes"}
DIGITS = OFFICIAL | {"name": "digits", "fingerprint": "ef" * 32}

NETWORK = "lrm_lightning.models.ResNet"
KNOBS = {"smoothing": 0.0, "squeeze_weight": 0.0, "mixing": "none", "mixing_alpha": 1.0}
METHODS = {
    "regular": {},
    "label_smoothing": {"smoothing": 0.75},
    "pgd": {"alpha": 0.0},
    "alp": {"alpha": 0.0, "pairing_weight": 0.5, "pairing_distance": "l2"},
    "lrm": {
        "alpha": 0.0, "smoothing": 0.1, "squeeze_weight": 1e-3, "mixing": "vh_mixup",
        "pairing_to_adversarial_ratio": 0.125, "pairing_kind": "cross_entropy",
    },
}  # fmt: skip
ATTACK = {"norm": "linf", "eps": 0.03, "step_size": 0.0078, "steps": 10, "random_start": True}
MADE = {
    "versions": {"python": "3.11", "torch": "2.13.0"},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "hardware": {"device": "cpu", "devices": 1, "name": "A processor"},
    "wall_s": 61.4,
}


def wilson(share, n):
    """Written out again, so that the package's own function isn't its witness."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def intervals(metrics, n):
    return {name: wilson(value, n) for name, value in metrics.items()}


class Records:
    """Writes records below a folder."""

    official, jpeg, digits, attack = OFFICIAL, JPEG, DIGITS, ATTACK

    def __init__(self, folder: Path):
        self.folder = folder

    def run(
        self, method="alp", *, seed=0, n=10000, data=OFFICIAL, epochs=101, attack=ATTACK,
        curves=True, metrics=(0.7, 0.5, 0.5, 0.45, 0.4), written="2026-01-02T03:04:05+00:00",
        **knobs,
    ):  # fmt: skip
        settings = KNOBS | METHODS.get(method, {}) | knobs
        config = {
            "method": {"_target_": "x.Y", "name": method, "epochs": 200, **settings},
            "model": {"_target_": NETWORK, "depth": 5, "widths": [16, 16, 32, 64]},
            "data": {"_target_": "x.Z", "name": data["name"], "root": "data", "batch_size": 128},
            "attack": attack,
            "trainer": {"max_epochs": epochs, "devices": 1},
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
            "scheduler": {"name": "step_drops", "warmup_epochs": 5, "milestones": [100, 150]},
            "checkpoint": {"select": "last", "every_minutes": 5},
            "seed": seed,
            "runs_dir": "runs",
        }  # fmt: skip
        run_id = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
        path = self.folder / data["name"] / f"{''.join(filter(str.isalnum, method))}-{run_id}"
        named = dict(zip(("clean", "fgsm", "pgd5", "pgd10", "pgd20"), metrics, strict=True))
        record = {
            "schema": 1, "written": written, "run_id": run_id, "method": method, "seed": seed,
            "data": data, "attack": attack | {"test_steps": [5, 10, 20]}, "split": "test",
            "checkpoint": "last", "n": n, "metrics": named, "intervals": intervals(named, n),
            "test_metrics": {"test/logits/clean/variance": 3.0, "test/logits/adv/variance": 2.0},
            "config": config, "epochs": epochs, **MADE,
        }  # fmt: skip
        self.write(path / "record.json", record)
        self.write_text(path / ".hydra" / "overrides.yaml", f"- method={method}\n- seed={seed}\n")
        if curves:
            clean, _, _, pgd10, _ = metrics
            rows = [
                f"{10 * k},{k},{clean * (1 - 0.5 ** (k + 1))},{pgd10 * (1 - 0.6 ** (k + 1))},"
                for k in range(6)
            ]
            rows += [f"{10 * k + 5},{k},,,{2.3 * 0.8**k}" for k in range(6)]
            head = "step,epoch,val/acc/clean,val/acc/pgd10,train/loss"
            self.write_text(path / "metrics.csv", "\n".join([head, *rows]) + "\n")
        return path

    def model(self, path):
        record = json.loads((path / "record.json").read_text())
        return {
            "name": record["method"], "label": path.name, "run_dir": str(path),
            "run_id": record["run_id"], "checkpoint": "last",
            "weights_sha256": record["run_id"] * 8,
        }  # fmt: skip

    def evaluation(self, path, suite, metrics, *, n=500, model=None, data=None, **more):
        record = {
            "schema": 1, "kind": "whitebox", "suite": suite, "model": model or self.model(path),
            "data": data or json.loads((path / "record.json").read_text())["data"], "split": "test",
            "subset": {"seed": 0, "n_images": n}, "n": n, "attack": ATTACK, "metrics": metrics,
            "intervals": intervals(metrics, n), "written": "2026-01-03T00:00:00+00:00",
            **MADE, **more,
        }  # fmt: skip
        return self.write(path / "evaluations" / f"{suite}.json", record)

    def paper(self, path, *, n=500, scale=4.0, **more):
        metrics = json.loads((path / "record.json").read_text())["metrics"]
        floor = metrics["pgd20"] * 0.8
        steps = np.arange(201)
        curve = floor + (metrics["clean"] - floor) * np.exp(-steps / 4)
        found = metrics | {"pgd200": float(round(curve[-1] * n) / n)}
        written = self.evaluation(
            path, "paper", found, n=n,
            curve={"steps": steps.tolist(), "accuracy": curve.tolist()},
            logits={"clean": histogram(scale), "adversarial": histogram(scale * 0.6)},
            gallery=[], **more,
        )  # fmt: skip
        self.gallery(written.with_suffix(".npz"))
        return written

    def gallery(self, path, count=3, **changed):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        x_adv = np.clip(x / 255 + rng.uniform(-0.03, 0.03, x.shape), 0, 1).astype(np.float32)
        y = np.arange(count)
        arrays = {"index": y + 7, "y": y, "clean": y, "adversarial": y + 1, "x": x, "x_adv": x_adv}
        arrays = {f"gallery_{name}": value for name, value in (arrays | changed).items()}
        np.savez(path, **arrays)

    def strong(self, path, *, n=500, verdict="not masked", **metrics):
        names = "clean pgd_ce pgd_margin pgd_targeted apgd_ce apgd_t fab_t square autoattack worst"
        values = np.linspace(0.7, 0.4, len(names.split())).round(3).tolist()
        found = dict(zip(names.split(), values, strict=True)) | metrics
        fired = verdict == "masked"
        sign = {
            "name": "black_box", "fired": fired,
            "evidence": {
                "count": 31, "of": 500, "share": 0.062, "interval": [0.044, 0.087],
                "threshold": 0.01,
            },
            "explanation": "Square, which sees no gradient, broke 31 images that PGD left correct",
            "source": "Athalye et al. 2018, arXiv:1802.00420",
        }  # fmt: skip
        other = sign | {
            "name": "steps",
            "fired": False,
            "evidence": {"accuracy_by_steps": {"20": 0.5}},
        }
        loss = {"explanation": "PGD on the margin <b>broke</b> 7 more"}
        masking = {"verdict": verdict, "signs": [sign, other], "loss": loss}
        return self.evaluation(path, "strong", found, n=n, masking=masking, settings={})

    def transfer(self, sources, targets, accuracy, *, n=500, data=OFFICIAL, folder="."):
        record = {
            "schema": 1, "kind": "blackbox", "sources": [self.model(path) for path in sources],
            "targets": [self.model(path) for path in targets], "attack": ATTACK,
            "data": data, "n": n, "subset": {"seed": 0, "n_images": n}, "accuracy": accuracy,
            "intervals": [[wilson(each, n) for each in row] for row in accuracy],
            "same_network": [[source == target for source in sources] for target in targets],
            "written": "2026-01-04T00:00:00+00:00", **MADE,
        }  # fmt: skip
        return self.write(self.folder / folder / "transfer.json", record)

    def write(self, path, content):
        return self.write_text(path, json.dumps(content))

    def write_text(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


def histogram(variance):
    edges = np.linspace(-10, 10, 61)
    centres = (edges[1:] + edges[:-1]) / 2
    counts = np.round(5000 * np.exp(-(centres**2) / (2 * variance)))
    return {
        "variance": variance, "range": 6.0, "norm": 5.0, "edges": edges.tolist(),
        "counts": counts.astype(int).tolist(),
    }  # fmt: skip


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "runs")


@pytest.fixture
def read(records):
    """Reads what was written: the results on the first data set."""

    def read():
        everything = load([str(records.folder)])
        assert everything.skipped == []
        return aggregate(everything)[0]

    with style():
        yield read


NASTY = "<script>alert(1)</script>"  # a method's name, wherever names are shown


def everything(records):
    """Records for every part of the report: unofficial CIFAR-10, a hostile name, several seeds."""
    trained = ATTACK | {"steps": 3, "step_size": 0.015}
    common = {"data": JPEG, "epochs": 7, "attack": trained}
    metrics = {
        "regular": (0.79, 0.05, 0.001, 0.0, 0.0),
        "label_smoothing": (0.78, 0.2, 0.05, 0.02, 0.01),
        "pgd": (0.6, 0.4, 0.41, 0.39, 0.385),
        "alp": (0.58, 0.42, 0.42, 0.405, 0.402),
        "lrm": (0.55, 0.43, 0.43, 0.42, 0.418),
    }
    runs = {name: records.run(name, metrics=each, **common) for name, each in metrics.items()}
    for name, path in runs.items():
        records.paper(path, scale=4.0 if name == "alp" else 8.0)
    records.paper(records.run("alp", seed=1, metrics=(0.6, 0.44, 0.44, 0.42, 0.41), **common))
    records.strong(runs["label_smoothing"], verdict="masked")
    records.strong(runs["pgd"])
    rows = [[round(0.4 + 0.03 * i + 0.02 * j, 3) for j in range(5)] for i in range(5)]
    records.transfer(list(runs.values()), list(runs.values()), rows, data=JPEG)
    for s in (0.0, 0.75):
        path = records.run("label_smoothing", smoothing=s, curves=False, **common)
        if s:
            records.paper(path, scale=1.0)
    for weight in (0.001, 0.01):
        records.run("pgd", alpha=0.5, squeeze_weight=weight, curves=False, **common)
    records.run(NASTY, metrics=(0.5, 0.4, 0.3, 0.2, 0.1), **common)
    records.write_text(records.folder / "broken" / "record.json", "{")
    return runs


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The folder of one full report, made once."""
    folder = tmp_path_factory.mktemp("published")
    everything(Records(folder / "runs"))
    report([str(folder / "runs")], folder / "out")
    return folder / "out"
