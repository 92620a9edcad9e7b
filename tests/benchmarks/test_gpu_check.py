"""``make gpu-check`` on a machine without a GPU, and what it makes of what it finds."""

import math

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import ENGINES, chosen, main
from benchmarks.subject import QUICK, Settings, prepare
from lrm_lightning.models import view


@pytest.fixture
def on_one_method(monkeypatch):
    """Seconds instead of half a minute."""
    monkeypatch.setattr(gpu_check, "prepare", lambda settings: prepare(_shorter(settings)))
    monkeypatch.setattr(gpu_check, "METHODS", ["pgd"])


def _shorter(settings):
    return type(settings)(**{**vars(settings), "pretraining": 4})


@pytest.mark.slow
def test_it_passes_without_a_gpu_and_says_what_it_leaves_out(on_one_method, capsys):
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("there is no GPU here")
    for precision in ("double", "float32", "bf16"):
        assert f"plain and fast, {precision}" in output
    assert output.count("left out: no GPU") == 6
    assert output.splitlines()[-1].startswith("verdict: there is no GPU here")


@pytest.mark.slow
def test_engines_that_differ_fail_it(on_one_method, monkeypatch, capsys):
    loss = gpu_check.loss
    monkeypatch.setattr(
        gpu_check, "loss", lambda *given: loss(*given) * (1.01 if "fast" in given else 1)
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "2 of 9 checks failed" in capsys.readouterr().out  # bf16 may differ by more


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_what_runs_on_a_gpu_runs(monkeypatch):
    monkeypatch.setattr(view, "COMPILE", {"backend": "aot_eager"})
    monkeypatch.setattr(gpu_check, "MODELS", ("resnet_tiny",))
    monkeypatch.setattr(gpu_check, "BATCH", 8)
    monkeypatch.setattr(gpu_check, "ROUNDS", 1)
    subject = prepare(Settings(**QUICK | {"pretraining": 1, "images": 8}))
    assert [row.ok for row in gpu_check.compiled(subject, "cpu")] == [True] * 3
    times, rows = gpu_check.step_times("cpu", deadline=math.inf)
    ways = {f"{engine}{more}" for engine in ENGINES for more in ("", ", TF32")}
    assert times["resnet_tiny"].keys() == ways | {"reference, NCHW", "reference, NCHW, TF32"}
    assert all(row.ok is None for row in rows)
    (row,) = gpu_check.step_times("cpu", deadline=0.0)[1]
    assert row == ("times of resnet_tiny", "left out: no time", False)


@pytest.mark.parametrize(
    ("times", "wrong", "engine"),
    [
        ([(1.0, 0.9, 0.5), (1.0, 2.0, 0.9)], (), "compile"),
        ([(1.0, 0.9, 0.5), (1.0, 2.0, 0.9)], ("compile",), "reference"),
        ([(1.0, 0.9, 0.5), (1.0, 0.8, 0.99)], (), "fast"),
        ([(1.0, 0.99, 0.98)], (), "reference"),
        ([(1.0, 0.5)], (), "fast"),  # compile did not run
        ([], (), "reference"),
    ],
)
def test_auto_is_what_is_clearly_faster_on_every_network(times, wrong, engine):
    named = {str(k): dict(zip(ENGINES, each, strict=False)) for k, each in enumerate(times)}
    assert chosen(named, set(wrong)) == engine
