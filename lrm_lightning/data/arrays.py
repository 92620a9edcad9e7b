"""Images of the user's own: one .npz file of pixels and labels, or a folder of images by class."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs.files import expanded

# What numpy raises on a file that is damaged or no .npz, and what is raised here.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
SHAPES = "uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
MEND = "give an .npz of x_train, y_train, x_test and y_test, or a folder with train/CLASS/IMAGE and"
MEND += " test/CLASS/IMAGE (docs/data.md)"


class ArraysDataModule(ImageDataModule):
    """Images of an ``.npz`` file, as ``numpy.savez`` writes it, or of a folder.

    ``x_train`` and ``x_test`` are uint8 pixels of shape (N, H, W, C) with one or three channels, or
    (N, H, W). ``y_train`` and ``y_test`` are whole numbers of shape (N,) from 0 to the number of
    classes less 1; each occurs in ``y_train``. Nothing in the file is executed.

    A folder has ``train`` and ``test``, and in each a folder for each class, whose images are all
    of one size, of at most 8 bits a channel; the classes are numbered in the order of their names.
    Grey images have one channel, others three.

    Labels and shapes are read and checked by the constructor, since networks depend on them.

    Args:
        root: The file or the folder.
        **shared: Arguments of :class:`~lrm_lightning.data.datamodule.ImageDataModule`; by default
            few images are held out and none is mirrored.

    Raises:
        UserError: If the file can't be read or is not as described.
    """

    name = "arrays"
    official = False

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        val_size: int = 500,
        crop_padding: int = 2,
        flip: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(val_size=val_size, crop_padding=crop_padding, flip=flip, **shared)
        if root is None:
            raise ValueError("root=None must be the .npz file, or the folder, of the images")
        self.root = expanded(root)
        self.note = self.root.name
        with _opened(self.root) as arrays:
            self.num_classes, self.in_channels = _checked(arrays)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read the images."""
        with _opened(self.root) as arrays:
            train, test = (
                ImageSplit(_planes(arrays[f"x_{part}"]), _labels(arrays[f"y_{part}"]))
                for part in ("train", "test")
            )
        return train, test


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays of a file or a folder; whatever is wrong with them becomes a UserError."""
    try:
        if path.is_dir():
            yield _of_folder(path)
            return
        # pickles could run code
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or text_of(error)
        raise UserError(f"data.root={path}: {reason}; {MEND}") from error


def _of_folder(root: Path) -> dict[str, np.ndarray]:
    """The four arrays of a folder."""
    arrays, classes = {}, {}
    for part in ("train", "test"):
        folders = sorted(path for path in (root / part).iterdir() if path.is_dir())
        classes[part] = {path.name for path in folders}
        files = [sorted(path.iterdir()) for path in folders]
        arrays[f"x_{part}"] = np.stack([_pixels(path) for each in files for path in each])
        arrays[f"y_{part}"] = np.repeat(np.arange(len(files)), [len(each) for each in files])
    if odd := classes["train"] ^ classes["test"]:
        raise ValueError(f"train and test must have the same classes, not {sorted(odd)} in one")
    return arrays


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode[0] in "IF":  # pillow would clip them
            raise ValueError(f"{path} has more than 8 bits a channel ({image.mode})")
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _header(arrays: Any, name: str) -> tuple[tuple[int, ...], np.dtype]:  # noqa: ANN401
    """Shape and type of an array; of a file's no pixel is read."""
    if isinstance(arrays, dict):
        return arrays[name].shape, arrays[name].dtype
    with arrays.zip.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _checked(arrays: Any) -> tuple[int, int]:  # noqa: ANN401
    """Number of classes and of channels; raises ValueError."""
    sizes = set()
    for part in ("train", "test"):
        shape, dtype = _header(arrays, f"x_{part}")
        if dtype != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
            raise ValueError(f"x_{part} is {dtype} of shape {shape} instead of {SHAPES}")
        y = arrays[f"y_{part}"]
        if y.dtype.kind not in "iu" or y.shape != shape[:1] or not len(y):
            found = f"y_{part} is {y.dtype} of shape {y.shape}"
            raise ValueError(f"{found} instead of whole numbers, one for each of {shape[0]} images")
        sizes.add(shape[1:3] + (shape[3:] or (1,)))
    if len(sizes) > 1:
        raise ValueError(f"x_train and x_test have images of different shapes, {sizes}")
    classes = np.unique(arrays["y_train"])
    count, test = len(classes), arrays["y_test"]
    if count < 2 or (classes != np.arange(count)).any() or test.min() < 0 or test.max() >= count:
        found = f"y_train has {count} classes from {classes[0]} to {classes[-1]}"
        found += f", y_test classes from {test.min()} to {test.max()}"
        raise ValueError(f"{found}; they must be 0 to C - 1, all of them in y_train")
    return count, sizes.pop()[2]


def _planes(x: np.ndarray) -> torch.Tensor:
    with_channels = x.reshape(*x.shape[:3], -1)
    return torch.from_numpy(np.ascontiguousarray(with_channels.transpose(0, 3, 1, 2)))


def _labels(y: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(y.astype(np.int64))
