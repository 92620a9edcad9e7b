"""How the commands end: a mistake of the user's or a signal is one line, never a traceback."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lrm_lightning.allocator import keep_freed_memory
from lrm_lightning.errors import UserError

# Lightning's advice that has no meaning here: the data has no workers, and short runs log seldom.
NOISE = (
    ".*LeafSpec.* is deprecated.*",
    ".*does not have many workers.*",
    ".*The number of training batches.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ".*The `srun` command is available on your system but is not used.*",
    ".*The ``compute`` method of metric .* was called before.*",  # a rank may have no image of few
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # ranks log the same numbers
)
# submitit asks a cluster without accounting again and again, and says so each time.
QUIET = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "submitit": logging.ERROR,
}


def run(app: Callable[[], object]) -> None:
    """Run a Hydra application and turn what a user can mend into one line and exit code 1.

    Args:
        app: The function that ``hydra.main`` decorated.
    """
    quieten()
    keep_freed_memory()
    # Makes Hydra raise its errors instead of printing a shortened traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        app()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        _stop(signal.SIGINT)
    except SystemExit as ended:
        if type(ended).__name__ != "SIGTERMException":  # Lightning's
            raise
        _stop(signal.SIGTERM)


def quieten() -> None:
    """Silence what has no meaning here; again after Lightning's import, which sets its own."""
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


def fail(error: BaseException) -> None:
    """Print ``error`` on one line and exit with 1."""
    cause = error.__cause__
    text = str(error)
    if isinstance(cause, OmegaConfBaseException) and str(cause) not in text:
        text = f"{text} {cause}"
    if isinstance(error, OverrideParseException):
        text = f"{error.override}: {text}"
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    sys.exit(1)


def _stop(number: signal.Signals) -> None:
    """Say how to go on, and exit with the code that shells give a process ended by that signal."""
    lightning = sys.modules.get("lightning.pytorch.utilities")
    if lightning is not None and lightning.rank_zero_only.rank != 0:
        # The code of a failure would make Lightning kill rank 0, which may have more to do.
        sys.exit(0)
    sys.stderr.write("interrupted: run the same command again to go on\n")
    sys.exit(128 + number)
