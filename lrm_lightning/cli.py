"""The one way to be a command: compose the configuration, call, end in one line on a mistake."""

import ctypes
import errno
import functools
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrm_lightning.errors import UserError, cannot_write
from lrm_lightning.runs.identity import check_keys, check_kinds, conf_dir

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0
STDOUT = 1
ANOTHER = "another runs_dir=..."
FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def command(config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Decorator that makes a command out of a function of ``conf/<config_name>.yaml``.

    What a user can mend ends the process with exit code 1 and one line; a signal with the code that
    shells give it, and a line that says how to go on.
    """

    def decorate(function: Callable[[DictConfig], object]) -> Callable[[], None]:
        begun: list[bool] = []

        @functools.wraps(function)
        def job(cfg: DictConfig) -> object:
            begun.append(True)
            try:  # in here, as Hydra would add lines of its own to an error that passes it
                check_kinds(cfg, config_name)
                check_keys(cfg, config_name)
                return function(cfg)
            except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
                fail(error)

        settings = {"config_path": str(conf_dir()), "config_name": config_name}
        application = hydra.main(version_base="1.3", **settings)(job)

        @functools.wraps(function)
        def main() -> None:
            logging.raiseExceptions = False  # a full disk is told of once, not by each logger
            logging.getLogger("hydra.utils").disabled = True  # says what it raises, in three lines
            keep_freed_memory()
            # Makes Hydra raise its errors instead of printing a shortened traceback.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            begun.clear()
            try:
                _refuse_pickles()
                application()
                sys.stdout.flush()
            except KeyboardInterrupt:
                _stop(signal.SIGINT)
            except SystemExit as ended:
                if type(ended).__name__ != "SIGTERMException":  # Lightning's
                    raise
                _stop(signal.SIGTERM)
            except Exception as error:
                if begun:
                    raise
                # Whatever Hydra raised: the command line or a YAML is wrong, or the run directory,
                # where it writes first, can't be written.
                fail(of_the_disk(error, "the run directory") or _of_the_place(error) or error)

        return main

    return decorate


def overrides() -> list[str]:
    """The overrides on this command's line, with where it looks for more YAML files."""
    given = HydraConfig.get().overrides
    places = [each for each in given.hydra if each.startswith("hydra.searchpath=")]
    return [*given.task, *places]


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a training step frees for the next step.

    By default it may hand freed activations back to the system and get them again page by page,
    zeroed by the kernel: seen to take a sixth of attacks' time on a CPU, and 2% of a training's.
    Nothing is changed where the user has tuned glibc's malloc through the environment, and where
    there is no glibc. Returns whether anything was changed.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    # The second too: what is mapped by itself is unmapped when it is freed.
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER)) and bool(mallopt(M_MMAP_MAX, NONE))


def _refuse_pickles() -> None:
    if any(each.startswith("--e") for each in sys.argv[1:]):  # argparse takes abbreviations
        raise UserError("--experimental-rerun executes what a file says, and is refused")


def of_the_disk(error: Exception, where: Path | str) -> UserError | None:
    """The line to tell if ``error`` is that ``where``, or the file it names, can't be written."""
    found = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(found, OSError) or found.errno not in FULL_OR_READ_ONLY:
        return None
    return cannot_write(found.filename or where, found, ANOTHER)


def _of_the_place(error: Exception) -> UserError | None:
    """The line to tell if ``error`` is that Hydra can't make a run's folder where it should."""
    kinds = FileNotFoundError, NotADirectoryError, FileExistsError, PermissionError
    if not isinstance(error, kinds) or str(error.filename).endswith(".yaml"):  # which it reads
        return None
    return cannot_write(error.filename, error, ANOTHER)


def fail(error: BaseException) -> None:
    """Print ``error`` on one line and exit with 1; say nothing if nobody reads what is printed."""
    if isinstance(error, BrokenPipeError) and _unread():
        sys.exit(128 + signal.SIGPIPE)
    cause, text = error.__cause__, str(error)
    of_the_world = isinstance(error, (UserError, OSError)) or isinstance(cause, OSError)
    told = isinstance(error, UserError) or str(cause) in text
    if isinstance(cause, (OmegaConfBaseException, OSError)) and not told:
        text = f"{text} {cause}"
    of_ours = r"UserError raised while resolving interpolation: (.*?)\s+full_key: .*"
    text = re.sub(of_ours, r"\1", text, flags=re.DOTALL)
    added = re.search(r"To append to your config use \+(\w+)\.([\w.]+)", text)
    if added and (conf_dir() / added[1]).is_dir():  # what the keys are is up to the chosen file
        missing = f"the chosen {added[1]} has no setting {added[2]}"
        text = f"{missing}; if its class takes one, give +{added[1]}.{added[2]}=..."
    if "Could not find 'hydra/sweeper/optuna'" in text:
        text = "Optuna's sweeper is not installed; pip install 'lrm_lightning[optuna]'"
    if "Could not find 'hydra/launcher/ray'" in text:
        text = "Ray's launcher is not installed; pip install hydra-ray-launcher"
    if "Could not determine home directory" in text:  # W&B's word
        text += " Set HOME to a folder that can be written"
    if isinstance(error, OverrideParseException):
        text = f"{error.override}: {text}"
    text = " ".join(text.split()) or type(error).__name__
    typed = _typed(text, others=not of_the_world)
    sys.stderr.write(f"error: {typed}{': ' * bool(typed)}{text}\n")
    sys.exit(1)


def _unread() -> bool:
    """Whether the reader of what this process prints has gone, as ``head`` does after ten lines."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    gone = bool(poll.poll(0))
    if gone:  # nor is what is left in a buffer to be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return gone


def _typed(text: str, *, others: bool) -> str:
    """The override that a message is about, as the user typed it; empty if the text shows it.

    Where it is about none by name, it is all of them if ``others`` is true.
    """
    words = set(re.findall(r"\w+(?:\.\w+)*", text))
    overrides = [each for each in sys.argv[1:] if re.match(r"~|[^-].*=", each)]
    about: dict[str, str] = {}
    for override in overrides:
        key = re.split("[@=]", override.lstrip("+~"), maxsplit=1)[0].replace("/", ".")
        *groups, name = key.split(".")
        named = name in words and any(
            ".".join(groups[:n]) in words for n in range(1, len(groups) + 1)
        )
        if key in words or named or any(word.startswith(f"{key}.") for word in words):
            about[key] = override
    if any(override in text for override in about.values()):
        return ""
    found = about[max(about, key=len)] if about else " ".join(overrides) * others
    return "" if found in text else found


def _stop(number: signal.Signals) -> None:
    """Say how to go on, and exit with the code that shells give a process ended by that signal."""
    lightning = sys.modules.get("lightning.pytorch.utilities")
    if lightning is not None and lightning.rank_zero_only.rank != 0:
        # The code of a failure would make Lightning kill rank 0, which may have more to do.
        sys.exit(0)
    sys.stderr.write("interrupted: run the same command again to go on\n")
    sys.exit(128 + number)
