"""Images with their perturbation and what the network made of both, as PNGs inside the page."""

import base64
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lrm_lightning.reporting.groups import Group
from lrm_lightning.reporting.records import Evaluation
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.runs.records import CLASS_NAMES

AMPLIFICATION = 10
ARRAYS = ("index", "y", "clean", "adversarial", "x", "x_adv")


@dataclass(frozen=True)
class Example:
    """One attacked image; pictures are data URIs, classes are names.

    Attributes:
        index: Its position in the test split.
        label: What it shows.
        clean: What the network takes it for.
        adversarial: What the network takes the attacked image for.
        image: The image.
        perturbation: Ten times the change around grey, cut off at black and white.
        attacked: The attacked image.
    """

    index: int
    label: str
    clean: str
    adversarial: str
    image: str
    perturbation: str
    attacked: str


@dataclass(frozen=True)
class Gallery:
    """The examples of one network."""

    title: str
    examples: tuple[Example, ...]
    sources: tuple[int, ...]


def galleries(groups: Sequence[Group], book: SourceBook, skipped: list[str]) -> list[Gallery]:
    """The galleries of evaluated networks, of several seeds the lowest.

    Args:
        groups: What ``suite=paper`` measured.
        book: Where the evaluations are cited.
        skipped: Gets one line for each file that can't be read.
    """
    found = []
    for group in groups:
        origin = group.first.origin
        assert isinstance(origin, Evaluation)
        path = origin.path.with_suffix(".npz")
        try:
            examples = _examples(path, origin.data.name)
        except FileNotFoundError:
            continue
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            MemoryError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            skipped.append(f"{path}: no readable gallery")
            continue
        if examples:
            found.append(Gallery(group.title, examples, (book.cite(origin),)))
    return found


def _examples(path: Path, data: str) -> tuple[Example, ...]:
    # Without pickles, a foreign file can hold numbers only.
    with np.load(path, allow_pickle=False) as arrays:
        index, y, clean, adversarial, x, x_adv = (arrays[f"gallery_{name}"] for name in ARRAYS)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] != 3 or x.shape != x_adv.shape:
        raise ValueError("gallery_x must be bytes of shape (k, 3, H, W), as gallery_x_adv")
    if any(
        each.shape != (len(x),) or each.dtype.kind not in "iu"
        for each in (index, y, clean, adversarial)
    ):
        raise ValueError("labels must be whole numbers, one an image")
    before, after = x.astype(np.float64) / 255, np.nan_to_num(x_adv.astype(np.float64))
    change = 0.5 + AMPLIFICATION * (after - before)
    return tuple(
        Example(
            index=int(index[row]),
            label=_class(data, int(y[row])),
            clean=_class(data, int(clean[row])),
            adversarial=_class(data, int(adversarial[row])),
            image=_png(before[row]),
            perturbation=_png(change[row]),
            attacked=_png(after[row]),
        )
        for row in range(len(x))
    )


def _class(data: str, label: int) -> str:
    names = CLASS_NAMES.get(data, ())
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _png(pixels: np.ndarray) -> str:
    rgb = np.clip(pixels.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
