"""Online or offline, and whose run it is: nobody is asked, nobody is called."""

import pytest
from omegaconf import OmegaConf

from lrm_lightning.errors import UserError
from lrm_lightning.tracking import wandb as module
from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.tracking.wandb import uploads_rest, wandb_logger
from lrm_lightning.tracking.wandb_client import choose_mode
from lrm_lightning.tracking.wandb_journal import Journal, numbered


def _cfg(mode="auto", **changed):
    logger = {"wandb": True, "project": "tests", "entity": None, "mode": mode, "tags": ["a"]}
    base = {"method": {"name": "alp"}, "data": {"name": "digits"}, "sweep": "table1"}
    return OmegaConf.create({"logger": logger, "rerun": False} | base | changed)


def _arguments(folder, *, mode="auto", **changed):
    return _cfg(mode, **changed), folder, {"seed": 7}, "0123abcd", MetricsCSV(folder / "m.csv")


@pytest.fixture
def opened(monkeypatch):
    """What would have been opened."""
    found = []
    monkeypatch.setattr(
        module, "RunLogger", lambda client, journal, mode: found.append((client, mode))
    )
    return found


def test_auto_is_offline_without_a_key(alone):
    mode, reason = choose_mode("auto")
    assert mode == "offline"
    assert "no key" in reason


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_other_modes_are_taken_at_their_word(mode, alone):
    assert choose_mode(mode)[0] == mode


@pytest.mark.parametrize(
    ("theirs", "ours"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_auto_does_what_wandb_was_told(theirs, ours, alone, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", theirs)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert choose_mode("auto")[0] == ours


def test_auto_is_online_with_a_key_without_a_call(alone, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert choose_mode("auto") == ("online", "")
    assert capsys.readouterr() == ("", "")


def test_online_without_a_key_is_a_mistake(alone):
    with pytest.raises(UserError, match=r"logger\.mode=online: no key; `wandb login`"):
        choose_mode("online")


def test_a_key_that_is_none_is_no_key(alone, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    mode, reason = choose_mode("auto")
    assert mode == "offline"
    assert "\n" not in reason
    assert "API key" in reason


def test_what_the_run_is_called(alone, tmp_path, opened):
    wandb_logger(*_arguments(tmp_path))
    ((client, mode),) = opened
    assert mode == "offline"
    assert client.settings == {
        "id": "0123abcd",
        "name": "alp-0123abcd",
        "project": "tests",
        "entity": None,
        "group": "table1",
        "job_type": "alp",
        "tags": ["a", "digits"],
        "config": {"seed": 7},
    }


def test_trained_again_it_is_another_run_that_can_be_resumed(alone, tmp_path, opened):
    wandb_logger(*_arguments(tmp_path, rerun=True))
    wandb_logger(*_arguments(tmp_path))
    (one, _), (same, _) = opened
    assert one.settings["id"].startswith("0123abcd-")
    assert same.settings["id"] == one.settings["id"]


def test_offline_is_said_in_one_line(alone, tmp_path, opened, capsys):
    wandb_logger(*_arguments(tmp_path))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B: offline (no key; `wandb login`")
    assert f"`wandb sync {tmp_path}/wandb/offline-run-*` uploads this run" in line


def test_disabled_leaves_nothing(alone, tmp_path, capsys):
    assert wandb_logger(*_arguments(tmp_path, mode="disabled")) is None
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_finished_run_is_opened_only_if_something_is_missing(
    alone, tmp_path, opened, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert uploads_rest(*_arguments(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "wandb").mkdir()
    Journal(tmp_path, MetricsCSV(tmp_path / "m.csv")).pending = True
    assert uploads_rest(*_arguments(tmp_path, mode="offline")) is None
    assert not opened
    uploads_rest(*_arguments(tmp_path))
    ((_, mode),) = opened
    assert mode == "online"


def test_rows_have_the_same_numbers_whenever_they_are_told(tmp_path):
    (tmp_path / "wandb").mkdir()
    metrics = MetricsCSV(tmp_path / "m.csv")
    journal = Journal(tmp_path, metrics)
    told = []
    for step, row in [
        (0, {"train/loss": 1.0, "epoch": 0}),
        (0, {"val/acc/clean": 0.5, "epoch": 0}),
        (1, {"train/loss": 0.5, "epoch": 1}),
        (2, {"test/acc/clean": 0.25, "epoch": 2}),
    ]:
        metrics.log_metrics(row, step)
        told += numbered(step, row)
    journal.add_media(0, {"train/images_per_s": 9.0, "epoch": 0})
    told += numbered(0, {"train/images_per_s": 9.0, "epoch": 0}, 2)
    assert journal.rows() == sorted(told)
    assert len({number for number, _ in told}) == len(told) == 5
    # a kill while a line is written costs that line, and what is logged again counts
    with (tmp_path / "wandb/media.jsonl").open("a") as lines:
        lines.write('{"step": 1, "metr')
    journal.add_media(1, {})
    assert journal.rows() == sorted(told)


def test_told_again_the_last_word_counts(tmp_path):
    (tmp_path / "wandb").mkdir()
    journal = Journal(tmp_path, MetricsCSV(tmp_path / "m.csv"))
    for speed in (1.0, 2.0):
        journal.add_media(3, {"train/images_per_s": speed})
    ((_, row),) = journal.rows()
    assert row == {"train/images_per_s": 2.0, "trainer/global_step": 3}
