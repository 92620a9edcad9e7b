"""What depends on Lightning's private parts and wordings; a test of each fails when they change."""

import logging
import warnings
from subprocess import Popen
from typing import Any

import lightning as L
from lightning.fabric.utilities.warnings import disable_possible_user_warnings
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

MEANINGLESS = (
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The ``compute`` method of metric .* was called before.*",  # a rank may have no image of few
    ".*You requested to overfit but enabled .* dataloader shuffling.*",  # TrainLoader turns it off
)


def quieten() -> None:
    """Silence what has no meaning here: the data has no workers, and short runs log seldom."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(
        logging.INFO
    )  # says what is asked for
    disable_possible_user_warnings()
    for message in MEANINGLESS:
        warnings.filterwarnings("ignore", message)
    # Torch's, of what Lightning uses of it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")


def end_after_this_batch(trainer: L.Trainer) -> None:
    """Have the Trainer raise ``SIGTERMException`` when the batch at hand is wholly done.

    There is no public way to end there, the only place from which resuming is exact:
    ``should_stop`` validates first, and an exception from a hook comes while the batch still counts
    as undone.
    """
    trainer._signal_connector.received_sigterm = True


def log_batch_at_hand(trainer: L.Trainer) -> None:
    """Hand to the loggers, if it is due, what Lightning logs when a batch's last hooks have run."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if progress.completed < progress.processed:
        trainer._logger_connector.update_train_step_metrics()


def send_no_signals_each_batch(trainer: L.Trainer) -> None:
    """Keep rank 0 from sending all others, before each batch, whether it has got a signal."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def count_last_epoch(trainer: L.Trainer) -> None:
    """Have ``trainer.current_epoch`` count the last epoch after a resume as without one.

    Of a training that had ended before it was resumed, Lightning does it only at ``max_epochs``,
    not where a callback had stopped it.
    """
    epochs = trainer.fit_loop.epoch_progress.current
    epochs.completed = epochs.processed  # pyright: ignore[reportAttributeAccessIssue]


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
