"""Weights & Biases: one run a run directory, online with a key, offline without."""

import inspect
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from pydantic import ValidationError

from lrm_lightning.checks import check_choice, check_flag
from lrm_lightning.data import Batch
from lrm_lightning.errors import UserError, text_of

X_AXIS = "trainer/global_step"  # Lightning's name of the step
CONNECT_S, FINISH_S = 10, 20  # the second is within the launcher's 30 seconds of grace
UPLOAD_S = 600  # for weights, and for what was left offline


class RunLogger(WandbLogger):
    """Lightning's logger, which W&B's server can neither stop nor delay for long.

    Lightning's own asks for a key, fails if the server does not answer, and begins another W&B run
    on a resume. Here a run goes on in the W&B run that its directory began. Without a key, or if
    the server does not answer, it is logged offline; ``wandb sync`` uploads that at the end or when
    the same command is given again. A process of ``wandb agent`` logs to the agent's W&B run.

    Args:
        save_dir: The run directory, which names the W&B run; files go to ``wandb/`` in it.
        mode: ``"online"``, ``"offline"``, ``"disabled"``, or ``"auto"``: what WANDB_MODE or
            ``wandb offline`` say, else online where there is a key.
        checkpoint: Whether :meth:`close` uploads the weights as an artifact.
        **init: Further arguments of ``wandb.init``.

    Raises:
        ValueError: If ``mode`` or ``checkpoint`` is none of these.
        Exception: Of W&B, for what it refuses in ``init`` or in the environment.
    """

    def __init__(
        self,
        save_dir: str,
        *,
        mode: str = "auto",
        checkpoint: bool = False,
        **init: Any,
    ) -> None:
        check_choice("mode", mode, ("auto", "online", "offline", "disabled"))
        check_flag("checkpoint", checkpoint)
        _check_settings(init)
        super().__init__(save_dir=save_dir, project=init.get("project"))
        self._folder, self._wanted, self._checkpoint = Path(save_dir), mode, checkpoint
        # Of the file the name has the id alone; W&B adds -1 to a second folder of the same second.
        begun = sorted(self._folder.glob("wandb/*run-*/run-*.wandb"))
        earlier = begun[-1].stem.removeprefix("run-") if begun else None
        name = self._folder.name  # trained again, or elsewhere, it is another W&B run
        self._init = {"name": name, "id": earlier or f"{name}-{int(time.time()):x}"} | init
        self._run: Any = None
        self._begun = bool(begun)
        self._known, self._lost = 0, False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401
        if self._run is None:
            self._run = self._open()
            self._run.define_metric(X_AXIS)
            self._run.define_metric("*", step_metric=X_AXIS, step_sync=True)
            self._known = self._run.summary.get(X_AXIS, 0)
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # A resumed run logs again what the interrupted one had logged after its checkpoint.
        if self._lost or (step is not None and step < self._known):
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # W&B's own have no common class
            self._lost = True
            _say(f"nothing more is logged ({text_of(error)[:100]})")

    @rank_zero_only
    def close(self, *, failed: bool = False, weights: Path | None = None) -> None:
        """End the W&B run, in a time that is bounded; upload ``weights`` if that is wished."""
        if self._run is None:
            return
        folder = Path(self._run.dir).parent
        if self._checkpoint and weights and not failed:
            try:
                self._run.log_artifact(weights, name=f"model-{self._run.id}", type="model")
            except Exception as error:  # as in log_metrics
                _say(f"the weights are not uploaded ({text_of(error)[:100]})")
        try:
            self._run.finish(exit_code=int(failed))
        except Exception:  # TimeoutError, or W&B's own process is gone
            self._lost = True
        _teardown()  # closes the files
        if self._lost and folder.name.startswith("run-"):
            folder.rename(folder.with_name(f"offline-{folder.name}"))  # wandb sync takes it then
        if not failed:
            self.upload_rest()

    @rank_zero_only
    def upload_rest(self, results: Mapping[str, float] | None = None) -> None:
        """Upload what lies offline in the run directory if there is a key.

        A finished run gives its ``results``: ``wandb agent`` may give its configuration once more.
        """
        if results and _in_sweep():
            self.log_metrics(results)
            self.close()
        elif _left_offline(self._folder) and self._mode()[0] == "online":
            _sync(self._folder)

    def add_results(self, results: Mapping[str, float]) -> None:
        """Put what was found later into the summary of the W&B run, or say why it isn't there.

        An offline file of these alone would take the place of the whole summary when it is synced.
        """
        try:
            mode, reason = self._mode()
            if not self._begun:
                mode, reason = "", "this run directory has none"
            if mode == "online" and not _sync(self._folder):
                mode, reason = "", "an earlier part is still to be uploaded"
            if mode == "online":
                given = self._given() | {"resume": "must"}
                del given["name"]  # the user may have given it another
                run = quiet_wandb().init(mode=mode, **given)
                run.summary.update(dict(results))
                run.finish()
        except Exception as error:  # as in log_metrics
            mode, reason = "", text_of(error)[:100]
        _teardown()
        if mode != "online":
            _say(f"the evaluation is not added to the W&B run of {self._folder} ({reason})")

    def _mode(self) -> tuple[str, str]:
        """``"online"``, ``"offline"`` or ``"disabled"``, and why; nobody is asked."""
        wandb = quiet_wandb()
        own = wandb.setup().settings.mode.replace("dryrun", "offline")
        mode = own if self._wanted == "auto" else self._wanted
        wandb.setup(settings=wandb.Settings(mode=mode))  # login asks for it
        try:
            if mode != "online" or wandb.login(prompt=False, verify=False):
                return mode, f"mode={mode}"
        except wandb.Error as error:  # no key can look like that
            raise UserError(f"logger.wandb: {text_of(error)[:100]}") from error
        if self._wanted == "online":
            raise UserError("logger.wandb.mode=online: no key; `wandb login` stores one")
        return "offline", "no key; `wandb login` makes runs appear online"

    def _open(self) -> Any:  # noqa: ANN401
        mode, reason = self._mode()
        init = self._given()
        if mode == "online":
            try:
                if _sync(self._folder):  # an earlier part of the run comes first
                    return quiet_wandb().init(mode=mode, **init)
                reason = "an earlier part is still to be uploaded"
            except Exception as error:  # as in log_metrics
                _teardown()  # what was begun would go on trying, and be in the way
                reason = text_of(error)[:100]
            mode = "offline"
        if mode == "offline":
            files = shlex.quote(str(self._folder / "wandb"))
            _say(f"offline ({reason}); `wandb sync {files}` uploads this run")
        return quiet_wandb().init(mode=mode, **init)

    def _given(self) -> dict[str, Any]:
        """The arguments of ``wandb.init``."""
        settings = quiet_wandb().Settings(
            silent=True,
            console="off",
            init_timeout=CONNECT_S,
            finish_timeout=UPLOAD_S if self._checkpoint else FINISH_S,
            finish_timeout_raises=True,
        )
        init = {"dir": str(self._folder), "resume": "allow", "settings": settings} | self._init
        if _in_sweep():  # the run and its project are the agent's
            init = {k: v for k, v in init.items() if k not in ("id", "project", "entity")}
        return init


