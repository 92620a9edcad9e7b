"""The private parts of Lightning that are used here; a test of each fails when they change."""

from subprocess import Popen

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher


def end_after_this_batch(trainer: L.Trainer) -> None:
    """Have the Trainer raise ``SIGTERMException`` when the batch at hand is wholly done.

    There is no public way to end there, the only place from which resuming is exact:
    ``should_stop`` validates first, and an exception from a hook comes while the batch still counts
    as undone.
    """
    trainer._signal_connector.received_sigterm = True


def starts_processes(trainer: L.Trainer) -> bool:
    """Whether the Trainer will start the run's other processes itself, with our command line."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return False
    return not launcher.cluster_environment.creates_processes_externally


def take_over_processes(trainer: L.Trainer) -> list[Popen[bytes]]:
    """The processes that the Trainer has started since the last call, in the order of their ranks.

    Lightning stops watching them: it would kill this process without a word when one of them dies.
    """
    launcher = trainer.strategy.launcher
    assert isinstance(launcher, _SubprocessScriptLauncher)
    started = launcher.procs[:]
    del launcher.procs[: len(started)]
    return started
