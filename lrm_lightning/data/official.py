"""Official files of a data set: reused from disk or downloaded, read only once they are checked.

Nothing that comes from a file is executed: a pickle is opened only after its official MD5 matched.
"""

import hashlib
import pickle
import tarfile
import tempfile
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pooch
import requests
import torch

from lrm_lightning.checks import check_flag
from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import expanded, locked

OWN = "use data=arrays for images of your own"


class OfficialDataModule(ImageDataModule):
    """Images of files that everyone has under their name; to be subclassed, one data set a file.

    A subclass names the files and their official MD5s, and says in :meth:`is_there` whether any has
    to be fetched.

    Args:
        root: Folder of the files, now or later.
        download: Whether the official files may be downloaded if they are not there.
        **shared: Arguments of :class:`~lrm_lightning.data.datamodule.ImageDataModule`.
    """

    title: ClassVar[str]  # as messages call it
    downloads: ClassVar[Mapping[str, str]]  # the official MD5 of each URL's file
    megabytes: ClassVar[int]  # of disk that fetching needs
    # Of an archive, the folder that is kept of it, and which files of that.
    unpacked: ClassVar[tuple[str, Sequence[str]]] = ("", ())
    folders: ClassVar[Sequence[str]] = ()  # names of folders in ``root`` that hold the files

    def __init__(self, root: str | Path = "data", *, download: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        check_flag("download", download)
        self.root = expanded(root)
        self.download = download

    @abstractmethod
    def is_there(self) -> bool:
        """Whether nothing has to be fetched."""
        # By os.path: where it may not look, Path.is_dir raises.

    def fetch(self) -> None:
        """Fetch what is not there.

        A file counts only once its MD5 is right, and an archive's folder appears only once it is
        complete, so an interrupted call leaves nothing that a later one could take for good.

        Raises:
            UserError: If they can't be had, or ``root`` is the folder of the files itself.
        """
        if not self.is_there():
            if self.root.absolute().name in self.folders:
                above = self.root.absolute().parent
                raise UserError(
                    f"data.root={self.root} is where {self.title}'s files themselves lie; give the"
                    f" folder above it, data.root={above}"
                )
            for url, md5 in self.downloads.items():
                self._fetch(url, md5)

    def _fetch(self, url: str, md5: str) -> None:
        root, path = self.root, self.root / url.rpartition("/")[2]
        folder = self.unpacked[0]
        by_hand = f"{path.name}, or {folder}/ from it," if folder else path.name
        try:
            intact = path.is_file() and pooch.file_hash(str(path), alg="md5") == md5
            if not (self.download or intact):
                raise UserError(
                    f"no {self.title} in {root}, where {path.name} is missing or damaged, and"
                    f" data.download=false: set data.download=true, put {by_hand} there by hand, or"
                    " use data=digits"
                )
            root.mkdir(parents=True, exist_ok=True)
            with locked(root):
                if not self.is_there():  # else another job has fetched it while we waited
                    pooch.retrieve(url, f"md5:{md5}", path.name, root, progressbar=True)
                    if folder:
                        _unpack(path, *self.unpacked)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else "no answer"
            raise UserError(
                f"cannot download {url} ({type(error).__name__}, {status}): put {by_hand} into"
                f" {root} by hand, or use data=digits"
            ) from error
        except ValueError as error:  # pooch's word for a wrong hash
            raise UserError(
                f"what {url} sent is not the official file (MD5 {md5}) and was thrown away: try"
                f" again, or put {by_hand} into {root} by hand"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot put {self.title} into {root} ({error.strerror or error}): make it writable"
                f" with {self.megabytes} MB free, or choose another data.root"
            ) from error


def read(path: Path, mend: str) -> tuple[bytes, str]:
    """The bytes of a file and their MD5 in hex; ``mend`` says what to do if it is missing."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {mend}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read {path}: {reason}; check its permissions") from error
    return raw, hashlib.md5(raw).hexdigest()


def afresh(path: Path) -> str:
    """What to do about a file, or a folder of files, that is not as it should be."""
    return f"move {path} away to have the official files downloaded afresh"


def read_pickle(path: Path, md5: str, labels: bytes, otherwise: str) -> ImageSplit:
    """Images and labels of a file of CIFAR's Python layout; it is unpickled only if official.

    Args:
        path: The file.
        md5: Its official MD5 in hex.
        labels: Under which key it has the labels.
        otherwise: What can be used instead of it.
    """
    mend = afresh(path.parent)
    raw, found = read(path, mend)
    if found != md5:
        raise UserError(
            f"{path} has MD5 {found}, not the official {md5}, and an unknown pickle is never"
            f" opened, because it can run code: {mend}, or {otherwise}"
        )
    with warnings.catch_warnings():
        # these pickles are older than the spelling of dtypes that numpy wants today
        warnings.simplefilter("ignore")
        content = pickle.loads(raw, encoding="bytes")
    return split_of_planes(content[b"data"], np.array(content[labels]))


def split_of_planes(pixels: np.ndarray, labels: np.ndarray) -> ImageSplit:
    """CIFAR's pixels, the red, green and blue plane of each image row by row, and their labels."""
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return ImageSplit(images, torch.from_numpy(labels.astype(np.int64)))


def _unpack(archive: Path, folder: str, names: Sequence[str]) -> None:
    """Unpack the files we know, and no others, into a scratch folder; then move that into place."""
    root = archive.parent
    with tempfile.TemporaryDirectory(dir=root, prefix="unpacking-") as scratch:
        try:
            with tarfile.open(archive) as tar:
                for name in names:
                    tar.extract(f"{folder}/{name}", scratch, filter="data")
        except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
            reason = type(error).__name__  # tarfile's own words run over several lines
            raise UserError(f"{archive} is damaged ({reason}): delete it and run again") from error
        target = root / folder
        try:
            (Path(scratch) / folder).rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same files
                raise
