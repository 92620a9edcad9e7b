"""Online or offline, and which W&B run it is: nobody is asked, nobody is called."""

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from lrm_lightning.errors import UserError
from lrm_lightning.tracking.loggers import open_loggers
from lrm_lightning.tracking.wandb import RunLogger


@pytest.fixture
def begun(monkeypatch):
    """What W&B was given instead of a run being begun."""
    given = []

    class Run:
        def __init__(self, **arguments):
            given.append(arguments)
            self.summary = {}

        def define_metric(self, *arguments, **settings):
            pass

    monkeypatch.setattr("wandb.init", Run)
    return given


def _begin(folder, **settings):
    logger = RunLogger(str(folder), project="tests", **settings)
    assert isinstance(logger, WandbLogger)
    assert logger.experiment is logger.experiment
    return logger


@pytest.mark.parametrize(
    ("wanted", "theirs", "key", "mode", "reason"),
    [
        ("auto", None, False, "offline", "no key; `wandb login` makes runs appear online"),
        ("auto", None, True, "online", None),
        ("auto", "online", False, "offline", "no key; `wandb login` makes runs appear online"),
        ("auto", "offline", True, "offline", "mode=offline"),
        ("auto", "dryrun", True, "offline", "mode=offline"),
        ("auto", "disabled", True, "disabled", None),
        ("offline", None, True, "offline", "mode=offline"),
        ("online", "offline", True, "online", None),
        ("disabled", "online", True, "disabled", None),
    ],
)
def test_mode(wanted, theirs, key, mode, reason, alone, begun, monkeypatch, tmp_path, capfd):
    if theirs:
        monkeypatch.setenv("WANDB_MODE", theirs)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    folder = tmp_path / "a run"
    _begin(folder, mode=wanted)
    assert [each["mode"] for each in begun] == [mode]
    line = f"W&B: offline ({reason}); `wandb sync '{folder}/wandb'` uploads this run\n"
    assert capfd.readouterr() == (line if reason else "", "")


def test_online_without_a_key_is_a_mistake(alone, tmp_path, begun):
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=online: no key; `wandb login`"):
        _begin(tmp_path, mode="online")
    assert not begun


def test_a_key_that_is_none_is_one_line(alone, tmp_path, begun, monkeypatch, composed):
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    opened = open_loggers(composed("config", "data=digits"), tmp_path)
    with pytest.raises(UserError, match=r"^logger\.wandb: .*API key") as error, opened:
        pytest.fail("opened")
    assert "\n" not in str(error.value)
    assert not begun


def test_another_rank_begins_nothing(alone, tmp_path, begun, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    logger = RunLogger(str(tmp_path))
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"a": 1.0}, 0)
    logger.close(failed=False)
    assert not begun


def test_what_the_run_is_called(alone, tmp_path, begun):
    _begin(tmp_path / "alp-0123abcd", group="table1", job_type="alp", tags=["a"], notes="n")
    (given,) = begun
    assert given.pop("id").startswith("alp-0123abcd-")
    del given["settings"]
    assert given == {
        "dir": f"{tmp_path}/alp-0123abcd",
        "mode": "offline",
        "resume": "allow",
        "name": "alp-0123abcd",
        "project": "tests",
        "group": "table1",
        "job_type": "alp",
        "tags": ["a"],
        "notes": "n",
    }


@pytest.mark.parametrize("prefix", ["", "offline-"])
@pytest.mark.parametrize("suffix", ["", "-1"])  # of W&B's, where it began two in one second
def test_a_directory_goes_on_in_the_run_that_it_began(prefix, suffix, alone, tmp_path, begun):
    folder = tmp_path / "wandb" / f"{prefix}run-20261126_013720-alp-0123abcd-67{suffix}"
    folder.mkdir(parents=True)
    (folder / "run-alp-0123abcd-67.wandb").touch()
    (tmp_path / "wandb/latest-run").symlink_to("elsewhere")
    _begin(tmp_path)
    assert begun[0]["id"] == "alp-0123abcd-67"


def test_trained_again_it_is_another_run(alone, tmp_path, begun, monkeypatch):
    for second in (1, 2):
        monkeypatch.setattr("time.time", lambda second=second: float(second))
        _begin(tmp_path)
    assert begun[0]["id"] != begun[1]["id"]


def test_disabled_leaves_nothing(alone, tmp_path, capfd):
    logger = RunLogger(str(tmp_path / "run"), mode="disabled")
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"a": 1.0}, 0)
    logger.close(failed=False)
    assert not [each for each in (tmp_path / "run").rglob("*") if each.is_file()]
    assert capfd.readouterr() == ("", "")


def test_wandb_and_lightning_still_have_what_is_relied_on(tmp_path):
    """Parts that are no public interface: a new release may change them."""
    settings = wandb.Settings()
    for name in ("graphql", "file_stream"):
        settings.update_from_env_vars({f"WANDB_X_{name.upper()}_RETRY_MAX": "2"})
        assert getattr(settings, f"x_{name}_retry_max") == 2
    settings = wandb.Settings(root_dir=str(tmp_path), run_id="a-b-c", mode="offline")
    assert settings.sync_dir.startswith(f"{tmp_path}/wandb/offline-run-")
    assert settings.sync_dir.endswith("-a-b-c")
