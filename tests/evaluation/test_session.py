"""What evaluate and transfer are told: threat model, data, device."""

import pytest
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.session import choose_device, data_settings, load_data, threat_model

TRAINED = {"attack": {"norm": "l2", "eps": 0.5, "step_size": 0.3, "steps": 3}}
NOTHING = {"norm": None, "eps": None, "step_size": None}


def test_threat_is_as_trained_with_the_papers_step():
    threat = threat_model(TRAINED, NOTHING)
    assert (threat.norm, threat.eps, threat.step_size) == ("l2", 0.5, 0.13)
    threat = threat_model({}, NOTHING)
    assert (threat.norm, threat.eps, threat.step_size) == ("linf", 0.03, 0.0078)
    threat = threat_model(TRAINED, {"norm": "linf", "eps": 0.1, "step_size": 0.02})
    assert (threat.norm, threat.eps, threat.step_size) == ("linf", 0.1, 0.02)
    assert threat_model({"attack": {"eps": "8/255"}}, NOTHING).eps == 8 / 255


def test_a_radius_of_another_norm_is_not_taken_over():
    with pytest.raises(
        UserError, match=r"norm=linf needs attack\.eps=\.\.\.: eps=0\.5 is a radius of"
    ):
        threat_model(TRAINED, NOTHING | {"norm": "linf"})
    with pytest.raises(
        UserError, match=r"norm=l2 needs attack\.eps=\.\.\.: eps=0\.03 is a radius of"
    ):
        threat_model({}, NOTHING | {"norm": "l2"})
    assert threat_model(TRAINED, NOTHING | {"norm": "l2"}).eps == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 0}, "attack.eps=0 must be"),
        ({"eps": "far"}, "attack.eps='far' must be"),
        ({"norm": "l7"}, "attack.norm='l7' is unknown"),
        ({"norm": ["l2"]}, r"attack.norm=\['l2'\] is unknown"),
        ({"step_size": -1}, "attack.step_size=-1 must be"),
    ],
)
def test_wrong_threat_model(given, message):
    with pytest.raises(UserError, match=message):
        threat_model({}, NOTHING | given)


def test_data_are_as_trained_unless_told_otherwise():
    trained = {
        "data": {
            "_target_": "lrm_lightning.data.CIFAR10DataModule",
            "name": "cifar10",
            "root": "here",
            "require_official": False,
            "batch_size": 3,
        }
    }
    nothing = {"name": None, "root": None, "require_official": None}
    settings = data_settings(trained, nothing)
    assert settings == {
        "_target_": "lrm_lightning.data.CIFAR10DataModule",
        "root": "here",
        "require_official": False,
        "download": False,  # into a folder that only the run names
    }
    assert data_settings(trained, nothing | {"download": True})["download"]
    there = data_settings(trained, nothing | {"root": "there"})
    assert (there["root"], there["download"]) == ("there", True)
    digits = {"_target_": "lrm_lightning.data.DigitsDataModule"}
    assert data_settings(trained, nothing | {"name": "digits", "root": "there"}) == digits
    assert data_settings({}, nothing)["require_official"] is True
    with pytest.raises(UserError, match=r"data.name=mnist is unknown; choose one of: .*digits"):
        data_settings({}, nothing | {"name": "mnist"})


def test_a_class_that_a_file_names_is_not_used():
    trained = {"data": {"_target_": "os.mkdir", "name": "digits", "root": "made"}}
    given = {"name": None, "root": None, "require_official": None}
    assert data_settings(trained, given) == {"_target_": "lrm_lightning.data.DigitsDataModule"}
    with pytest.raises(UserError, match=r"data\.name=stripes is unknown"):
        data_settings({"data": {"_target_": "os.mkdir", "name": "stripes"}}, given)
    for name in ("../../digits", "digits\0", "a\nb" * 9999):
        with pytest.raises(UserError) as error:
            data_settings({"data": {"name": name}}, given)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def test_wrong_place_of_the_data():
    settings = data_settings({}, {"name": "cifar10", "root": None, "require_official": "perhaps"})
    with pytest.raises(UserError, match=r"data\.require_official='perhaps' must be true or false"):
        load_data(settings)


def test_wrong_device():
    with pytest.raises(UserError, match="device='tpu' is unknown"):
        choose_device("tpu")
    assert choose_device("cpu") == torch.device("cpu")
