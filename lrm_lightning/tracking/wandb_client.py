"""The wandb package as a run needs it: silent, without questions, with an end to every wait."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lrm_lightning.errors import UserError
from lrm_lightning.tracking.wandb_journal import X_AXIS

CONNECT_S, FINISH_S = 10.0, 20.0  # the second is within the launcher's 30 seconds of grace
WEIGHTS_S = 600.0  # for an upload that may be of hundreds of megabytes


class Client:
    """A W&B run, which may be opened several times.

    Args:
        run_dir: The run directory; W&B's files go to ``wandb/`` in it.
        settings: What ``wandb.init`` takes. Where ``wandb agent`` started the process, the run and
            its project are the agent's, whatever they say.
        weights: Whether weights are to be uploaded at the end, which takes its time.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any], *, weights: bool = False) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self._weights = weights
        self.run: Any = None

    @property
    def first_number(self) -> int:
        """The number of the first row that W&B does not have."""
        return self.run.starting_step if self.run.resumed else 0

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return Path(self.run.dir).parent

    def connect(self) -> str | None:
        """Open the run online; what the problem is if that can't be done."""
        try:
            self._open("online", resume="allow")
        except Exception as error:  # wandb's own have no common class
            _teardown()  # what the attempt has started would go on trying, and be in the way
            return " ".join(str(error).split())[:100] or type(error).__name__
        return None

    def open_offline(self) -> None:
        """Open the run in a file."""
        self._open("offline")

    def log(self, row: dict[str, Any], number: int) -> None:
        """Give W&B a row. It waits for nobody, but for a table online."""
        import wandb

        shown = {
            key: wandb.Histogram(np_histogram=(value["counts"], value["edges"]))
            if isinstance(value, dict)
            else value
            for key, value in row.items()
        }
        self.run.log(shown, step=number)

    def summarise(self, values: dict[str, Any]) -> None:
        """Set what describes the whole run."""
        self.run.summary.update(values)

    def log_checkpoint(self, path: Path) -> None:
        """Keep weights as an artifact; online it waits for W&B."""
        import wandb

        artifact = wandb.Artifact(f"model-{self.run.id}", type="model")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def finish(self, exit_code: int = 0) -> bool:
        """End the run; whether W&B, or the file, has all that it was given."""
        try:
            self.run.finish(exit_code=exit_code)
        except Exception:  # TimeoutError, or W&B's own process is gone
            return False
        finally:
            _teardown()  # closes the files
        return True

    def _open(self, mode: Any, **settings: Any) -> None:  # noqa: ANN401
        import wandb

        quietly()
        given = self.settings | settings
        patience = _patience(WEIGHTS_S if self._weights else FINISH_S)
        if in_sweep():
            given = {k: v for k, v in given.items() if k not in ("id", "project", "entity")}
        self.run = wandb.init(
            dir=str(self.run_dir), mode=mode, settings=wandb.Settings(**patience), **given
        )
        self.run.define_metric(X_AXIS)
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric=X_AXIS)


def in_sweep() -> bool:
    """Whether ``wandb agent`` started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def choose_mode(wanted: str) -> tuple[str, str]:
    """``"online"``, ``"offline"`` or ``"disabled"``, and a reason for offline; asks nobody.

    Args:
        wanted: One of these, or ``"auto"``: what WANDB_MODE or ``wandb offline`` say, else online
            where there is a key.

    Raises:
        UserError: If ``"online"`` is wanted and there is no key.
    """
    if wanted in ("offline", "disabled"):
        return wanted, f"logger.mode={wanted}"
    import wandb

    theirs = quietly().mode
    if wanted == "auto" and theirs in ("offline", "dryrun", "disabled"):
        return ("disabled" if theirs == "disabled" else "offline"), f"W&B's own mode is {theirs}"
    try:
        has_key = wandb.login(prompt=False, verify=False)  # type: ignore[call-arg]
        problem = "" if has_key else "no key; `wandb login` makes runs appear online"
    except wandb.Error as error:  # no key can look like that
        problem = " ".join(str(error).split())
    if problem and wanted == "online":
        raise UserError(f"logger.mode=online: {problem}")
    return ("offline" if problem else "online"), problem


def quietly() -> Any:  # noqa: ANN401
    """Have wandb print nothing, as what matters is one line of ours; its settings."""
    import wandb

    return wandb.setup(settings=wandb.Settings(silent=True)).settings


def table(examples: dict[str, np.ndarray]) -> Any:  # noqa: ANN401
    """A W&B table of adversarial examples.

    Args:
        examples: ``x`` and ``x_adv``, pixels in [0, 1] of shape ``(n, C, H, W)``; and of shape
            ``(n,)`` ``index``, ``y``, and each image's class and its probability.
    """
    import wandb

    numbers = ["clean_class", "clean_probability", "adv_class", "adv_probability"]
    columns: list[Any] = ["index", "label", "clean", "adversarial", "difference", *numbers]
    result = wandb.Table(columns=columns)
    for place, index in enumerate(examples["index"]):
        x, x_adv = examples["x"][place], examples["x_adv"][place]
        # Grey is no change; black and white are the image's largest.
        difference = 0.5 + (x_adv - x) / (2 * max(np.abs(x_adv - x).max(), 1e-9))
        pictures = [
            wandb.Image(np.rint(255 * each.transpose(1, 2, 0)).astype(np.uint8))
            for each in (x, x_adv, difference)
        ]
        found = [examples[name][place].item() for name in numbers]
        result.add_data(int(index), int(examples["y"][place]), *pictures, *found)
    return result


def _teardown() -> None:
    import wandb

    with suppress(Exception):  # W&B's own process may be gone
        wandb.teardown()


def _patience(finish_s: float) -> dict[str, Any]:
    import wandb

    settings: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": CONNECT_S,
        "finish_timeout": finish_s,
        "finish_timeout_raises": True,
    }
    # However long an outage is, W&B's own process goes on trying until the run ends.
    for client in ("file_stream", "file_transfer", "graphql"):
        settings[f"x_{client}_retry_max"] = 1_000_000
        settings[f"x_{client}_retry_wait_max_seconds"] = 5.0
    return {key: settings[key] for key in settings.keys() & wandb.Settings.model_fields.keys()}
