"""Counter-based randomness: every draw is named by (seed, purpose, epoch, step), none has state.

Two things follow. A run that resumes anywhere draws what it would have drawn undisturbed, with no
generator to save; and a draw is made for the whole global batch, of which each rank takes its rows,
so N ranks see exactly what one process sees.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator whose stream depends on ``key`` alone, as ``(seed, "flip", epoch, step)``.

    The numbers are drawn on ``device``. A CPU and a GPU give different streams for one key.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 1)


class Draws(NamedTuple):
    """The randomness of one global batch, and which of its rows are ours."""

    seed: int  # of the run
    epoch: int  # from 0
    step: int  # batch within the epoch, from 0
    size: int  # images in the global batch
    first_row: int  # of this rank
    end_row: int  # one past its last

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Generator for ``purpose``; draw for all ``size`` rows, then take :meth:`rows`."""
        return generator(self.seed, purpose, self.epoch, self.step, device=device)

    def rows(self, values: Tensor, dim: int = 0) -> Tensor:
        """This rank's rows of ``values``, whose axis ``dim`` was drawn for the global batch."""
        return values.narrow(dim, self.first_row, self.end_row - self.first_row)
