"""The attack callback in a real Trainer, against a direct computation with the attacks."""

import copy
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from lrm_lightning.attacks import Attack, PGDAttack, fgsm, pgd
from lrm_lightning.data.randomness import generator
from lrm_lightning.methods import PGDTraining, Regular
from lrm_lightning.training.robust_accuracy import Correctness, RobustAccuracy, collapse

# So small that it breaks some images and not all, however the machine has rounded in the training.
ATTACK = PGDAttack(eps=0.005, step_size=0.002, steps=7, restarts=3, bn_mode="train")
NAMES = ("variance", "range", "norm")


def _direct(network, loader, counts, limit, attack=ATTACK):
    """Clean, FGSM and PGD-k verdicts and the logits, image by image, in plain torch."""
    network = copy.deepcopy(network).eval()
    verdicts = {name: [] for name in ("clean", "fgsm", *(f"pgd{k}" for k in counts))}
    clean, adv, labels = [], [], []
    for batch in loader:
        kept = batch.index < limit
        if not kept.any():
            continue
        generator = batch.draws.generator("robust_accuracy")
        noise = torch.rand(batch.x.shape, generator=generator) * 2 * attack.eps - attack.eps
        x, y, noise = batch.x[kept], batch.y[kept], noise[kept]
        x = x.contiguous(memory_format=torch.channels_last)
        budget = {"eps": attack.eps, "step_size": 0.26 * attack.eps}
        attacked = {"clean": x, "fgsm": fgsm(network, x, y, eps=attack.eps)}
        for k in counts:
            attacked[f"pgd{k}"] = pgd(
                network, x, y, steps=k, start=x + noise, random_start=False, **budget
            )
        with torch.no_grad():
            logits = {name: network(images) for name, images in attacked.items()}
        for name, values in logits.items():
            verdicts[name].append((values.argmax(1) == y).numpy())
        clean.append(logits["clean"])
        adv.append(logits[f"pgd{max(counts)}"])
        labels.append(y)
    correct = {name: np.concatenate(each) for name, each in verdicts.items()}
    return correct, torch.cat(clean).numpy(), torch.cat(adv).numpy(), torch.cat(labels).numpy()


def _expected(split, correct, clean, adv, y):
    metrics = {f"{split}/acc/{name}": each.mean() for name, each in correct.items()}
    for kind, logits in (("clean", clean), ("adv", adv)):
        ranges = logits.max(1) - logits.min(1)
        values = (logits.var(), ranges.mean(), np.sqrt((logits**2).sum(1)).mean())
        metrics |= {f"{split}/logits/{kind}/{n}": v for n, v in zip(NAMES, values, strict=True)}
    is_label = np.arange(10)[None] == y[:, None]
    met = np.where(is_label, clean > adv, clean < adv)
    metrics[f"{split}/pairing/assumption"] = met.mean()
    metrics[f"{split}/pairing/scale_gradient"] = 2 * ((clean - adv) ** 2).sum(1).mean()
    return metrics


def _attacked_keys(metrics):
    attacked = ("acc", "logits", "pairing")
    return {key for key in metrics if key[:5] != "train" and key.split("/")[1] in attacked}


def _assert_metrics(found, expected):
    assert _attacked_keys(found) == expected.keys()
    for key, value in expected.items():
        exact = "/acc/" in key or "assumption" in key
        wanted = pytest.approx(value, rel=1e-6 if exact else 1e-4)
        assert float(found[key]) == wanted, key


@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("limit", [20, None])
def test_validate_logs_what_a_direct_computation_gives(
    inference_mode, limit, network, digits, make_trainer
):
    callback = RobustAccuracy(ATTACK, steps=[3, 1, 3], n_images=limit)
    trainer = make_trainer(callback, inference_mode=inference_mode)
    trainer.validate(Regular(network), datamodule=digits, verbose=False)

    direct = _direct(network, digits.val_dataloader(), [1, 3], limit or 40)
    expected = _expected("val", *direct)
    assert len(direct[3]) == (limit or 40)
    assert 1 > expected["val/acc/clean"] > expected["val/acc/fgsm"] > 0  # worth comparing
    _assert_metrics(trainer.callback_metrics, expected)


