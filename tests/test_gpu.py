"""What only a GPU can show; `make gpu-check` runs it, and `pytest -m gpu`."""

import copy

import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.forward import exact_arithmetic
from lrm_lightning.data import DigitsDataModule, ImageSplit
from lrm_lightning.data.loader import Augmentation, TrainLoader
from lrm_lightning.methods import PGDTraining
from lrm_lightning.models import ResNet
from lrm_lightning.training.robust_accuracy import RobustAccuracy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or it is hidden"),
    pytest.mark.filterwarnings("ignore"),  # of torch.compile
]
SETTINGS = {"eps": 0.1, "step_size": 0.025, "steps": 5, "random_start": False}


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet(depth=1, widths=[4, 4, 8, 8]).eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 3, 32, 32, generator=generator), torch.arange(8)


@pytest.mark.parametrize("engine", ["reference", "fast", "compile"])
def test_attacks_find_what_they_find_on_a_processor(engine, network, images):
    x, y = images
    network, x = network.double(), x.double()
    expected = PGDAttack(**SETTINGS, engine="reference")(network, x, y)
    attack = PGDAttack(**SETTINGS, engine=engine)
    for _ in range(2):  # the second time a compiled one is recorded
        found = attack(copy.deepcopy(network).cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)


def test_exact_arithmetic_has_no_tf32():
    a, b = (torch.rand(256, 256, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    kernel = torch.rand(8, 256, 3, 3, generator=torch.Generator().manual_seed(2))
    pixels = torch.rand(4, 256, 16, 16, generator=torch.Generator().manual_seed(3))
    torch.set_float32_matmul_precision("high")
    try:
        with exact_arithmetic():
            product = (a.cuda() @ b.cuda()).cpu()
            convolved = torch.nn.functional.conv2d(pixels.cuda(), kernel.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = torch.nn.functional.conv2d(pixels.double(), kernel.double())
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(convolved.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mixing", ["none", "mixup", "vh_mixup"])
def test_batches_are_those_of_a_processor_and_nothing_waits_for_the_gpu(mixing):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(5, (64,), generator=generator)
    batches = []
    for device in ("cpu", "cuda"):
        split = ImageSplit(pixels.to(device), labels.to(device))
        augmentation = Augmentation(2, True, mixing)
        loader = TrainLoader(split, num_classes=5, batch_size=16, augmentation=augmentation)
        loader.set_epoch(0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            batches.append(list(loader))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(*batches, strict=True):
        torch.testing.assert_close(other.x.cpu(), one.x)
        torch.testing.assert_close(other.targets.cpu(), one.targets)


def test_a_training_runs_there(network, tmp_path):
    import lightning as L

    callback = RobustAccuracy(PGDAttack(**SETTINGS), steps=[2], test_steps=[2], n_images=20)
    trainer = L.Trainer(
        accelerator="gpu", devices=1, max_epochs=1, limit_train_batches=3, limit_test_batches=1,
        logger=False, enable_checkpointing=False, inference_mode=False, callbacks=[callback],
        use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = DigitsDataModule(val_size=40, batch_size=16, eval_batch_size=20)
    defense = PGDTraining(network, attack=PGDAttack(**SETTINGS))
    trainer.fit(defense, datamodule=data)
    trainer.test(defense, datamodule=data, verbose=False)
    assert trainer.strategy.root_device.type == "cuda"
    assert callback.correct["pgd2"].shape == (20,)
    assert (
        0 <= trainer.callback_metrics["test/acc/pgd2"] <= trainer.callback_metrics["test/acc/clean"]
    )
