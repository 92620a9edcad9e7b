"""Whether the code of a run has changed: one's own defence is edited between two tries."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.runs.records import printable


class Sources(L.Callback):
    """Keeps in checkpoints with which code a run trains, and says on resume what has changed since.

    Args:
        sha256: Of the modules that the run's configuration names, as
            :func:`~lrm_lightning.training.build.sources` finds them now.
    """

    def __init__(self, sha256: Mapping[str, str]) -> None:
        self.sha256 = dict(sha256)

    def state_dict(self) -> dict[str, Any]:
        return self.sha256

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.compare(state_dict, "it goes on with what there is now, rerun=true begins anew")

    @rank_zero_only
    def compare(self, earlier: Mapping[str, str], mend: str) -> None:
        """Say of which modules the code is not what it was, and what is done about it, ``mend``."""
        changed = [name for name, sha256 in earlier.items() if self.sha256.get(name) != sha256]
        if changed:
            told = f"its code has changed since: {', '.join(map(printable, changed))}"
            print(f"warning: {told}; {mend}")  # noqa: T201
