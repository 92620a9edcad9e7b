"""Counter-based randomness: every draw is named by (seed, purpose, epoch, step), none has state.

Two things follow. A run that resumes anywhere draws what it would have drawn undisturbed, with no
generator to save; and a draw is made for the whole global batch, of which each rank takes its rows,
so N ranks see exactly what one process sees.
"""

import hashlib

import torch


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator whose stream depends on ``key`` alone, as ``(seed, "flip", epoch, step)``.

    The numbers are drawn on ``device``. A CPU and a GPU give different streams for one key.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 1)
