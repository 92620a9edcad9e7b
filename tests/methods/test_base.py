"""What every defence shares, in a real Trainer where Lightning matters."""

import math
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import ImageDataModule, ImageSplit
from lrm_lightning.methods import (
    AdversarialLogitPairing,
    CleanLogitPairing,
    Defense,
    LogitRegularization,
    PGDTraining,
    Regular,
)
from lrm_lightning.methods.schedules import one_cycle
from lrm_lightning.models import PreActResNet, ResNet


class Tiny(ImageDataModule):
    """24 training and 5 test images of 4 classes."""

    name = "tiny"
    num_classes = 4

    def __init__(self, **settings):
        super().__init__(val_size=4, crop_padding=0, flip=False, batch_size=5, **settings)

    def load(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (29, 3, 8, 8), generator=generator, dtype=torch.uint8)
        labels = torch.arange(29) % 4
        return ImageSplit(images[:24], labels[:24]), ImageSplit(images[24:], labels[24:])


class Watch(L.Callback):
    """Keeps every step's learning rate, batch and metrics."""

    def __init__(self):
        self.lr, self.targets, self.logged = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.lr.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        self.targets.append(batch.targets)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append({k: v.item() for k, v in trainer.callback_metrics.items()})


def _trainer(watch, **settings):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[watch],
        **settings,
    )


def test_loss_is_the_sum_of_the_logged_terms(make, network, batch):
    watch = Watch()
    attack = PGDAttack(steps=1)
    defense = make(PGDTraining, network.float(), alpha=0.5, attack=attack, squeeze_weight=0.1)
    _trainer(watch, max_epochs=1, limit_train_batches=2).fit(defense, datamodule=Tiny())
    for logged in watch.logged:
        terms = [logged[f"train/loss/{name}"] for name in ("adversarial", "clean", "squeezing")]
        assert min(terms) > 0
        assert logged["train/loss"] == pytest.approx(sum(terms), rel=1e-6)


def test_rate_and_accuracy_of_every_step_are_logged(make, network):
    class Batches(L.Callback):
        """The accuracy on the images that the network was given, before it learnt from them."""

        def on_train_batch_start(self, trainer, defense, batch, batch_idx):
            with torch.no_grad():
                right = defense.network(batch.x).argmax(dim=1) == batch.y
            expected.append(
                (right.float().mean().item(), trainer.optimizers[0].param_groups[0]["lr"])
            )

    expected, watch = [], Watch()
    defense = make(Regular, network.float(), smoothing=0.3)
    trainer = _trainer(watch, max_epochs=2, limit_train_batches=2)
    trainer.callbacks.insert(0, Batches())
    trainer.fit(defense, datamodule=Tiny())
    accuracies, rates = zip(*expected, strict=True)
    assert [each["train/acc/clean"] for each in watch.logged] == pytest.approx(accuracies)
    assert [each["train/lr"] for each in watch.logged] == pytest.approx(rates)
    assert len(set(accuracies)) > 1


@pytest.mark.parametrize("awp", [0.0, 1e-9])  # the second moves no prediction
def test_accuracy_on_attacked_images_is_logged(make, network, awp):
    class Attacked(L.Callback):
        """The accuracy on the images that the attack finds before the step."""

        def on_train_batch_start(self, trainer, defense, batch, batch_idx):
            x_adv = defense.attack_batch(batch, defense.training_targets(batch))
            with torch.no_grad():
                for name, x in (("clean", batch.x), ("adv", x_adv)):
                    right = defense.network(x).argmax(dim=1) == batch.y
                    expected[f"train/acc/{name}"] = right.float().mean().item()

    watch, expected = Watch(), {}
    attack = PGDAttack(eps=0.5, step_size=0.5, steps=1, targeted=True)  # towards the labels
    defense = make(PGDTraining, network.float(), alpha=0.5, attack=attack, awp=awp)
    trainer = _trainer(watch, max_epochs=1, limit_train_batches=1)
    trainer.callbacks.insert(0, Attacked())
    trainer.fit(defense, datamodule=Tiny())
    (logged,) = watch.logged
    assert {name: logged[name] for name in expected} == pytest.approx(expected)
    assert expected["train/acc/adv"] > expected["train/acc/clean"]


def test_clean_loss_of_validation_and_test(make, network):
    defense = make(Regular, network.float(), smoothing=0.3)  # evaluation has no smoothing
    data = Tiny(eval_batch_size=3)
    trainer = _trainer(Watch())
    trainer.validate(defense, datamodule=data, verbose=False)
    trainer_test = _trainer(Watch())
    trainer_test.test(defense, datamodule=data, verbose=False)
    for name, found in (("val", trainer), ("test", trainer_test)):
        split = data._splits[name]
        with torch.no_grad():
            loss = nn.functional.cross_entropy(network(split.images / 255), split.labels)
        assert found.callback_metrics[f"{name}/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


NETWORKS = {
    "resnet": lambda: ResNet(depth=1, widths=(4, 4, 8, 8)),
    "preact_resnet": lambda: PreActResNet(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8)),
    "group_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2, 2)
    ),
}