class WandbMedia(L.Callback):
    """Gives W&B what ``metrics.csv`` can't hold, where a logger is W&B's.

    After a validation these are the training's images per second, of all ranks together, and where
    it was attacked histograms of rank 0's logits; after the test, pictures of some images, clean
    and attacked. The ``attacker`` is the callback that attacks, a ``RobustAccuracy``.
    """

    def __init__(self, attacker: Any) -> None:  # noqa: ANN401
        self._attacker = attacker
        self._images, self._began, self._ended = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: object, outputs: object, batch: Batch, *_: int
    ) -> None:
        self._images += len(batch.x) * trainer.world_size
        self._ended = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loggers = _loggers(trainer)
        if not loggers or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        media: dict[str, Any] = {"epoch": trainer.current_epoch}
        if self._ended > self._began:
            media["train/images_per_s"] = self._images / (self._ended - self._began)
        if self._attacker.active:
            for kind, logits in self._attacker.logits.items():
                counts = np.histogram(logits.float().numpy(), bins=64)
                histogram = quiet_wandb().Histogram(np_histogram=counts)
                media[f"val/logits/{kind}/histogram"] = histogram
        for logger in loggers:  # Lightning numbers steps from 0, and this one is done
            logger.log_metrics(media, max(0, trainer.global_step - 1))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loggers = _loggers(trainer)
        if not loggers or self._attacker.examples is None:
            return
        pictures, captions = [], []
        for index, y, x, x_adv, *logits in zip(*self._attacker.examples, strict=True):
            change = x_adv - x  # grey is none; black and white are the image's largest
            difference = 0.5 + change / (2 * change.abs().max()).clamp(min=1e-9)
            row = np.concatenate([each.numpy() for each in (x, x_adv, difference)], axis=2)
            pictures.append(np.rint(255 * row.transpose(1, 2, 0)).astype(np.uint8))
            best = [each.softmax(dim=0).max(dim=0) for each in logits]
            clean, adv = (f"{each.indices} ({each.values:.0%})" for each in best)
            captions.append(f"image {index}, class {y}: clean {clean}, attacked {adv}")
        for logger in loggers:  # not as a table: that waits for the server
            logger.log_image("test/examples", pictures, trainer.global_step, caption=captions)


