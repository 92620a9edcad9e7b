"""CIFAR-10: reused from disk or downloaded, read only if its files are what they claim to be."""

import hashlib
import os
import pickle
import tarfile
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import requests
import torch

from lrm_lightning.checks import check_flag
from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import locked
from lrm_lightning.runs.records import CLASS_NAMES

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
RECORDS = 10_000  # images in each file
PIXELS = 3 * 32 * 32  # bytes of an image: the red, green and blue plane, each row by row

BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
# The files of each layout, training first, and their official MD5s. The page of CIFAR-10 gives the
# archives' alone: those of the pickles are torchvision's; those of the binary files are what two
# unrelated loaders, in C++ and in Go, agree on.
FILES = {
    BINARY: {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    PICKLED: {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
}


class CIFAR10DataModule(ImageDataModule):
    """60,000 natural 32x32 RGB images of 10 classes: 50,000 to train and validate, 10,000 to test.

    Args:
        root: Folder of ``cifar-10-batches-bin/`` or ``cifar-10-batches-py/``, now or later; the
            former is read if both are there.
        require_official: Refuse files whose MD5 is not the official one. Otherwise such files
            are used, and ``official`` and ``note`` say so. Pickles are never exempt.
        download: Whether the official archive may be downloaded if neither folder is there.
        **shared: Arguments of :class:`~lrm_lightning.data.datamodule.ImageDataModule`.

    References:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    name = "cifar10"
    num_classes = 10
    class_names = CLASS_NAMES["cifar10"]

    def __init__(
        self,
        root: str | Path = "data",
        *,
        require_official: bool = True,
        download: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_flag("require_official", require_official)
        check_flag("download", download)
        self.root = Path(root).expanduser()
        self.require_official = require_official
        self.download = download

    def prepare_data(self) -> None:
        if _find_layout(self.root) is None:
            _fetch(self.root, download=self.download)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read and check the six files, which are fetched first if nothing has done so."""
        self.prepare_data()
        layout = _find_layout(self.root)
        assert layout is not None
        parts: list[ImageSplit] = []
        for name, md5 in FILES[layout].items():
            path = self.root / layout / name
            raw = _read(path)
            found = hashlib.md5(raw).hexdigest()
            parts.append(
                _records(raw, path) if layout == BINARY else _pickle(raw, path, found, md5)
            )
            if found != md5:
                self._accept_unofficial(path)
        images, labels = (torch.cat(each) for each in zip(*parts[:-1], strict=True))
        return ImageSplit(images, labels), parts[-1]

    def _accept_unofficial(self, path: Path) -> None:
        if self.require_official:
            raise UserError(
                f"{path} does not have its official MD5: set data.require_official=false to use it "
                f"anyway, marked as not official, or {_replace(path)}"
            )
        self.official, self.note = False, "not the official bytes"


def _find_layout(root: Path) -> str | None:
    # os.path, because Path.is_dir raises where it may not look
    return next((folder for folder in FILES if os.path.isdir(root / folder)), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_replace(path)}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read {path}: {reason}; check its permissions") from error


def _records(raw: bytes, path: Path) -> ImageSplit:
    """Images and labels of a binary file: records of one label byte and 3,072 pixel bytes."""
    expected = RECORDS * (1 + PIXELS)
    if len(raw) != expected:
        wrong = "truncated" if len(raw) < expected else "too long"
        sizes = f"{len(raw)} bytes where {expected} are expected"
        raise UserError(f"{path} is {wrong}: {sizes}; {_replace(path)}")
    records = np.frombuffer(raw, dtype=np.uint8).reshape(RECORDS, 1 + PIXELS)
    if records[:, 0].max() > 9:
        first = int(np.argmax(records[:, 0] > 9))
        found = f"record {first} has label {records[first, 0]} where 0 to 9 are possible"
        raise UserError(f"{path} is damaged: {found}; {_replace(path)}")
    return _split(records[:, 1:], records[:, 0])


def _pickle(raw: bytes, path: Path, found: str, md5: str) -> ImageSplit:
    """Images and labels of a file of torchvision's layout; it is unpickled only if official."""
    if found != md5:
        raise UserError(
            f"{path} has MD5 {found}, not the official {md5}, and an unknown pickle is never "
            f"opened, because it can run code: {_replace(path)}, or bring the data as {BINARY}/"
        )
    with warnings.catch_warnings():
        # these pickles are older than the spelling of dtypes that numpy wants today
        warnings.simplefilter("ignore")
        content = pickle.loads(raw, encoding="bytes")
    return _split(content[b"data"], np.array(content[b"labels"]))


def _split(pixels: np.ndarray, labels: np.ndarray) -> ImageSplit:
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return ImageSplit(images, torch.from_numpy(labels.astype(np.int64)))


def _replace(path: Path) -> str:
    return f"delete {path.parent} to have the official files downloaded afresh"


def _fetch(root: Path, *, download: bool) -> None:
    """Put the binary layout into ``root``, from an archive lying there or from the official URL.

    The archive counts only once its MD5 is right, and the folder appears only once it is complete,
    so an interrupted call leaves nothing that a later one could take for good.
    """
    archive = root / URL.rpartition("/")[2]
    try:
        intact = archive.is_file() and pooch.file_hash(str(archive), alg="md5") == ARCHIVE_MD5
        if not (download or intact):
            raise UserError(
                f"no CIFAR-10 in {root}, where {archive.name} is missing or damaged, and "
                f"data.download=false: set data.download=true, put {BINARY}/ there by hand, or use "
                "data=digits"
            )
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if _find_layout(root) is None:  # else another job has fetched it while we waited
                pooch.retrieve(URL, f"md5:{ARCHIVE_MD5}", archive.name, root, progressbar=True)
                _unpack(archive, root)
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise UserError(
            f"cannot download {URL} ({type(error).__name__}, {status}): put {archive.name}, or "
            f"{BINARY}/ from it, into {root} by hand, or use data=digits"
        ) from error
    except ValueError as error:  # pooch's word for a wrong hash
        raise UserError(
            f"what {URL} sent is not the official archive (MD5 {ARCHIVE_MD5}) and was thrown "
            f"away: try again, or put {BINARY}/ into {root} by hand"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot put CIFAR-10 into {root} ({error.strerror or error}): make it writable with "
            "350 MB free, or choose another data.root"
        ) from error


def _unpack(archive: Path, root: Path) -> None:
    """Unpack the files we know, and no others, into a scratch folder; then move that into place."""
    with tempfile.TemporaryDirectory(dir=root, prefix="unpacking-") as scratch:
        try:
            with tarfile.open(archive) as tar:
                for name in FILES[BINARY]:
                    tar.extract(f"{BINARY}/{name}", scratch, filter="data")
        except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
            reason = type(error).__name__  # tarfile's own words run over several lines
            raise UserError(f"{archive} is damaged ({reason}): delete it and run again") from error
        target = root / BINARY
        try:
            (Path(scratch) / BINARY).rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same files
                raise
