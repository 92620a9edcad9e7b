"""What a batch copies from the processor to a GPU, seen on a device without memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lrm_lightning.data import ImageSplit
from lrm_lightning.data.loader import Augmentation, TrainLoader


class Copies(TorchDispatchMode):
    """Notes each copy between devices, and whether the processor goes on meanwhile."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            sources = [each for each in args if isinstance(each, torch.Tensor) and each.ndim]
            if any(each.device != result.device for each in sources):
                self.found.append((operator._schema.name, (kwargs or {}).get("non_blocking")))
        return result


@pytest.mark.parametrize(
    ("mixing", "copies"), [("none", 5), ("mixup", 6), ("vh_mixup", 8)], ids=lambda each: str(each)
)
def test_no_copy_of_a_batch_waits_for_the_gpu(mixing, copies, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda each: pinned.append(each) or each)
    images = torch.zeros(64, 3, 8, 8, dtype=torch.uint8, device="meta")
    split = ImageSplit(images, torch.zeros(64, dtype=torch.int64, device="meta"))
    augmentation = Augmentation(2, True, mixing)
    loader = TrainLoader(split, num_classes=5, batch_size=16, augmentation=augmentation)
    loader.set_epoch(0)
    with Copies() as seen:
        batch = next(iter(loader))
    assert batch.x.device.type == "meta"
    assert len(seen.found) == len(pinned) == copies  # one of them, the order, once an epoch
    assert set(seen.found) == {("aten::_to_copy", True)}
