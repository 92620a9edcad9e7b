from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lrm_lightning.data import ImageDataModule, ImageSplit
from lrm_lightning.errors import UserError


class Tiny(ImageDataModule):
    """40 training and 11 test images; every image is told by its pixels."""

    name = "tiny"
    num_classes = 2
    class_names = ("even", "odd")

    def __init__(self, **settings):
        super().__init__(**({"val_size": 8, "crop_padding": 1} | settings))

    def load(self):
        gen = torch.Generator().manual_seed(0)
        images = torch.randint(256, (51, 3, 4, 4), generator=gen, dtype=torch.uint8)
        labels = torch.arange(51) % 2
        return ImageSplit(images[:40], labels[:40]), ImageSplit(images[40:], labels[40:])


def _tiny(**settings):
    module = Tiny(**settings)
    module.setup()
    return module


def _pixels(split):
    return {image.numpy().tobytes() for image in split.images}


def test_validation_is_held_out_of_training_by_class():
    module = _tiny(batch_size=8)
    train, val = module.train_dataloader().split, module.val_dataloader().split
    assert len(_pixels(train)) == 32
    assert len(_pixels(val)) == 8
    assert not _pixels(train) & _pixels(val)
    assert _pixels(train) | _pixels(val) == _pixels(module.load()[0])
    assert torch.bincount(val.labels).tolist() == [4, 4]


def test_split_seed_alone_chooses_the_validation_images():
    val = _tiny().val_dataloader().split
    assert torch.equal(val.images, _tiny(seed=3).val_dataloader().split.images)
    assert _pixels(val) != _pixels(_tiny(split_seed=1).val_dataloader().split)


def test_test_set_keeps_its_order():
    module = _tiny(eval_batch_size=4)
    found = torch.cat([batch.x for batch in module.test_dataloader()])
    assert torch.equal(found, module.load()[1].images / 255)


def test_files_are_fetched_before_they_are_read_and_never_again():
    class Fetched(Tiny):
        calls = ""

        def fetch(self):
            self.calls += "fetch "

        def load(self):
            self.calls += "load "
            return super().load()

    module = Fetched()
    module.setup()
    module.prepare_data()
    module.setup("fit")
    assert module.calls == "fetch load "


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x / 255, y), "images of torch.float32 and labels of torch.int64; they"),
        (lambda x, y: (x, y.int()), "images of torch.uint8 and labels of torch.int32; they must"),
        (lambda x, y: (x, y[:-1]), r"of shape \(\d+, 3, 4, 4\) and labels of shape \(\d+,\)"),
        (lambda x, y: (x, y[:, None]), r"labels of shape \(\d+, 1\); there must be at least one"),
        (lambda x, y: (x[:0], y[:0]), "there must be at least one image, and a label for each"),
        (lambda x, y: (x[:, :1], y), r"not \(N, channels, H, W\) with in_channels=3; set"),
        (lambda x, y: (x, y + 1), "labels from 1 to 2, but num_classes=2; set num_classes in the"),
    ],
)
def test_images_and_labels_of_another_kind_are_refused(part, change, told):
    class Other(Tiny):
        def load(self):
            splits = list(super().load())
            splits[part] = ImageSplit(*change(*splits[part]))
            return tuple(splits)

    with pytest.raises(UserError, match=rf"^Other.*{told}"):
        Other().setup()


def test_fingerprint_changes_with_any_byte():
    module = _tiny()

    class Other(Tiny):
        def load(self):
            train, test = super().load()
            test.images[-1, -1, -1, -1] ^= 1
            return train, test

    other = Other()
    other.setup()
    assert len(module.fingerprint) == 64
    assert module.fingerprint == _tiny(val_size=3, split_seed=5).fingerprint
    assert module.fingerprint != other.fingerprint


def test_steps_per_epoch_is_what_the_loader_gives():
    for batch_size in (1, 5, 32):
        module = _tiny(batch_size=batch_size)
        assert module.steps_per_epoch == len(list(module.train_dataloader()))


def test_rank_and_world_size_are_the_trainers():
    module = _tiny(batch_size=8)
    module.trainer = SimpleNamespace(
        global_rank=1, world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    batch = next(iter(module.train_dataloader()))
    assert (batch.draws.size, batch.draws.first_row, batch.draws.end_row) == (8, 4, 8)
    assert len(next(iter(module.test_dataloader())).y) == 6


def test_a_data_set_must_be_loaded():
    with pytest.raises(TypeError, match="load"):
        ImageDataModule()


def test_validation_set_that_leaves_nothing_to_train_on():
    with pytest.raises(UserError, match=r"^data.val_size=40 leaves nothing of the 40 images"):
        _tiny(val_size=40)


class Recorder(LightningModule):
    """Keeps what it was given; learns nothing."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained = []

    def training_step(self, batch):
        self.trained.append((self.current_epoch, batch.draws, batch.index.tolist(), batch.x))
        return self.layer.weight.sum() * 0

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


EPOCHS, STEPS = 3, 4


def _fit(folder, *, resume=None, **settings):
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        ],
    )
    data = Tiny(batch_size=8, **settings)
    data.augmentation = data.augmentation._replace(mixing="vh_mixup")
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_resuming_after_any_step_sees_what_an_undisturbed_run_sees(tmp_path):
    whole = _fit(tmp_path / "whole")
    assert [epoch for epoch, *_ in whole.trained] == [0] * 4 + [1] * 4 + [2] * 4
    assert [draws.epoch for _, draws, *_ in whole.trained] == [0] * 4 + [1] * 4 + [2] * 4
    for step in (1, 3, 4, 5, 8, 10):  # inside epochs, after the first and last batch of one
        resumed = _fit(tmp_path / f"resumed{step}", resume=tmp_path / "whole" / f"step={step}.ckpt")
        assert len(resumed.trained) == EPOCHS * STEPS - step, f"after step {step}"
        for found, wanted in zip(resumed.trained, whole.trained[step:], strict=True):
            assert found[:3] == wanted[:3], f"after step {step}"
            assert torch.equal(found[3], wanted[3])
