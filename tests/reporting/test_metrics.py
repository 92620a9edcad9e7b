"""Training curves from metrics.csv."""

import pytest

from lrm_lightning.reporting.metrics import largest_pgd, training_curves


def write(folder, text):
    (folder / "metrics.csv").write_text(text)
    return training_curves(folder)


def test_rows_of_one_epoch_come_together_counted_from_one(tmp_path):
    curves = write(
        tmp_path,
        "step,epoch,train/loss,val/acc/clean\n"
        "9,0.0,2.5,\n18,0.0,2.0,\n18,0.0,,0.3\n36,1.0,,0.4\n27,1.0,1.5,\n",
    )
    assert curves == {
        "train/loss": [(1.0, 2.25), (2.0, 1.5)],
        "val/acc/clean": [(1.0, 0.3), (2.0, 0.4)],
    }


@pytest.mark.parametrize("text", ["", "step\n", "a,b\n1,2\n", "step,epoch,x\n1,one,2\n1,0,nan\n"])
def test_what_is_no_number_is_left_out(tmp_path, text):
    assert write(tmp_path, text) == {}


def test_no_file_and_bytes_of_something_else_are_no_curves(tmp_path):
    assert training_curves(tmp_path) == {}
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert training_curves(tmp_path) == {}


def test_the_strongest_pgd_of_the_validation(tmp_path):
    names = ["val/acc/pgd5", "val/acc/pgd10", "test/acc/pgd20", "val/acc/pgdx", "val/acc/fgsm"]
    assert largest_pgd({name: [] for name in names}) == "val/acc/pgd10"
    assert largest_pgd({"val/acc/fgsm": []}) is None
