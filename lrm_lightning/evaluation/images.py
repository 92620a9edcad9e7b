"""Attacked images in files: those that an evaluation keeps, and accuracy on anybody's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks.autoattack import TOLERANCE
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import Bench, Images, Outcome, correct_on
from lrm_lightning.evaluation.metrics import NORMS
from lrm_lightning.runs.files import expanded, file_sha256, read_arrays, replacing, write_arrays

X_ADV = "x_adv"


def write_images(record: Path, images: Images, x_adv: np.ndarray, *, whole: bool) -> list[Path]:
    """Keep attacked images beside an evaluation's record; returns the files.

    ``<record>-images.npz`` has ``x_adv``, float32 ``(n, channels, H, W)`` in [0, 1], and ``index``,
    int64 ``(n,)``, which images of the test split they are made of. If they are the ``whole`` split
    ``<record>-images.pt`` is ``x_adv`` alone in the split's order as a tensor of ``torch.save``.

    References:
        RobustBench's form "New external evaluation(s)": "a .pt tensor of the same size of the
        corresponding test set".
    """
    files = [record.with_name(f"{record.stem}-images.npz")]
    write_arrays(files[0], {"index": images.index, X_ADV: x_adv})
    if whole:
        files.append(files[0].with_suffix(".pt"))
        with replacing(files[1]) as partial:
            torch.save(torch.from_numpy(x_adv), partial)
    return files


@dataclass(frozen=True, kw_only=True)
class KeptImagesSuite:
    """Accuracy on attacked images from a file, which must lie in the threat model.

    Args:
        images: The file: what :func:`write_images` wrote, or a tensor of ``torch.save`` with the
            first images of the test split, or all, in its order.

    Raises:
        UserError: If it can't be read or is no such file; nothing in it is executed.
    """

    name: ClassVar[str] = "kept_images"
    step_counts: ClassVar[Sequence[int]] = ()
    images: str

    @cached_property
    def sha256(self) -> str:
        """That of the file."""
        return file_sha256(expanded(self.images))

    @cached_property
    def kept(self) -> tuple[Tensor, np.ndarray]:
        """The images, float32 ``(n, channels, H, W)``, and of which test images they are made.

        The latter are positions in the split, rising, int64 ``(n,)``.
        """
        path = expanded(self.images)
        if not path.is_file():
            raise UserError(f"images={self.images}: there is no such file")
        wanted = (
            f"images={self.images} must be an .npz of x_adv, float32 (n, channels, H, W), and"
            " index, rising whole numbers (n,), or a .pt tensor of test images in their order"
        )
        try:
            if path.suffix == ".npz":
                arrays = read_arrays(path)
                x_adv, index = torch.from_numpy(arrays[X_ADV]), arrays["index"]
            else:
                x_adv = torch.load(path, map_location="cpu", weights_only=True)
                index = np.arange(len(x_adv))
        except Exception as error:  # any damage: torch raises half a dozen types
            raise UserError(f"{wanted}; it can't be read as one") from error
        if not isinstance(x_adv, Tensor) or x_adv.dtype != torch.float32 or x_adv.ndim != 4:
            raise UserError(wanted)
        whole = index.dtype.kind in "iu" and index.shape == (len(x_adv),) and len(index) > 0
        if not (whole and index[0] >= 0 and (np.diff(index.astype(np.int64)) > 0).all()):
            raise UserError(wanted)
        return x_adv, index.astype(np.int64)

    def run(self, network: nn.Module, bench: Bench) -> Outcome:
        x, threat = bench.images.x, bench.threat.threat
        x_adv, _ = self.kept
        if x_adv.shape != x.shape:
            shapes = f"{tuple(x_adv.shape)}, but the originals {tuple(x.shape)}"
            raise ValueError(f"images={self.images} have shape {shapes}")
        low, high = x_adv.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images={self.images} go from {low:g} to {high:g}, not from 0 to 1")
        distances = threat.distance(x_adv, x.cpu()).numpy()
        if distances.max() > threat.eps + TOLERANCE:
            worst = int(distances.argmax())
            raise ValueError(
                f"images={self.images}: test image {bench.images.index[worst]} is"
                f" {distances[worst]:.6g} from the original in {NORMS[threat.norm]}, more than"
                f" eps = {threat.eps:g}; give the eps that they were made with, attack.eps=..., or"
                " the data that they were made of, data.name=..."
            )

        def score(places: np.ndarray, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
            attacked = x_adv[torch.from_numpy(places)].to(x.device)
            return {
                "clean": correct_on(network, x, y),
                "kept_images": correct_on(network, attacked, y),
            }

        correct = bench.compute("kept_images", np.arange(len(x)), score)
        details: dict[str, Any] = {
            "attack": {"norm": threat.norm, "eps": threat.eps},
            "subset": {"seed": None, "n_images": len(x)},
            "kept": {
                "file": self.images,
                "sha256": self.sha256,
                "accuracy": float(correct["kept_images"].mean()),
                "distance": float(distances.max()),
            },
        }
        return Outcome(correct, details, {"distance": distances})


def kept(network: nn.Module, bench: Bench, attack: str, x_adv: np.ndarray) -> dict[str, Any]:
    """What a record says of the images that it keeps, which ``attack`` found."""

    def score(places: np.ndarray, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
        return {"correct": correct_on(network, torch.from_numpy(x_adv[places]).to(x.device), y)}

    correct = bench.compute("kept", np.arange(len(x_adv)), score)["correct"]
    distances = bench.threat.threat.distance(torch.from_numpy(x_adv), bench.images.x.cpu())
    return {
        "attack": attack,
        "accuracy": float(correct.mean()),
        "distance": float(distances.max()),
    }