def quiet_wandb() -> Any:  # noqa: ANN401
    """The package, imported late, as that takes a second; it prints nothing."""
    import wandb

    # No public setting, but a release without it ignores it: an outage of hours loses nothing.
    os.environ.setdefault("WANDB_X_FILE_STREAM_RETRY_MAX", "1000000")
    wandb.setup(settings=wandb.Settings(silent=True))
    return wandb


def _check_settings(init: Mapping[str, Any]) -> None:
    """Raise an error if W&B refuses an argument of its ``init`` or one of its variables."""
    import wandb

    inspect.signature(wandb.init).bind_partial(**init)
    settings = wandb.Settings()
    try:
        settings.update_from_env_vars(dict(os.environ))
        for key, value in init.items():
            for field in (key, f"run_{key}"):  # project, entity; run_name, run_group, ...
                if field in type(settings).model_fields:
                    setattr(settings, field, value)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        raise ValueError(f"{first['loc'][0]}={first['input']!r}: {first['msg']}") from error


def _loggers(trainer: L.Trainer) -> list[WandbLogger]:
    return [each for each in trainer.loggers if isinstance(each, WandbLogger)]


def _in_sweep() -> bool:
    return "WANDB_SWEEP_ID" in os.environ  # wandb agent sets it


def _left_offline(folder: Path) -> list[str]:
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [str(each) for each in files if not each.with_suffix(".wandb.synced").exists()]


def _sync(folder: Path) -> bool:
    """Upload what lies offline in a run directory; whether nothing is left."""
    if files := _left_offline(folder):
        _say(f"uploading what was left offline in {folder}")
        command = [sys.executable, "-m", "wandb", "sync", *files]
        # By default one attempt takes minutes where there is no server.
        environment = os.environ | {"WANDB_X_GRAPHQL_RETRY_MAX": "2"}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=environment, capture_output=True, timeout=UPLOAD_S)
        if _left_offline(folder):
            _say("not all is uploaded; the same command, given again, does it")
            return False
    return True


def _teardown() -> None:
    with suppress(Exception):  # W&B's own process may be gone
        quiet_wandb().teardown()


def _say(text: str) -> None:
    print(f"W&B: {text}")  # noqa: T201
