"""What a run says when its code is not what it was."""

import pytest

from lrm_lightning.methods import Regular
from lrm_lightning.training.sources import Sources


@pytest.mark.parametrize("now", ["a" * 64, "b" * 64])
def test_a_resumed_run_says_which_modules_have_changed(
    now, network, digits, make_trainer, tmp_path, capsys
):
    kept = {"my_defense": "a" * 64, "lrm_lightning.attacks.pgd": "c" * 64}
    trainer = make_trainer(Sources(kept), max_epochs=1, limit_val_batches=0)
    trainer.fit(Regular(network), datamodule=digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer = make_trainer(Sources(kept | {"my_defense": now}), max_epochs=2, limit_val_batches=0)
    capsys.readouterr()
    trainer.fit(Regular(network), datamodule=digits, ckpt_path=str(tmp_path / "last.ckpt"))
    told = "warning: its code has changed since: my_defense; it goes on with what there is now"
    assert (told in capsys.readouterr().out) == (now != kept["my_defense"])
