"""Images with their perturbation and what the network made of both, as PNGs inside the page."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from lrm_lightning.reporting.aggregate import Results
from lrm_lightning.reporting.parts import Example, Gallery, Missing, command
from lrm_lightning.runs.records import CLASS_NAMES, printable, read_verdicts

AMPLIFICATION = 10
ARRAYS = ("index", "y", "clean", "adversarial", "x", "x_adv")


def galleries(results: Results) -> list[Gallery | Missing]:
    """The galleries of evaluated networks, of several seeds the lowest.

    A file that can't be read is added to what the records ``skipped``.
    """
    found = []
    for group in results.paper:
        path = group.origins[0].path.with_suffix(".npz")
        try:
            arrays = read_verdicts(path, group.record)
            if not {"gallery_x", "gallery_x_adv"} & arrays.keys():  # no pictures, to keep it small
                continue
            data = group.record.data
            examples = _examples(arrays, CLASS_NAMES.get(data.name, data.class_names))
        except FileNotFoundError:
            continue
        except (KeyError, ValueError):
            results.records.skipped.append(printable(f"{path}: no readable gallery"))
            continue
        seed = f", seed {group.seeds[0]}" if len(group.origins) > 1 else ""
        found += [Gallery(group.title + seed, examples, group.origins[:1])] if examples else []
    missing = Missing("No attacked images yet", command("evaluate", "runs=[RUN]", "suite=paper"))
    return found or [missing]


def _examples(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> list[Example]:
    *labels, x, x_adv = (arrays[f"gallery_{name}"] for name in ARRAYS)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape != x_adv.shape:
        raise ValueError("gallery_x must be bytes of 1 or 3 channels, shaped as gallery_x_adv")
    if any(each.shape != (len(x),) or each.dtype.kind not in "iu" for each in labels):
        raise ValueError("labels must be whole numbers, one an image")
    before, after = x.astype(np.float64) / 255, np.nan_to_num(x_adv.astype(np.float64))
    change = 0.5 + AMPLIFICATION * (after - before)
    return [
        Example(
            int(index),
            *(_class(names, int(label)) for label in classes),
            *(_png(pixels) for pixels in (image, perturbation, attacked)),
        )
        for index, *classes, image, perturbation, attacked in zip(
            *labels, before, change, after, strict=True
        )
    ]


def _class(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _png(pixels: np.ndarray) -> str:
    rgb = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    rgb = np.clip(rgb * 255, 0, 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
