"""Two processes train what one trains, and count every image once."""

import pytest
import torch

# Double precision: what is left of a difference in the order of sums decides no pixel's sign.
EPOCH = ("trainer.max_epochs=1", "trainer.precision=64-true", "robust_accuracy.test_n_images=103")
EPOCH += ("data.eval_batch_size=103", "trainer.limit_train_batches=8")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.parametrize("method", ["pgd", "alp", "lrm"])
def test_two_processes_train_what_one_trains(method, command, python, small, finished, tmp_path):
    overrides = (f"method={method}", *EPOCH)
    command.run(*overrides, "trainer.sync_batchnorm=true", "runs_dir=runs/one")
    own = [each for each in small if each != "trainer=cpu"]
    python(
        "-m", "lrm_lightning.train", *own, *overrides, *TWO, "runs_dir=runs/two", folder=tmp_path
    )
    one, two = (finished(method, f"runs/{each}") for each in ("one", "two"))
    assert two.record["hardware"]["devices"] == 2
    assert (one.record["n"], two.record["n"]) == (103, 103)
    assert sorted(two.verdicts["index"]) == list(range(103))
    assert one.weights.keys() == two.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(two.weights[name], value, rtol=1e-6, atol=1e-8, msg=name)
    assert one.record["metrics"] == two.record["metrics"]