def test_test_keeps_each_images_verdict(network, digits, make_trainer):
    callback = RobustAccuracy(ATTACK, steps=[1], test_steps=[2, 5], test_n_images=37)
    trainer = make_trainer(callback, limit_test_batches=3)
    trainer.test(Regular(network), datamodule=digits, verbose=False)

    direct = _direct(network, digits.test_dataloader(), [2, 5], 37)
    _assert_metrics(trainer.callback_metrics, _expected("test", *direct))
    assert callback.index.tolist() == list(range(37))
    assert list(callback.correct) == ["clean", "fgsm", "pgd2", "pgd5"]
    for name, verdicts in callback.correct.items():
        assert verdicts.tolist() == direct[0][name].tolist(), name
        assert float(trainer.callback_metrics[f"test/acc/{name}"]) == pytest.approx(verdicts.mean())


def test_all_test_images_by_default(network, digits, make_trainer):
    callback = RobustAccuracy(PGDAttack(), test_steps=[1])
    digits.eval_batch_size = 100
    make_trainer(callback).test(Regular(network), datamodule=digits, verbose=False)
    assert callback.index.tolist() == list(range(360))


class Epochs(L.Callback):
    """What was logged, and whether it was attacked, at the end of every validation."""

    def __init__(self):
        self.attacked, self.metrics = [], []

    def on_validation_end(self, trainer, pl_module):
        (callback,) = (each for each in trainer.callbacks if isinstance(each, RobustAccuracy))
        self.attacked.append(callback.active)
        self.metrics.append(dict(trainer.callback_metrics))


def test_fit_logs_every_epoch(network, digits, make_trainer):
    epochs = Epochs()
    callback = RobustAccuracy(ATTACK, steps=[1], n_images=5)
    defense = Regular(network)
    trainer = make_trainer(callback, epochs, max_epochs=2, num_sanity_val_steps=1)
    trainer.fit(defense, datamodule=digits)
    assert epochs.attacked == [False, True, True]  # the first is Lightning's sanity check
    assert not _attacked_keys(epochs.metrics[0])
    direct = _direct(defense.network, digits.val_dataloader(), [1], 5)
    _assert_metrics(trainer.callback_metrics, _expected("val", *direct))


def test_the_last_epoch_is_attacked_whatever_every_n_epochs_says(network, digits, make_trainer):
    epochs = Epochs()
    callback = RobustAccuracy(ATTACK, steps=[1], n_images=2, every_n_epochs=9)
    settings = {"max_epochs": 3, "num_sanity_val_steps": 0, "limit_val_batches": 1}
    trainer = make_trainer(callback, epochs, **settings)
    trainer.fit(Regular(network), datamodule=digits)
    assert epochs.attacked == [False, False, True]
    assert [bool(_attacked_keys(each)) for each in epochs.metrics] == [False, False, True]
    # validation on its own is always attacked
    trainer.validate(Regular(network), datamodule=digits, verbose=False)
    assert epochs.attacked[-1]


def test_starts_depend_on_the_seed_alone(network, digits, make_trainer):
    scales = []
    for seed, draw_before in ((0, 0), (0, 5), (1, 0)):
        torch.rand(draw_before)
        digits = type(digits)(val_size=40, batch_size=64, eval_batch_size=16, seed=seed)
        trainer = make_trainer(RobustAccuracy(ATTACK, steps=[1], n_images=8))
        trainer.validate(Regular(network), datamodule=digits, verbose=False)
        scales.append(float(trainer.callback_metrics["val/pairing/scale_gradient"]))
    assert scales[0] == scales[1] != scales[2]


