"""Create the W&B workspace that shows what the runs have logged.

python -m lrm_lightning.dashboard
python -m lrm_lightning.dashboard entity=my-team project=lrm_lightning
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError, text_of
from lrm_lightning.tracking.wandb import quiet_wandb

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TESTED = {"PGD-20": "test/acc/pgd20", "FGSM": "test/acc/fgsm", "clean": "test/acc/clean"}


def build(entity: str, project: str, name: str) -> "Workspace":
    """The workspace ``name``, not saved: nothing is sent."""
    ws, wr = _packages()
    sections = [
        ws.Section(name=title, panels=panels, is_open=True) for title, panels in _panels(wr).items()
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
    )


def _panels(wr: ModuleType) -> dict[str, list[Any]]:
    """The panels of each section."""
    by_method = {"groupby": wr.Config("method.name"), "groupby_aggfunc": "mean"}
    by_method |= {"groupby_rangefunc": "minmax"}

    def lines(title: str, metric: str) -> Any:  # noqa: ANN401
        """A metric by epoch, a line a method: the mean of its runs, and their range."""
        return wr.LinePlot(title=title, x="epoch", y=[metric], max_runs_to_show=100, **by_method)

    def dots(title: str, setting: str, metric: str) -> Any:  # noqa: ANN401
        """A dot a run, a setting against what it led to."""
        return wr.ScatterPlot(title=title, x=wr.Config(setting), y=wr.SummaryMetric(metric))

    def swept(title: str, setting: str) -> list[Any]:
        """A setting against each of the test's accuracies."""
        return [dots(f"{title} and {name}", setting, metric) for name, metric in TESTED.items()]

    return {
        "Robust and clean accuracy": [
            lines("PGD-10", "val/acc/pgd10"),
            lines("FGSM", "val/acc/fgsm"),
            lines("Clean", "val/acc/clean"),
            *(
                wr.BarPlot(title=f"Test, {name}", metrics=[metric], **by_method)
                for name, metric in TESTED.items()
            ),
        ],
        "Sweep: label smoothing": swept("Smoothing", "method.smoothing"),
        "Sweep: logit squeezing": swept("Squeezing", "method.squeeze_weight"),
        "Logits": [
            lines("Variance, clean", "val/logits/clean/variance"),
            lines("Variance, adversarial", "val/logits/adv/variance"),
            dots("Smoothing and variance", "method.smoothing", "val/logits/clean/variance"),
            dots("Squeezing and variance", "method.squeeze_weight", "val/logits/clean/variance"),
        ],
        "Pairing": [
            lines("Share of pairs that meet the assumption (Eq. 4-5)", "val/pairing/assumption"),
            lines("Gradient of the logits' scale (Eq. 7)", "val/pairing/scale_gradient"),
            lines("Pairing loss", "train/loss/pairing"),
        ],
        "Speed": [lines("Images per second", "train/images_per_s")],
    }


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        extra = "pip install 'lrm_lightning[dashboards]'"
        raise UserError(f"wandb-workspaces is not installed; {extra}") from error
    return ws, wr


def save(entity: str | None, project: str, name: str) -> str:
    """Create the workspace, by default under the key's own ``entity``; returns its address."""
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
        raise UserError(f"W&B did not take the workspace: {text_of(error)}") from error


@cli.command("dashboard")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.dashboard``."""
    for key in ("project", "name"):
        if not cfg[key]:
            raise UserError(f"{key}={cfg[key]!r} must be a text")
    print(f"created {save(cfg.entity, cfg.project, cfg.name)}")  # noqa: T201


if __name__ == "__main__":
    main()
