"""What every defence shares, in a real Trainer where Lightning matters."""

import lightning as L
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import ImageDataModule, ImageSplit
from lrm_lightning.methods import Defense, PGDTraining, Regular, SGDRecipe, VHMixup


class Tiny(ImageDataModule):
    """24 training and 5 test images of 4 classes."""

    name = "tiny"
    num_classes = 4

    def __init__(self, **settings):
        super().__init__(val_size=4, crop_padding=0, flip=False, batch_size=5, **settings)

    def load(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (29, 3, 6, 6), generator=generator, dtype=torch.uint8)
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


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 4), ({"limit_train_batches": 2}, 2), ({"limit_train_batches": 0.5}, 2)],
)
def test_schedule_knows_the_steps_of_an_epoch(settings, steps, make, network):
    watch = Watch()
    recipe = SGDRecipe(lr=0.2, schedule="one_cycle", warmup_epochs=1)
    defense = make(Regular, network.float(), optimizer=recipe)
    _trainer(watch, max_epochs=3, limit_val_batches=0, **settings).fit(defense, datamodule=Tiny())
    assert len(watch.lr) == 3 * steps
    rising = [(step + 1) / (steps + 1) for step in range(steps)]
    falling = [(3 * steps - step) / (2 * steps) for step in range(steps, 3 * steps)]
    for lrs, wanted in zip(watch.lr, rising + falling, strict=True):
        assert lrs == pytest.approx([0.2 * wanted] * 2)


def test_schedule_counts_accumulated_batches_once(make, network):
    watch = Watch()
    recipe = SGDRecipe(lr=1.0, schedule="one_cycle", warmup_epochs=0)
    defense = make(Regular, network.float(), optimizer=recipe)
    trainer = _trainer(watch, max_epochs=2, limit_val_batches=0, accumulate_grad_batches=2)
    trainer.fit(defense, datamodule=Tiny())
    assert [lrs[0] for lrs in watch.lr] == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


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
    recipe = SGDRecipe(lr=1.0, schedule="one_cycle", warmup_epochs=0)
    defense = make(Regular, network.float(), optimizer=recipe)
    loader = Loader(batch)
    _trainer(watch, max_epochs=2).fit(defense, train_dataloaders=loader, val_dataloaders=loader)
    assert [lrs[0] for lrs in watch.lr] == pytest.approx([1 - step / 6 for step in range(6)])


def test_mixing_of_the_defense_reaches_the_data(make, network):
    watch = Watch()
    trainer = _trainer(watch, max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    trainer.fit(make(VHMixup, network.float(), optimizer=SGDRecipe()), datamodule=Tiny())
    targets = watch.targets[0]
    assert torch.allclose(targets.sum(1), torch.ones(5))
    assert (targets.max(1).values < 1).any()


def test_defense_without_mixing_unmixes_the_data(make, network):
    watch = Watch()
    trainer = _trainer(watch, max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    trainer.fit(make(Regular, network.float()), datamodule=Tiny(mixing="mixup"))
    assert (watch.targets[0].max(1).values == 1).all()


def test_mixing_needs_a_datamodule_that_mixes(make, network, batch):
    trainer, loader = _trainer(Watch(), max_epochs=1), Loader(batch)
    defense = make(VHMixup, network.float())
    with pytest.raises(ValueError, match=r"^mixing='vh_mixup' needs an .*ImageDataModule"):
        trainer.fit(defense, train_dataloaders=loader, val_dataloaders=loader)


def test_training_step_gives_channels_last_images(make, network, batch, monkeypatch):
    seen = []

    class Seeing(Regular):
        def loss_terms(self, batch):
            seen.append(batch.x)
            return super().loss_terms(batch)

    defense = make(Seeing, network)
    monkeypatch.setattr(defense, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(defense, "log_dict", lambda *args, **kwargs: None)
    loss = defense.training_step(batch, 0)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0], batch.x)
    assert loss.item() == pytest.approx(
        nn.functional.cross_entropy(network(batch.x), batch.y).item(), rel=1e-12
    )


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
    ("setting", "message"),
    [
        ({"num_classes": 1}, "num_classes=1 must be a whole number >= 2"),
        ({"epochs": 0}, "epochs=0 must be a whole number >= 1"),
        (
            {"smoothing": -0.1},
            "smoothing=-0.1 must be a number >= 0 and <= 0.9 (1 - 1/num_classes)",
        ),
        (
            {"smoothing": 0.91},
            "smoothing=0.91 must be a number >= 0 and <= 0.9 (1 - 1/num_classes)",
        ),
        (
            {"smoothing": 0.8, "num_classes": 4},
            "smoothing=0.8 must be a number >= 0 and <= 0.75 (1 - 1/num_classes)",
        ),
        ({"squeeze_weight": -1}, "squeeze_weight=-1 must be a number >= 0"),
        ({"mixing": "cutmix"}, "mixing='cutmix' is unknown; choose one of: none, mixup, vh_mixup"),
        ({"mixing_alpha": 0}, "mixing_alpha=0 must be a number > 0"),
    ],
)
def test_settings_out_of_range(setting, message, network):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        Regular(network, **setting)
    assert str(error.value) == message


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_ends_of_the_smoothing_range_are_allowed(smoothing, network):
    assert Regular(network, smoothing=smoothing).smoothing == smoothing
