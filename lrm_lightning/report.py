"""Turn records into tables, figures and one web page; nothing is trained, attacked or downloaded.

python -m lrm_lightning.report
python -m lrm_lightning.report runs_dir=[runs,elsewhere/*] out=report
"""

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import shown_path, write_text

PAGE, TEXT = "index.html", "report.md"


def report(folders: list[str], out: Path) -> Path:
    """Write ``index.html``, ``report.md`` and ``figures/`` from the records below some folders.

    Args:
        folders: Folders or glob patterns of folders; searched with everything below.
        out: The report's folder; made if absent, files of an earlier report are replaced.

    Returns:
        The page.

    Raises:
        UserError: If there are no records, or ``out`` can't be written.
    """
    # matplotlib takes a second to import; a wrong override should not wait for it.
    from lrm_lightning.reporting import markdown, page
    from lrm_lightning.reporting.discovery import find_records
    from lrm_lightning.reporting.document import FIGURES, compose

    records = find_records(folders)
    said = len(records.skipped)
    for line in records.skipped:
        _say_skipped(line)
    if not records:
        raise UserError(
            f"no records below {', '.join(folders)}; train with python -m lrm_lightning.train"
            " or give runs_dir=<where the runs are>"
        )
    try:
        (out / FIGURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; choose another with out=..."
        ) from error
    document = compose(records, out)
    for line in records.skipped[said:]:
        _say_skipped(line)
    write_text(out / TEXT, markdown.render(document))
    write_text(out / PAGE, page.render(document))
    return out / PAGE


def _say_skipped(line: str) -> None:
    sys.stderr.write(f"skipped: {line}\n")


def _folders(value: object) -> list[str]:
    folders = list(value) if isinstance(value, ListConfig) else [value]
    if not folders or not all(isinstance(each, str) and each for each in folders):
        raise UserError(f"runs_dir={value!r} must be a folder or a list of folders")
    return [str(each) for each in folders]


@cli.command("report")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.report``."""
    if not isinstance(cfg.out, str) or not cfg.out:
        raise UserError(f"out={cfg.out!r} must be a folder")
    written = report(_folders(cfg.runs_dir), Path(cfg.out))
    print(f"wrote {shown_path(written)}, {TEXT} and figures/ beside it")  # noqa: T201


if __name__ == "__main__":
    main()
