"""List runs, compare two, go on with what is unfinished or delete it.

python -m lrm_lightning.runs                                       every run below runs/
python -m lrm_lightning.runs method=alp,lrm data=cifar10 seed=0    those with these settings
python -m lrm_lightning.runs diff runs/cifar10/A runs/cifar10/B    what differs, side by side
python -m lrm_lightning.runs commands state=stopped                lines for a shell that go on
python -m lrm_lightning.runs clean                                 what is unfinished
python -m lrm_lightning.runs clean yes=true                        deletes it

runs_dir=FOLDER says where; state is finished, running or stopped; any key of a run's configuration
chooses too, such as method.alpha=0.5.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.reporting import listing
from lrm_lightning.runs.files import counted

VERBS = ("list", "commands", "clean")


def runs(words: Sequence[str]) -> None:
    """Do what the words of the command line say.

    Raises:
        UserError: If they make no sense, or there is no such run.
    """
    if len(words) == 3 and words[0] == "diff":  # whose folders may have = in their names
        listing.compare(*map(Path, words[1:]))
        return
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    verb, *more = [word for word in words if "=" not in word] or ["list"]
    if verb not in VERBS or more:
        raise UserError(f"{' '.join(words)}: give list, diff A B, commands or clean, and key=value")
    folder, yes = settings.pop("runs_dir", "runs"), settings.pop("yes", "false").lower()
    if yes not in ("true", "false") or not folder:
        raise UserError(f"{' '.join(words)}: yes must be true or false, and runs_dir a folder")
    if verb == "clean" and settings.get("state", listing.STOPPED) != listing.STOPPED:
        raise UserError(f"clean is for runs with state={listing.STOPPED}; leave out state=")
    confirmed = yes == "true"
    found = listing.find(folder, settings | ({"state": listing.STOPPED} if verb == "clean" else {}))
    if verb == "commands":
        print(*map(listing.command, found), sep="\n")  # noqa: T201
        return
    listing.show(found)
    if verb == "clean":
        for run in found if confirmed else []:
            listing.delete(run)
        count = counted(len(found), "unfinished run")
        print(f"deleted {count}" if confirmed else f"yes=true deletes {count}")  # noqa: T201


def main() -> None:
    """Entry point of ``python -m lrm_lightning.runs``."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("lrm_lightning.runs", None, __doc__, formatter_class=raw)
    parser.add_argument("words", nargs="*", help="what to do, and key=value")
    try:
        runs(parser.parse_args().words)
        sys.stdout.flush()
    except (UserError, OSError) as error:
        cli.fail(error)


if __name__ == "__main__":
    main()
