"""The attack callback in a real Trainer, against a direct computation with the attacks."""

import copy

import lightning as L
import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack, fgsm, pgd
from lrm_lightning.callbacks import RobustAccuracy
from lrm_lightning.methods import Regular

ATTACK = PGDAttack(eps=0.02, step_size=0.008, steps=7, restarts=3, bn_mode="train")
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
        noise = torch.zeros(batch.x.shape)
        if attack.random_start:
            generator = batch.draws.generator("robust_accuracy")
            noise = torch.rand(batch.x.shape, generator=generator) * 2 * attack.eps - attack.eps
        x, y, noise = batch.x[kept], batch.y[kept], noise[kept]
        x = x.contiguous(memory_format=torch.channels_last)
        budget = {"eps": attack.eps, "step_size": attack.step_size}
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
    return {key for key in metrics if key.split("/")[1] in ("acc", "logits", "pairing")}


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_test_keeps_each_images_verdict_in_float32(precision, network, digits, make_trainer):
    callback = RobustAccuracy(ATTACK, steps=[1], test_steps=[2, 5], test_n_images=37)
    trainer = make_trainer(callback, limit_test_batches=3, precision=precision)
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


@pytest.mark.parametrize(("every", "attacked"), [(2, [0, 1, 0, 1, 1]), (9, [0, 0, 0, 0, 1])])
def test_every_n_epochs_and_the_last(every, attacked, network, digits, make_trainer):
    epochs = Epochs()
    callback = RobustAccuracy(ATTACK, steps=[1], n_images=2, every_n_epochs=every)
    trainer = make_trainer(
        callback, epochs, max_epochs=5, num_sanity_val_steps=0, limit_val_batches=1
    )
    trainer.fit(Regular(network), datamodule=digits)
    assert epochs.attacked == [bool(each) for each in attacked]
    first = attacked.index(1)
    assert [bool(_attacked_keys(each)) for each in epochs.metrics[: first + 1]] == [
        bool(each) for each in attacked[: first + 1]
    ]
    # validation on its own is always attacked
    trainer.validate(Regular(network), datamodule=digits, verbose=False)
    assert epochs.attacked[-1]


def test_fgsm_has_no_random_start_and_pgd_has(network, digits, make_trainer):
    found = []
    for attack in (ATTACK, PGDAttack(eps=0.02, step_size=0.02, steps=1, random_start=False)):
        callback = RobustAccuracy(attack, test_steps=[1])
        digits.eval_batch_size = 80
        make_trainer(callback, limit_test_batches=1).test(
            Regular(network), datamodule=digits, verbose=False
        )
        found.append(callback.correct)
    random_start, from_the_image = found
    assert np.array_equal(random_start["fgsm"], from_the_image["fgsm"])
    assert np.array_equal(from_the_image["fgsm"], from_the_image["pgd1"])
    assert not np.array_equal(random_start["fgsm"], random_start["pgd1"])


def test_starts_depend_on_the_seed_alone(network, digits, make_trainer):
    scales = []
    for seed, draw_before in ((0, 0), (0, 5), (1, 0)):
        torch.rand(draw_before)
        digits = type(digits)(val_size=40, batch_size=64, eval_batch_size=16, seed=seed)
        trainer = make_trainer(RobustAccuracy(ATTACK, steps=[1], n_images=8))
        trainer.validate(Regular(network), datamodule=digits, verbose=False)
        scales.append(float(trainer.callback_metrics["val/pairing/scale_gradient"]))
    assert scales[0] == scales[1] != scales[2]


class Snapshot(L.Callback):
    """Takes (first in the list) or compares (last) all that an attack might disturb."""

    def __init__(self, earlier=None):
        self.earlier = earlier
        self.compared = 0

    def _see(self, pl_module):
        if self.earlier is None:
            # A network in a state that nobody would think of restoring by train() or eval().
            pl_module.network.stages[1].train()
            pl_module.network.stem.weight.requires_grad_(False)
            for parameter in pl_module.parameters():
                parameter.grad = torch.full_like(parameter, 0.25)
            torch.rand(1)
        state = {
            "modes": [module.training for module in pl_module.modules()],
            "requires_grad": [p.requires_grad for p in pl_module.parameters()],
            "grad": [p.grad.clone() for p in pl_module.parameters()],
            "weights": copy.deepcopy(pl_module.state_dict()),
            "rng": torch.get_rng_state(),
            "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002 (the global state is the point)
        }
        if self.earlier is None:
            self.state = state
            return
        before = self.earlier.state
        assert state["modes"] == before["modes"]
        assert True in state["modes"]
        assert state["requires_grad"] == before["requires_grad"]
        assert state["requires_grad"].count(False) == 1
        for after, wanted in zip(state["grad"], before["grad"], strict=True):
            assert torch.equal(after, wanted)
        for name, value in state["weights"].items():
            assert torch.equal(value, before["weights"][name]), name
        assert torch.equal(state["rng"], before["rng"])
        assert np.array_equal(state["numpy"], before["numpy"])
        self.compared += 1

    def on_validation_batch_end(self, trainer, pl_module, *args):
        self._see(pl_module)

    def on_test_batch_end(self, trainer, pl_module, *args):
        self._see(pl_module)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("inference_mode", [False, True])
def test_nothing_of_the_model_or_random_state_changes(
    stage, inference_mode, network, digits, make_trainer
):
    before = Snapshot()
    after = Snapshot(before)
    callback = RobustAccuracy(ATTACK, steps=[2], n_images=20, test_steps=[2], test_n_images=20)
    trainer = make_trainer(
        before, callback, after, inference_mode=inference_mode, limit_test_batches=2
    )
    getattr(trainer, stage)(Regular(network), datamodule=digits, verbose=False)
    assert after.compared >= 2


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
        starts.append(start - x)
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
                draws=whole.draws._replace(start=start, stop=stop),
            ),
        )
    assert [len(each) for each in starts] == [12, 8, 4]
    assert torch.equal(torch.cat(starts[1:]), starts[0])


def test_start_is_made_on_the_device_of_the_images(network, digits, monkeypatch):
    digits.setup()
    (batch, *_), asked = digits.val_dataloader(), []

    def draw_start(self, shape, *, generator, device):
        asked.append((tuple(shape), str(generator.device), str(device)))
        return torch.zeros(shape)

    monkeypatch.setattr(PGDAttack, "draw_start", draw_start)
    callback = RobustAccuracy(ATTACK, steps=[1])
    callback._begin("val", Regular(network))
    callback._attack(Regular(network), batch)
    assert asked == [((16, 3, 32, 32), "cpu", "cpu")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0 must be a whole number >= 1"),
        ({"steps": 10}, "steps=10 must be a list of step counts, e.g. [5, 10, 20]"),
        ({"steps": "10"}, "steps='10' must be a list of step counts, e.g. [5, 10, 20]"),
        ({"steps": []}, "steps=[] must be a list of step counts, e.g. [5, 10, 20]"),
        ({"steps": [5, 0]}, "steps=0 must be a whole number >= 1"),
        ({"test_steps": [5, 2.5]}, "test_steps=2.5 must be a whole number >= 1"),
        ({"test_steps": None}, "test_steps=None must be a list of step counts, e.g. [5, 10, 20]"),
        ({"n_images": 0}, "n_images=0 must be a whole number >= 1"),
        ({"test_n_images": -5}, "test_n_images=-5 must be a whole number >= 1"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        RobustAccuracy(PGDAttack(), **setting)
    assert str(error.value) == message
