"""Every file that the project writes and reads, damaged 100 times: noticed in a line, or no harm.

What a reader makes of a damaged file must be what it makes of the whole one, or a UserError, or of
a checkpoint, a report or a cached piece a line and another source. The seed is the file's name.
"""

import io
import json
import random
from collections import OrderedDict
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from lightning.pytorch.trainer.states import TrainerFn

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.cache import Cache
from lrm_lightning.evaluation.session import _finished
from lrm_lightning.export import export_model
from lrm_lightning.models import ResNet
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.reporting.run_dir import training_curves
from lrm_lightning.runs.directory import RunDir, finished_run
from lrm_lightning.runs.files import file_sha256, write_arrays
from lrm_lightning.runs.identity import hashed
from lrm_lightning.runs.integrity import content_sha256
from lrm_lightning.runs.networks import load_run
from lrm_lightning.runs.records import (
    EvaluationRecord,
    RunRecord,
    TransferRecord,
    accuracies,
    write_record,
)
from lrm_lightning.tracking.metrics_csv import MetricsCSV, MetricsInCheckpoints
from lrm_lightning.training.checkpoints import RunCheckpointIO, newest_usable

VARIANTS = 100
N = 40
NETWORK = {"depth": 1, "widths": [4, 4, 4, 4], "num_classes": 10}
DATA = {"name": "digits", "official": True, "fingerprint": "ab" * 32}


# ---------------------------------------------------------------------- undamaged files


class Module(L.LightningModule):
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ResNet(**NETWORK)


MODULE = Module(0)


def identity(seed):
    return {
        "method": {"name": "pgd", "alpha": 0.0},
        "data": {"_target_": "lrm_lightning.data.DigitsDataModule", "name": "digits"},
        "attack": {"norm": "linf", "eps": 1e-05, "step_size": 0.04},
        "checkpoint": {"select": "last"},
        "seed": seed,
    }