def _configured(defense, **trainer):
    """Optimiser and schedule as the Trainer gets them."""
    defense.trainer = _trainer(Watch(), **({"max_epochs": 200} | trainer))
    defense.trainer.datamodule = Tiny()
    defense.trainer.datamodule.setup()
    made = defense.configure_optimizers()
    return made["optimizer"], made["lr_scheduler"]


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_only_kernels_decay_and_nothing_is_left_out(build, optimizer):
    network = build()
    made, _ = _configured(Regular(network, optimizer=partial(optimizer, lr=1, weight_decay=0.123)))
    assert type(made) is optimizer
    kernels = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    seen = []
    for group in made.param_groups:
        for parameter in group["params"]:
            seen.append(id(parameter))
            assert group["weight_decay"] == (0.123 if id(parameter) in kernels else 0)
    assert sorted(seen) == sorted(id(parameter) for parameter in network.parameters())
    assert len(kernels) > 0


def test_defaults_are_section_5_1(network):
    optimizer, schedule = _configured(Regular(network))
    kernels, others = optimizer.param_groups
    assert (kernels["momentum"], kernels["nesterov"], kernels["weight_decay"]) == (0.9, False, 2e-4)
    assert others["weight_decay"] == 0
    assert (schedule["interval"], schedule["name"]) == ("step", "lr")
    factor, steps = schedule["scheduler"].lr_lambdas[0], 4
    for epoch, lr in ((0, 0.1 / (5 * steps + 1)), (5, 0.1), (100, 0.01), (150, 0.001)):
        assert 0.1 * factor(epoch * steps) == pytest.approx(lr)


def test_steps_of_sgd_are_momentum_and_decay(make, network):
    layer = nn.Linear(3, 2)
    defense = Regular(layer, optimizer=partial(SGD, lr=0.5, momentum=0.9, weight_decay=0.1))
    optimizer, _ = _configured(defense)
    for group in optimizer.param_groups:  # the warm-up has lowered it
        group["lr"] = 0.5
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    velocity = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + torch.ones_like(weight) + 0.1 * weight
        weight = weight - 0.5 * velocity
    torch.testing.assert_close(layer.weight.detach(), weight)
    # no decay: 0.5 * (1 + 1.9 + 2.71)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.5 * (1 + 1.9 + 2.71))


FALLING = {"optimizer": partial(SGD, lr=1.0), "scheduler": partial(one_cycle, warmup_epochs=0)}


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 4), ({"limit_train_batches": 2}, 2), ({"limit_train_batches": 0.5}, 2)],
)
def test_schedule_knows_the_steps_of_an_epoch(settings, steps, make, network):
    watch = Watch()
    schedule = {"optimizer": partial(SGD, lr=0.2), "scheduler": one_cycle}
    defense = make(Regular, network.float(), **schedule)
    _trainer(watch, max_epochs=3, limit_val_batches=0, **settings).fit(defense, datamodule=Tiny())
    assert len(watch.lr) == 3 * steps
    rising = [(step + 1) / (steps + 1) for step in range(steps)]
    falling = [(3 * steps - step) / (2 * steps) for step in range(steps, 3 * steps)]
    for lrs, wanted in zip(watch.lr, rising + falling, strict=True):
        assert lrs == pytest.approx([0.2 * wanted] * 2)


def test_schedule_counts_accumulated_batches_once(make, network):
    watch = Watch()
    defense = make(Regular, network.float(), **FALLING)
    trainer = _trainer(watch, max_epochs=2, limit_val_batches=0, accumulate_grad_batches=2)
    trainer.fit(defense, datamodule=Tiny())
    assert [lrs[0] for lrs in watch.lr] == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


def test_torchs_schedules_step_by_epoch_or_know_its_steps(make, network):
    watch = Watch()
    cosine = partial(CosineAnnealingLR, T_max=3)
    defense = make(Regular, network.float(), optimizer=partial(SGD, lr=1.0), scheduler=cosine)
    _trainer(watch, max_epochs=3, limit_val_batches=0).fit(defense, datamodule=Tiny())
    expected = [(1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3) for _ in range(4)]
    assert [lrs[0] for lrs in watch.lr] == pytest.approx(expected)

    defense = make(Regular, network.float(), scheduler=partial(OneCycleLR, max_lr=0.5))
    _, schedule = _configured(defense, max_epochs=3)
    assert schedule["interval"] == "step"
    assert schedule["scheduler"].total_steps == 12


class Loader:
    """Batches that do not come from an ImageDataModule."""

    def __init__(self, batch):
        self.batch = batch._replace(x=batch.x.float(), targets=batch.targets.float())

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([self.batch] * 3)


