"""Turn records into tables, figures and one web page; nothing is trained, attacked or downloaded.

python -m lrm_lightning.report
python -m lrm_lightning.report runs_dir=[runs,elsewhere/*] out=report
"""

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import shown_path


def report(folders: list[str], out: Path) -> Path:
    """Write ``index.html``, ``report.md``, ``figures/`` and ``tables/`` from records.

    Args:
        folders: Folders or glob patterns of folders, where the records are, with what is below.
        out: The report's folder; made if absent, files of an earlier report are replaced.

    Returns:
        The page.

    Raises:
        UserError: If there are no records, or ``out`` can't be written.
    """
    # matplotlib takes a second to import; a wrong override should not wait for it.
    from lrm_lightning.reporting import page
    from lrm_lightning.reporting.aggregate import load
    from lrm_lightning.reporting.figures.style import style

    records = load(folders)
    with style():
        document = page.compose(records)
        for line in records.skipped:
            sys.stderr.write(f"skipped: {line}\n")
        if not document.chapters:
            raise UserError(
                f"no records below {', '.join(folders)}; train with python -m lrm_lightning.train"
                " or give runs_dir=<where the runs are>"
            )
        return page.write(document, out)


@cli.command("report")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.report``."""
    folders = list(cfg.runs_dir) if isinstance(cfg.runs_dir, ListConfig) else [cfg.runs_dir]
    if not cfg.out or not folders or not all(folders):
        raise UserError(f"out={cfg.out!r} and runs_dir={cfg.runs_dir!r} must name folders")
    written = report(folders, Path(cfg.out))
    print(f"wrote {shown_path(written)}, report.md, figures/ and tables/ beside it")  # noqa: T201
    print(f"open {written.absolute().as_uri()}")  # noqa: T201  (a terminal makes a link of it)


if __name__ == "__main__":
    main()
