"""Which images each attack left correctly classified, gathered exactly over ranks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Correctness(Metric):
    """One verdict an image and attack.

    Args:
        names: The attacks, in the order of the columns given to :meth:`update`.
    """

    full_state_update = False
    index: list[Tensor]
    verdicts: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("verdicts", default=[], dist_reduce_fx="cat")
        # A rank that gets no image still has to bring states of the right shape to the gathering.
        self.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(self.names)))

    def update(self, index: Tensor, verdicts: Tensor) -> None:
        """Add images.

        Args:
            index: Their positions in the split, int64 ``(B,)``.
            verdicts: Whether each is still classified correctly, bool ``(B, attacks)``.
        """
        self.index.append(index)
        self.verdicts.append(verdicts.to(torch.uint8))

    def compute(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Positions ``(n,)`` in rising order, and attack name to bool ``(n,)``.

        Raises:
            RuntimeError: If an image was counted twice, which would make every accuracy wrong.
        """
        index = dim_zero_cat(self.index).cpu().numpy()
        verdicts = dim_zero_cat(self.verdicts).cpu().numpy().astype(bool)
        order = np.argsort(index)
        index, verdicts = index[order], verdicts[order]
        if len(np.unique(index)) != len(index):
            raise RuntimeError("an image was evaluated twice; accuracies would be wrong")
        return index, {name: verdicts[:, column] for column, name in enumerate(self.names)}