def test_schedule_with_somebody_elses_data(make, network, batch):
    watch = Watch()
    defense = make(Regular, network.float(), **FALLING)
    loader = Loader(batch)
    _trainer(watch, max_epochs=2).fit(defense, train_dataloaders=loader, val_dataloaders=loader)
    assert [lrs[0] for lrs in watch.lr] == pytest.approx([1 - step / 6 for step in range(6)])


def test_mixing_of_the_defense_reaches_the_data(make, network):
    watch = Watch()
    trainer = _trainer(watch, max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    trainer.fit(make(Regular, network.float(), mixing="vh_mixup"), datamodule=Tiny())
    targets = watch.targets[0]
    assert torch.allclose(targets.sum(1), torch.ones(5))
    assert (targets.max(1).values < 1).any()


def test_mixing_needs_a_datamodule_that_mixes(make, network, batch):
    trainer, loader = _trainer(Watch(), max_epochs=1), Loader(batch)
    defense = make(Regular, network.float(), mixing="vh_mixup")
    with pytest.raises(ValueError, match=r"^mixing='vh_mixup' needs an .*ImageDataModule"):
        trainer.fit(defense, train_dataloaders=loader, val_dataloaders=loader)


def test_training_step_keeps_modes_and_uses_batch_norm_once(make, bn_network, batch, monkeypatch):
    defense = make(PGDTraining, bn_network, attack=PGDAttack(steps=2), alpha=0.5)
    monkeypatch.setattr(defense, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(defense, "log_dict", lambda *args, **kwargs: None)
    defense.network[2].eval()
    modes = [module.training for module in defense.modules()]
    defense.training_step(batch, 0).backward()
    assert [module.training for module in defense.modules()] == modes
    assert defense.network[1].num_batches_tracked == 1
    assert all(p.requires_grad and p.grad is not None for p in defense.parameters())


def test_any_network_of_images_will_do(batch):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4).double()

        def forward(self, x):
            return self.layer(x.mean((2, 3)))

    terms = PGDTraining(Mine(), num_classes=4).loss_terms(batch)
    assert terms["adversarial"].isfinite()


def test_name_defaults_to_the_class(network):
    assert Regular(network).name == "Regular"
    assert Regular(network, name="mine").name == "mine"


def test_defense_itself_cannot_be_made(network):
    with pytest.raises(TypeError, match="loss_terms"):
        Defense(network)


@pytest.mark.parametrize(
    ("defense", "setting", "message"),
    [
        (Regular, {"num_classes": 1}, "num_classes=1 must be a whole number >= 2"),
        (Regular, {"epochs": 0}, "epochs=0 must be a whole number >= 1"),
        (
            Regular,
            {"smoothing": 0.91},
            "smoothing=0.91 must be a number >= 0 and <= 0.9 (1 - 1/num_classes)",
        ),
        (
            Regular,
            {"smoothing": 0.8, "num_classes": 4},
            "smoothing=0.8 must be a number >= 0 and <= 0.75 (1 - 1/num_classes)",
        ),
        (Regular, {"squeeze_weight": -1}, "squeeze_weight=-1 must be a number >= 0"),
        (Regular, {"mixing": "cutmix"}, "mixing='cutmix' is unknown; choose one of: none, mixup, "),
        (Regular, {"mixing_alpha": 0}, "mixing_alpha=0 must be a number > 0"),
        (PGDTraining, {"alpha": 1.1}, "alpha=1.1 must be a number >= 0 and <= 1"),
        (PGDTraining, {"alpha": None}, "alpha=None must be a number >= 0 and <= 1"),
        (AdversarialLogitPairing, {"pairing_weight": -1}, "pairing_weight=-1 must be a number >= "),
        (
            AdversarialLogitPairing,
            {"pairing_distance": "l3"},
            "pairing_distance='l3' is unknown; choose one of: l2, l1, huber",
        ),
        (CleanLogitPairing, {"pairing_weight": -1}, "pairing_weight=-1 must be a number >= 0"),
        (CleanLogitPairing, {"pairing_distance": "cosine"}, "pairing_distance='cosine' is unknown"),
        (
            LogitRegularization,
            {"pairing_to_adversarial_ratio": -0.1},
            "pairing_to_adversarial_ratio=-0.1 must be a number >= 0",
        ),
        (LogitRegularization, {"pairing_kind": "kl"}, "pairing_kind='kl' is unknown; choose one "),
        (LogitRegularization, {"detach_clean": 1}, "detach_clean=1 must be true or false"),
    ],
)
def test_settings_out_of_range(defense, setting, message, network):
    with pytest.raises(ValueError, match=r"^\w+=") as error:
        defense(network, **setting)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_ends_of_the_smoothing_range_are_allowed(smoothing, network):
    assert Regular(network, smoothing=smoothing).smoothing == smoothing