def checkpoint(seed, step):
    """What Lightning gives to save, in the parts that matter."""
    module = Module(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 0.01 * step)
    optimizer.step()
    return {
        "epoch": step // 3,
        "global_step": step,
        "state_dict": OrderedDict(module.state_dict()),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": step}}, "state_dict": {}}},
        "callbacks": {"Progress": {"elapsed_s": 0.1 * step}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": step // 3, "milestones": [1, 2]}],
        "DigitsDataModule": {"fingerprint": DATA["fingerprint"]},
        "metrics": logged(seed).text,
    }


def logged(seed):
    logger = MetricsCSV(None)
    for step in range(0, 30, 3):
        logger.log_metrics({"epoch": step // 10, "train/loss": 2.3 / (seed + 1 + step)}, step)
    return logger


def make_run(folder, seed):
    """A run directory with every file that train, evaluate, transfer and export leave."""
    draw = np.random.default_rng(seed)
    run = RunDir(folder, identity(seed))
    run.write_config(
        identity(seed) | {"runs_dir": "runs"}, {"_target_": ResNet.__module__ + ".ResNet"} | NETWORK
    )
    files = RunCheckpointIO(run.run_id)
    files.save_checkpoint(checkpoint(seed, 4), run.checkpoints / "interrupted.ckpt")
    files.save_checkpoint(checkpoint(seed, 6), run.checkpoints / "last.ckpt")
    (folder / "metrics.csv").write_text(logged(seed).text)

    def verdicts(path, *names, shape=(N,)):
        arrays = {name: draw.random(shape) < 0.6 for name in names}
        write_arrays(path, {"index": np.arange(N)} | arrays)
        return arrays

    common = {"data": DATA, "written": "2026-01-02T03:04:05+00:00"}
    correct = verdicts(folder / "correct.npz", "clean", "pgd10")
    hashes = {name: file_sha256(folder / name) for name in ("correct.npz", "metrics.csv")}
    own = {"run_id": run.run_id, "method": "pgd", "seed": seed, "config": identity(seed)}
    own |= {"score": 0.25, "wall_s": 12.5, "files": hashes}
    write_record(folder / "record.json", RunRecord(**common, **own, **accuracies(correct)))
    network = {"name": "pgd", "label": folder.name, "run_id": run.run_id}
    (folder / "evaluations").mkdir()
    for suite in ("paper", "strong"):
        path = folder / "evaluations" / f"{suite}.json"
        correct = verdicts(path.with_suffix(".npz"), "clean", "pgd200")
        own = {
            "kind": "whitebox",
            "suite": suite,
            "network": network,
            "evaluation_id": evaluation_id(suite, seed),
        }
        own |= {"files": {f"{suite}.npz": file_sha256(path.with_suffix(".npz"))}}
        write_record(path, EvaluationRecord(**common, **own, **accuracies(correct)))
    correct = verdicts(folder / "transfer.npz", "correct", shape=(1, 2, N))["correct"]
    own = {"kind": "blackbox", "sources": [network, network], "targets": [network]}
    own |= {"accuracy": correct.mean(axis=2).tolist(), "intervals": [[(0.0, 1.0)] * 2]}
    own |= {"same_network": [[True, True]], "evaluation_id": "0"}
    own |= {"files": {"transfer.npz": file_sha256(folder / "transfer.npz")}}
    write_record(folder / "transfer.json", TransferRecord(n=N, **common, **own))
    export_model(folder, folder / "exported")
    Cache(folder / "cache", {"weights": seed}).once("x", lambda: piece(seed))


def evaluation_id(suite, seed):
    return hashed([suite, seed])[:8]


def piece(seed):
    return {"logits": np.random.default_rng(seed).random((8, 10)), "left": np.arange(8) % 3 == 0}


# ---------------------------------------------------------------------- readers
# Each returns what it read, or None and prints a line, or raises UserError.


def read_checkpoint(folder):
    run = RunDir(folder, identity(0))
    found = newest_usable(run.resumable(), RunCheckpointIO(run.run_id), MODULE)
    return torch.load(found, weights_only=True) if found.endswith("last.ckpt") else None


def read_network(folder):
    loaded = load_run(folder)
    return loaded.module.state_dict(), loaded.config, loaded.about.model_dump()


def read_directory(folder):
    RunDir(folder, identity(0))
    return read_network(folder)


def read_record(folder):
    return finished_run(folder).model_dump()


def read_report(kind):
    def read(folder):
        found = load([str(folder)])
        print(*found.skipped, sep="\n", end="")
        return (
            None if found.skipped else [each.record.model_dump() for each in getattr(found, kind)]
        )

    return read


def read_again(folder):
    """Whether the same command again takes an evaluation as finished, or makes it anew."""
    path, wanted = folder / "evaluations/paper.json", evaluation_id("paper", 0)
    found = _finished(path, EvaluationRecord, wanted)
    print("" if found else "made anew")
    return found and found.model_dump()


def read_curves(folder):
    return training_curves(folder, finished_run(folder))


def read_resumed(folder):
    """The metrics of a run that goes on from its checkpoint."""
    logger, saved = MetricsCSV(folder / "metrics.csv"), checkpoint(0, 6)
    trainer = SimpleNamespace(loggers=[logger], state=SimpleNamespace(fn=TrainerFn.FITTING))
    MetricsInCheckpoints().on_load_checkpoint(trainer, None, saved)
    return logger.text


def read_export(folder):
    loaded = load_run(folder / "exported")
    return loaded.module.state_dict(), loaded.config, loaded.about.model_dump()


def read_piece(folder):
    return Cache(folder / "cache", {"weights": 0}).once("x", lambda: piece(0))


PIECE, OTHERS_PIECE = (
    f"cache/{hashed({'weights': seed})[:16]}/{hashed('x')[:16]}.npz" for seed in (0, 1)
)
READERS = {
    "checkpoints/last.ckpt": (read_checkpoint, read_network),
    "config.yaml": (read_directory,),
    "record.json": (read_record, read_report("runs")),
    "correct.npz": (read_record, read_report("runs")),
    "metrics.csv": (read_resumed, read_curves),
    "evaluations/paper.json": (read_report("evaluations"), read_again),
    "evaluations/paper.npz": (read_report("evaluations"), read_again),
    "transfer.json": (read_report("transfers"),),
    "transfer.npz": (read_report("transfers"),),
    "exported/model.json": (read_export,),
    "exported/model.safetensors": (read_export,),
    PIECE: (read_piece,),
}


# ---------------------------------------------------------------------- damage


def flip(draw, content):
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 9))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(draw, content):
    return content[: draw.choice((0, 1, draw.randrange(len(content)), len(content) - 1))]


def zero(draw, content):
    size = draw.choice((1, 16, 512, 4096))
    begin = draw.randrange(len(content))
    return content[:begin] + bytes(len(content[begin:][:size])) + content[begin + size :]


def shift(draw, content):
    """A block comes twice, or goes."""
    begin, size = draw.randrange(len(content)), draw.randrange(1, 200)
    twice = draw.random() < 0.5
    return content[: begin + twice * size] + content[begin + (not twice) * size :]


def change_a_value(draw, tree):
    """Removes a key somewhere, or puts another value there."""
    holders = [tree]
    for each in holders:
        inside = each.values() if isinstance(each, dict) else each
        holders += [value for value in inside if isinstance(value, (dict, list)) and value]
    holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    value = holder[key]
    if draw.random() < 0.4:
        del holder[key]
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        zeros = torch.zeros_like(value) if isinstance(value, torch.Tensor) else np.zeros_like(value)
        holder[key] = draw.choice((zeros, value[..., :1] if value.ndim else value[None]))
    else:
        holder[key] = draw.choice((None, -1, 1.7, "text", [], {"a": {}}, float("nan"), [[[1]]]))
    return tree


def restructure(draw, content, path):
    """The file as a program would write it that knows nothing of hashes."""
    out = io.BytesIO()
    match path.suffix:
        case ".json":
            return json.dumps(change_a_value(draw, json.loads(content))).encode()
        case ".yaml":
            return yaml.dump(
                change_a_value(draw, yaml.safe_load(content)), sort_keys=False
            ).encode()
        case ".ckpt":
            torch.save(change_a_value(draw, torch.load(io.BytesIO(content))), out)
        case ".npz":
            arrays = change_a_value(draw, dict(np.load(io.BytesIO(content))))
            np.savez(out, **{name: np.asarray(each) for name, each in arrays.items()})
        case ".safetensors":
            tensors = safetensors.torch.load(content)
            name = draw.choice(list(tensors))
            tensors |= {name: tensors[name] * 2}
            return safetensors.torch.save(tensors)
        case ".csv":
            lines = content.decode().splitlines()
            place = draw.randrange(len(lines))
            cell = draw.choice((None, "half", "1,2,3,4,5", "\0", '"', "1e999"))
            lines[place : place + 1] = [] if cell is None else [cell + lines[place]]
            return ("\n".join(lines) + "\n").encode()
    return out.getvalue()


def nest(draw, content):
    depth = draw.choice((50, 2000, 100_000))
    return draw.choice((b"[" * depth, b'{"a":' * depth, b"network: " + b"[" * depth + b"]" * depth))


def variants(path, others):
    """(what was done, content); the last are the same file of another run, and other files."""
    draw, content = random.Random(path.name), path.read_bytes()
    swapped = [other.read_bytes() for other in others]
    for number in range(VARIANTS):
        if number < len(swapped):
            yield f"swapped {number}", swapped[number]
        elif number % 3:
            how = draw.choice((flip, truncate, zero, shift))
            yield how.__name__, how(draw, content)
        elif number % 30:
            yield "restructured", restructure(draw, content, path)
        else:
            yield "nested", nest(draw, content)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    for seed, name in enumerate(("pgd-one", "pgd-other")):
        make_run(folder / name, seed)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_damage_is_taken_as_good(runs, name, capsys, monkeypatch):
    folder = runs / "pgd-one"
    path = folder / name
    whole = path.read_bytes()
    others = [runs / "pgd-other" / (OTHERS_PIECE if name == PIECE else name)]
    others += [
        each for each in sorted(folder.rglob("*")) if each.suffix == path.suffix and each != path
    ]
    wanted = {read: content_sha256(read(folder)) for read in READERS[name]}
    noticed = 0
    try:
        for what, content in variants(path, others):
            for read in READERS[name]:
                path.write_bytes(content)
                capsys.readouterr()
                try:
                    found = read(folder)
                except UserError as error:
                    line = str(error)
                else:
                    line = capsys.readouterr().out.strip()
                    if found is not None:
                        assert content_sha256(found) == wanted[read], (what, read, content[:2000])
                        continue
                assert line, what
                assert "\n" not in line
                assert len(line) < 700, line
                noticed += 1
    finally:
        path.write_bytes(whole)
    assert noticed > VARIANTS / 2 or name == PIECE  # which is computed again without a word
