"""Create the W&B workspace that shows what the runs have logged.

python -m lrm_lightning.dashboard
python -m lrm_lightning.dashboard entity=my-team project=lrm_lightning
"""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.tracking.wandb import quiet_wandb

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

METHOD = "method.name"


class Lines(NamedTuple):
    """A panel: metrics by epoch, a line a method (the mean of its runs, and their range)."""

    title: str
    metrics: Sequence[str]


class Dots(NamedTuple):
    """A panel: a dot a run, a setting against what it led to."""

    title: str
    setting: str
    metric: str


class Bars(NamedTuple):
    """A panel: the last value of metrics, a bar a method."""

    title: str
    metrics: Sequence[str]


SECTIONS: dict[str, list[Lines | Dots | Bars]] = {
    "Robust and clean accuracy": [
        Lines("PGD-10", ["val/acc/pgd10"]),
        Lines("FGSM", ["val/acc/fgsm"]),
        Lines("Clean", ["val/acc/clean"]),
        Bars("Test, PGD-20", ["test/acc/pgd20"]),
        Bars("Test, FGSM", ["test/acc/fgsm"]),
        Bars("Test, clean", ["test/acc/clean"]),
    ],
    "Sweep: label smoothing": [
        Dots("Smoothing and PGD-20", "method.smoothing", "test/acc/pgd20"),
        Dots("Smoothing and FGSM", "method.smoothing", "test/acc/fgsm"),
        Dots("Smoothing and clean", "method.smoothing", "test/acc/clean"),
    ],
    "Sweep: logit squeezing": [
        Dots("Squeezing and PGD-20", "method.squeeze_weight", "test/acc/pgd20"),
        Dots("Squeezing and FGSM", "method.squeeze_weight", "test/acc/fgsm"),
        Dots("Squeezing and clean", "method.squeeze_weight", "test/acc/clean"),
    ],
    "Logits": [
        Lines("Variance, clean", ["val/logits/clean/variance"]),
        Lines("Variance, adversarial", ["val/logits/adv/variance"]),
        Dots("Smoothing and variance", "method.smoothing", "val/logits/clean/variance"),
        Dots("Squeezing and variance", "method.squeeze_weight", "val/logits/clean/variance"),
    ],
    "Pairing": [
        Lines("Share of pairs that meet the assumption (Eq. 4-5)", ["val/pairing/assumption"]),
        Lines("Gradient of the logits' scale (Eq. 7)", ["val/pairing/scale_gradient"]),
        Lines("Pairing loss", ["train/loss/pairing"]),
    ],
    "Speed": [Lines("Images per second", ["train/images_per_s"])],
}


def build(entity: str, project: str, name: str) -> "Workspace":
    """The workspace, not saved: nothing is sent.

    Args:
        entity: The W&B user or team.
        project: The W&B project.
        name: What the workspace is called.

    Raises:
        UserError: If the extra isn't installed.
    """
    ws, wr = _packages()
    sections = [
        ws.Section(name=title, panels=[_panel(wr, panel) for panel in panels], is_open=True)
        for title, panels in SECTIONS.items()
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
    )


def _panel(wr: ModuleType, panel: Lines | Dots | Bars) -> Any:  # noqa: ANN401
    match panel:
        case Lines(title, metrics):
            return wr.LinePlot(
                title=title,
                x="epoch",
                y=list(metrics),
                groupby=wr.Config(METHOD),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                max_runs_to_show=100,
            )
        case Dots(title, setting, metric):
            return wr.ScatterPlot(title=title, x=wr.Config(setting), y=wr.SummaryMetric(metric))
        case Bars(title, metrics):
            return wr.BarPlot(
                title=title,
                metrics=list(metrics),
                groupby=wr.Config(METHOD),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            )


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            "wandb-workspaces is not installed; pip install 'lrm_lightning[dashboards]'"
        ) from error
    return ws, wr


def save(entity: str | None, project: str, name: str) -> str:
    """Create the workspace; returns its address.

    Args:
        entity: The W&B user or team; ``None`` for the key's own.
        project: The W&B project.
        name: What the workspace is called.

    Raises:
        UserError: If the extra isn't installed, there is no key, or W&B does not take it.
    """
    _packages()
    wandb = quiet_wandb()
    try:
        if not wandb.login(prompt=False):
            raise UserError("no W&B key; `wandb login` stores one")
        entity = entity or wandb.Api().default_entity
        if not entity:
            raise UserError("the W&B key has no entity of its own; give entity=<user or team>")
        return build(entity, project, name).save().url
    except UserError:
        raise
    except Exception as error:  # requests', wandb's and the package's own
        raise UserError(
            f"W&B did not take the workspace: {' '.join(str(error).split())}"
        ) from error


@cli.command("dashboard")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.dashboard``."""
    for key in ("project", "name"):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise UserError(f"{key}={cfg[key]!r} must be a text")
    print(f"created {save(cfg.entity, cfg.project, cfg.name)}")  # noqa: T201


if __name__ == "__main__":
    main()
