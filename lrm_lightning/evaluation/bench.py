"""One network on the test bench: what every suite works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.context import attack_mode
from lrm_lightning.checks import check_integer
from lrm_lightning.evaluation.images import Images
from lrm_lightning.evaluation.journal import Journal, Piece
from lrm_lightning.evaluation.progress import Progress


class Outcome(NamedTuple):
    """What a suite found out about one network.

    Attributes:
        correct: Metric to verdicts: which images are still classified correctly, bool ``(n,)``.
        details: More for the record, as JSON.
        arrays: More for the file of verdicts.
    """

    correct: dict[str, np.ndarray]
    details: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Bench:
    """A network, images, a threat model, and where progress is kept and shown.

    Attributes:
        network: Takes pixels in [0, 1] and returns logits; float32, on the images' device.
        images: What is attacked.
        threat: Threat model: ``norm``, ``eps`` and the ``step_size`` of PGD; a suite sets the rest.
        seed: Seed of every draw of the attacks.
        batch_size: Images attacked at a time.
        journal: Keeps finished pieces.
        progress: Shows them.

    Raises:
        ValueError: If ``seed`` or ``batch_size`` is out of range.
    """

    network: nn.Module
    images: Images
    threat: PGDAttack
    seed: int = 0
    batch_size: int = 100
    journal: Journal = field(default_factory=Journal)
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_integer("seed", self.seed, low=0)
        check_integer("batch_size", self.batch_size, low=1)

    def fill(
        self,
        stage: str,
        places: np.ndarray,
        compute: Callable[[np.ndarray], Piece],
        results: Piece,
        *,
        part: str = "",
    ) -> Piece:
        """Fill ``results`` at ``places``, a batch at a time, each batch computed once.

        Args:
            stage: Name of the stage, as in the progress' ``passes``.
            places: Places in the subset, int ``(m,)``.
            compute: Places of a batch to arrays ``(batch, ...)`` by name.
            results: Arrays ``(n, ...)`` by the same names, filled in place.
            part: Names a part of the stage; stage and part are unique.

        Returns:
            ``results``.
        """
        self.begin(stage, len(places))
        for number, begin in enumerate(range(0, len(places), self.batch_size)):
            batch = places[begin : begin + self.batch_size]
            name = "-".join(str(each) for each in (stage, part, number) if each != "")
            piece = self.journal.once(name, lambda batch=batch: compute(batch))
            for key, values in piece.items():
                results[key][batch] = values
            self.done(len(batch))
        return results

    def begin(self, stage: str, of: int) -> None:
        """Tell the progress that a stage begins."""
        if self.progress is not None:
            self.progress.begin(stage, of)

    def done(self, images: int) -> None:
        """Tell the progress that images are done."""
        if self.progress is not None:
            self.progress.done(images, computed=self.journal.computed)


def predict(network: nn.Module, x: Tensor, *, classes: int | None = None) -> Tensor:
    """Logits of a batch, shape ``(B, C)``, no graph.

    Raises:
        ValueError: If pixels are outside [0, 1], or what the network returns is not logits of
            ``classes`` classes, or not finite.
    """
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"x must lie in [0, 1] and hold no NaN, but goes from {low:g} to {high:g}")
    with attack_mode(network), torch.no_grad():
        logits = network(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = (
            f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise ValueError(f"the model must return logits of shape ({len(x)}, C), not {got}")
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"the model knows {logits.shape[1]} classes, but the data have {classes}")
    if not logits.isfinite().all():
        raise ValueError("the model returned logits that are NaN or infinite")
    return logits
