"""What can go wrong while training that a user can mend: one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lrm_lightning.errors import NotFiniteError, UserError
from lrm_lightning.training.ranks import RankWatch


@contextmanager
def in_one_line(watch: RankWatch) -> Iterator[None]:
    """Where a Trainer is at work.

    Args:
        watch: Of its processes.

    Raises:
        UserError: For divergence, too little GPU memory and processes that lost each other.
    """
    with watch:
        try:
            yield
        except NotFiniteError as error:
            raise UserError(f"training diverged: {error}; lower optimizer.lr") from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                "out of GPU memory: lower data.batch_size and data.eval_batch_size"
            ) from error
        except RuntimeError as error:
            problem = watch.explain(error)
            if problem is None:
                raise
            raise UserError(problem) from error
