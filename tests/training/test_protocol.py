"""The field's protocol, from its training to AutoAttack, on a few images."""

import json


def test_experiment_robustbench_trains_and_is_judged(processes, tmp_path):
    processes.run(
        "lrm_lightning.train",
        *("experiment=robustbench", "method=trades", "data=digits", "data.batch_size=16"),
        *("model.widths=[4,4,8,8]", "trainer.max_epochs=1", "trainer.limit_train_batches=2"),
        *("robust_accuracy.n_images=20", "robust_accuracy.test_n_images=30"),
        *("trainer=cpu", "logger=csv"),
    )
    (path,) = tmp_path.glob("runs/digits/trades-*")
    record = json.loads((path / "record.json").read_text())
    assert (record["global_step"], record["checkpoint"]) == (2, "best")
    assert (path / "checkpoints/best.ckpt").exists()
    assert record["training_attack"]["steps"] == 10
    assert record["attack"]["eps"] == record["training_attack"]["eps"] == 8 / 255

    few = ("pgd_steps=2", "pgd_restarts=1", "targets=1", "targeted_steps=2", "large_eps_steps=2")
    few += ("autoattack_iterations=2", "square_queries=2")
    suite = ("suite=strong", *(f"suite.{each}" for each in few))
    processes.run("lrm_lightning.evaluate", f"runs=[{path}]", *suite, "n_images=8", "device=cpu")
    (evaluation,) = path.glob("evaluations/strong-*.json")
    found = json.loads(evaluation.read_text())
    assert found["attack"]["eps"] == 8 / 255
    assert found["model"]["checkpoint"] == "best"
    assert found["metrics"]["autoattack"] <= found["metrics"]["clean"]
