"""The group ``logger=``: which loggers a run gets, what they are told, and how mistakes end."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import CSVLogger, Logger

from lrm_lightning.errors import UserError
from lrm_lightning.runs import identity
from lrm_lightning.tracking.loggers import check_loggers, open_loggers, upload_rest
from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.tracking.wandb import RunLogger


def _cfg(*overrides):
    with initialize_config_dir(str(identity.conf_dir()), version_base="1.3"):
        return compose("config", ["data=digits", "sweep=table1", *overrides])


class Mine(Logger):
    """A logger of a user's own."""

    name, version = "mine", 0
    made = 0

    def __init__(self, folder, level=1, wrong=False):
        type(self).made += 1
        self.folder, self.level, self.wrong, self.params = folder, level, wrong, {}

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        if self.wrong:
            raise RuntimeError("no\nserver")
        self.params = params


MINE = "+logger.mine._target_=" + f"{__name__}.Mine"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Under the name that the configuration gives, whatever pytest calls this file."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Mine.__module__])


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), ["wandb"]),
        (("logger=csv",), []),
        (("logger=tensorboard",), ["tensorboard"]),
        (("logger=mlflow",), ["mlflow"]),
        (("logger=many",), ["wandb", "tensorboard"]),
        (("logger=[mlflow,tensorboard]",), ["mlflow", "tensorboard"]),
        (("experiment=demo",), []),
    ],
)
def test_the_group_composes(overrides, names):
    cfg = _cfg(*overrides)
    assert list(cfg.logger) == names
    check_loggers(cfg)


def test_metrics_are_always_written(tmp_path):
    with open_loggers(_cfg("logger=csv"), tmp_path) as loggers:
        (only,) = loggers
        assert isinstance(only, MetricsCSV)
        only.log_metrics({"a": 1.0}, step=0)
        only.finalize("success")
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_logger_of_ones_own_is_told_the_configuration(tmp_path):
    cfg = _cfg("logger=csv", MINE, "+logger.mine.folder='{run_dir}/mine'", "+logger.mine.level=3")
    with open_loggers(cfg, tmp_path) as (_, logger):
        assert isinstance(logger, Mine)
        assert (logger.folder, logger.level) == (f"{tmp_path}/mine", 3)
        assert logger.params["method"]["name"] == cfg.method.name
        assert {"versions", "git"} <= logger.params.keys()


def test_a_yaml_of_ones_own_as_the_documentation_shows_it(tmp_path):
    text = (Path(__file__).parents[2] / "docs/wandb.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "conf/logger").mkdir(parents=True)
    (tmp_path / "conf/logger/mine.yaml").write_text(shown)
    cfg = _cfg("logger=[mine,csv]", f"hydra.searchpath=[file://{tmp_path}/conf]")
    with open_loggers(cfg, tmp_path / "run") as (_, logger):
        assert isinstance(logger, CSVLogger)
        assert Path(logger.log_dir).is_relative_to(tmp_path / "run/table")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("logger.wandb.mode=dryrun",), "logger.wandb: mode='dryrun' is unknown; choose one of: "),
        (("logger.wandb.checkpoint=yes please",), "logger.wandb: checkpoint='yes please' must be"),
        (("logger.wandb=true",), "logger.wandb: "),
        (("+logger.x.level=3",), "logger.x: must be a mapping with _target_"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(overrides, message):
    with pytest.raises(UserError) as error:
        check_loggers(_cfg(*overrides))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_checking_makes_no_logger_of_a_stranger():
    before = Mine.made
    check_loggers(_cfg(MINE, "+logger.mine.folder=x"))
    assert Mine.made == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("+logger.x._target_=nothing.at.all",), "logger.x: .*No module named 'nothing'"),
        ((MINE,), "logger.mine: .*missing 1 required positional argument: 'folder'"),
        ((MINE, "+logger.mine.folder=x", "+logger.mine.wrong=true"), "logger.mine: no server"),
        (("logger=tensorboard",), r"logger.tensorboard: .*pip install 'lrm_lightning\[tensorboard"),
        (("logger=mlflow",), r"logger.mlflow: .*pip install 'lrm_lightning\[mlflow\]'"),
    ],
)
def test_what_cannot_be_made_is_one_line(overrides, message, tmp_path, monkeypatch):
    for name in ("lightning.pytorch.loggers.tensorboard", "lightning.fabric.loggers.tensorboard"):
        monkeypatch.setattr(f"{name}._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", False)
    cfg = _cfg(*([] if overrides[0].startswith("logger=") else ["logger=csv"]), *overrides)
    with pytest.raises(UserError, match=f"^{message}") as error, open_loggers(cfg, tmp_path):
        pytest.fail("opened")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ended_by", [None, UserError, KeyboardInterrupt])
def test_wandb_ends_with_the_run_whatever_ends_it(ended_by, tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr(RunLogger, "log_hyperparams", lambda self, params: None)
    monkeypatch.setattr(RunLogger, "close", lambda self, **settings: ends.append(settings))
    next_cannot_be_made = f"+logger.mine.wrong={ended_by is UserError}"
    cfg = _cfg(MINE, "+logger.mine.folder=x", next_cannot_be_made, "checkpoint.select=best")
    with (
        nullcontext() if ended_by is None else pytest.raises(ended_by),
        open_loggers(cfg, tmp_path),
    ):
        assert ended_by is not UserError
        if ended_by is not None:
            raise ended_by
    failed = ended_by is not None
    assert ends == [{"failed": failed, "weights": tmp_path / "checkpoints/best.ckpt"}]


def test_only_wandb_is_asked_for_the_rest_of_a_finished_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(RunLogger, "upload_rest", lambda self, results: asked.append(results))
    before = Mine.made
    upload_rest(_cfg(MINE, "+logger.mine.folder=x"), tmp_path, {"val/acc/clean": 0.5})
    assert asked == [{"val/acc/clean": 0.5}]
    assert Mine.made == before


def test_tensorboard_writes_into_the_run_directory(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (0, 2):  # the second is the resumed run
        with open_loggers(_cfg("logger=tensorboard"), tmp_path) as (_, logger):
            for step in (first, first + 1):
                logger.log_metrics({"train/loss": 0.5 * step}, step)
            logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert found == [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)]
    assert [each.name for each in tmp_path.iterdir()] == ["tensorboard"]


@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_writes_into_the_run_directory(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    with open_loggers(_cfg("logger=mlflow"), folder) as (_, logger):
        logger.log_metrics({"train/loss": 0.5}, 3)
        logger.finalize("success")
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (found,) = client.get_metric_history(logger.run_id, "train/loss")
        assert (found.step, found.value) == (3, 0.5)
        assert client.get_run(logger.run_id).data.params["method/name"] == "pgd"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