def test_fit_trains_on_as_if_never_attacked(network, digits, make_trainer):
    weights = []
    for callbacks in ([], [RobustAccuracy(ATTACK, steps=[1], n_images=4)]):
        defense = Regular(copy.deepcopy(network))
        trainer = make_trainer(*callbacks, max_epochs=3, limit_val_batches=1)
        trainer.fit(defense, datamodule=digits)
        weights.append(defense.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert not torch.equal(weights[0]["network.linear.weight"], network.linear.weight)


def test_ranks_start_from_their_rows_of_the_global_noise(network, digits, monkeypatch):
    digits.setup()
    (whole, *_), starts = digits.val_dataloader(), []

    def trajectory(self, model, x, y, steps, *, start, keep_images):
        starts.append(start[0] - x)
        return real(self, model, x, y, steps, start=start, keep_images=keep_images)

    real = PGDAttack.trajectory
    monkeypatch.setattr(PGDAttack, "trajectory", trajectory)
    for start, stop in ((0, 16), (0, 8), (8, 16)):
        callback = RobustAccuracy(ATTACK, steps=[1], n_images=12)
        defense = Regular(network)
        callback._begin("val", defense)
        rows = slice(start, stop)
        callback._attack(
            defense,
            whole._replace(
                x=whole.x[rows],
                y=whole.y[rows],
                index=whole.index[rows],
                draws=whole.draws._replace(first_row=start, end_row=stop),
            ),
        )
    assert [len(each) for each in starts] == [12, 8, 4]
    assert torch.equal(torch.cat(starts[1:]), starts[0])


class Foreign(L.LightningModule):
    """A module of anybody's; what it calls its network is no business of ours."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(192, 10)

    def forward(self, x):
        return self.network((x - 0.5).flatten(1))

    def test_step(self, batch, number):
        pass


def _foreign_loader(count, batch_size):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 8, 8, generator=generator)
    y = torch.randint(10, (count,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size)


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_a_foreign_module_and_its_batches(make_trainer):
    torch.manual_seed(0)
    module, loader = Foreign(), _foreign_loader(40, 16)
    callback = RobustAccuracy(ATTACK, test_steps=[2], test_n_images=30)
    make_trainer(callback).test(module, loader, verbose=False)
    expected, module = [], module.eval()
    for place, (x, y) in enumerate(loader):
        noise = ATTACK.threat.draw(
            x.shape, generator=generator(0, "robust_accuracy", 0, 16 * place)
        )
        budget = {"eps": ATTACK.eps, "step_size": 0.26 * ATTACK.eps, "random_start": False}
        x_adv = pgd(module, x, y, steps=2, start=x + noise, **budget)
        expected += (module(x_adv).argmax(dim=1) == y).tolist()
    assert callback.index.tolist() == list(range(30))
    assert callback.correct["pgd2"].tolist() == expected[:30]
    assert callback.logits["adv"].shape == (30, 10)


def test_processes_share_a_foreign_loader_in_turn():
    """As DistributedSampler does; each has rows of its own of the noise."""
    found = []
    for rank in (0, 1):
        callback, trainer = RobustAccuracy(ATTACK), SimpleNamespace(global_rank=rank, world_size=2)
        callback._begin("val", Foreign())
        for x, y in _foreign_loader(10, 4):
            found.append(callback._placed(trainer, (x, y, "a name")))
    indices = [each.index.tolist() for each in found]
    assert indices == [
        *([0, 2, 4, 6], [8, 10, 12, 14], [16, 18]),
        *([1, 3, 5, 7], [9, 11, 13, 15], [17, 19]),
    ]
    assert [each.draws[3:] for each in found[::3]] == [(8, 0, 4), (8, 4, 8)]
    assert found[0].draws[:3] == found[3].draws[:3] != found[1].draws[:3]


@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Adds its noise, or inverts the images where there is none."""

    noisy: bool = True

    def draw_noise(self, shape, *, generator=None, device="cpu"):
        if not self.noisy:
            return None
        assert str(generator.device) == str(device)
        return self.threat.draw(shape, generator=generator, device=device)[None]

    def __call__(self, model, x, y, *, start=None, generator=None):
        return (1 - x if start is None else start[0]).clamp(0, 1)


@pytest.mark.parametrize("noisy", [True, False])
def test_a_training_attack_that_is_no_pgd_is_measured_too(noisy, network, digits, make_trainer):
    attack = Shift(eps=0.4, noisy=noisy)
    callback = RobustAccuracy(attack, steps=[1], n_images=20, test_steps=[1], test_n_images=20)
    trainer = make_trainer(callback, limit_test_batches=2)
    trainer.test(Regular(network), datamodule=digits, verbose=False)

    expected, network = [], network.eval()
    for batch in digits.test_dataloader():
        generator = batch.draws.generator("shift")
        noise = torch.rand(batch.x.shape, generator=generator) * 0.8 - 0.4
        change = noise if noisy else (1 - 2 * batch.x).clamp(-0.4, 0.4)  # projected
        x_adv = (batch.x + change).clamp(0, 1)
        with torch.no_grad():
            expected += (network(x_adv).argmax(dim=1) == batch.y).tolist()
    assert list(callback.correct) == ["clean", "fgsm", "pgd1", "shift"]
    assert callback.correct["shift"].tolist() == expected[:20]
    assert callback.correct["shift"].tolist() != callback.correct["clean"].tolist()
    shown = float(trainer.callback_metrics["test/acc/shift"])
    assert shown == pytest.approx(np.mean(expected[:20]))
    trainer.validate(Regular(network), datamodule=digits, verbose=False)
    assert "val/acc/shift" in trainer.callback_metrics


def test_a_training_attack_whose_name_is_anothers_is_refused():
    with pytest.raises(ValueError, match="would be called pgd10, which is another's name"):
        RobustAccuracy(type("PGD10", (Shift,), {})(eps=0.4))


def test_a_test_computes_in_float32_whatever_the_trainer_trains_in(network, digits, make_trainer):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        callback = RobustAccuracy(ATTACK, test_steps=[2], test_n_images=16)
        trainer = make_trainer(callback, limit_test_batches=1, precision=precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as a foreign loop might
            trainer.test(Regular(copy.deepcopy(network)), datamodule=digits, verbose=False)
        found.append(callback.logits | {"loss": trainer.callback_metrics["test/loss"]})
    for name, values in found[0].items():
        assert values.dtype == torch.float32
        assert torch.equal(values, found[1][name])


# ---------------------------------------------------------------------- verdicts


def test_verdicts_come_in_the_order_of_the_split():
    metric = Correctness(["clean", "fgsm"])
    metric.update(torch.tensor([4, 1]), torch.tensor([[True, True], [True, False]]))
    metric.update(torch.tensor([0]), torch.tensor([[False, True]]))
    index, correct = metric.compute()
    assert index.tolist() == [0, 1, 4]
    assert {name: each.tolist() for name, each in correct.items()} == {
        "clean": [False, True, True],
        "fgsm": [True, False, True],
    }
    assert all(each.dtype == np.bool_ for each in correct.values())


@pytest.mark.parametrize("batches", [[[0, 1], [1, 2]], [[3, 3]]])
def test_an_image_counted_twice_is_an_error(batches):
    metric = Correctness(["clean"])
    for index in batches:
        metric.update(torch.tensor(index), torch.ones(len(index), 1, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="evaluated twice"):
        metric.compute()


def _one_has_none(rank, folder):
    metric = Correctness(["clean", "fgsm"])
    if rank == 0:  # the other rank's images are all beyond n_images
        metric.update(torch.tensor([1, 0]), torch.tensor([[True, False], [True, True]]))
    index, correct = metric.compute()
    np.savez(folder / f"{rank}.npz", index=index, **correct)


def test_rank_without_images(two_ranks):
    folder = two_ranks(_one_has_none)
    for rank in (0, 1):
        with np.load(folder / f"{rank}.npz") as found:
            assert found["index"].tolist() == [0, 1]
            assert found["clean"].tolist() == [True, True]
            assert found["fgsm"].tolist() == [True, False]


def _validated(fgsm, pgd10):
    return {"val/acc/fgsm": fgsm, "val/acc/pgd10": pgd10, "val/acc/clean": 0.9}


@pytest.mark.parametrize("before", [{}, _validated(0.40, 0.35), _validated(0.60, 0.15)])
def test_collapse_is_said_in_one_line(before):
    said = collapse(before, _validated(0.71, 0.03), 10)
    assert said is not None
    assert said.startswith("accuracy is 71.0% under FGSM, but 3.0% under PGD-10: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (_validated(0.4, 0.35), _validated(0.45, 0.36)),  # it learns
        (_validated(0.4, 0.35), _validated(0.45, 0.16)),  # a bad epoch
        (_validated(0.1, 0.1), _validated(0.08, 0.0)),  # it has not begun to learn
        (_validated(0.7, 0.03), _validated(0.8, 0.02)),  # said before
    ],
)
def test_no_collapse(before, now):
    assert collapse(before, now, 10) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "eps", "steps", "lines"),
    [(PGDTraining, 0.25, 1, 1), (PGDTraining, 0.1, 3, 0), (Regular, 0.1, 1, 0)],
)
def test_collapse_of_single_step_training(defense, eps, steps, lines, digits, make_trainer, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2048, 10),
        )
    attack = PGDAttack(eps=eps, step_size=eps / steps, steps=steps, random_start=False)
    callback = RobustAccuracy(attack, steps=[10])
    trainer = make_trainer(callback, max_epochs=4, limit_train_batches=None, num_sanity_val_steps=0)
    optimizer = {"optimizer": partial(Adam, lr=3e-3), "scheduler": partial(StepLR, step_size=99)}
    digits.augmentation = digits.augmentation._replace(crop_padding=0, flip=False)
    trainer.fit(defense(network, attack=attack, **optimizer), datamodule=digits)
    assert callback.val_metrics["val/acc/clean"] > 0.5
    assert capsys.readouterr().out.count("if this lasts, training has collapsed") == lines
