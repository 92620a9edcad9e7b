"""N-FGSM, FGSM-RS and the field's eps against their formulas."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F

from lrm_lightning.attacks import NFGSM, PGDAttack

EPS = 0.05


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(3, (6,), generator=generator)


def _step(model, x_adv, y, length):
    x_adv = x_adv.clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)[0]
    return x_adv.detach() + length * gradient.sign()


def test_n_fgsm_is_a_step_from_noise_and_is_not_projected(problem):
    model, x, y = problem
    found = NFGSM(eps=EPS)(model, x, y, generator=torch.Generator().manual_seed(5))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) * 4 * EPS - 2 * EPS
    expected = _step(model, (x + noise).clamp(0, 1), y, EPS).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    far = (found - x).abs().max()
    assert 2 * EPS < far <= 3 * EPS + 1e-7
    assert found.min() >= 0
    assert found.max() <= 1


def test_n_fgsm_leaves_the_global_random_state_and_takes_the_start(problem):
    model, x, y = problem
    attack = NFGSM(eps=EPS, noise=1.0)
    noise = attack.draw_noise(x.shape, generator=torch.Generator().manual_seed(5))
    assert noise.shape == (1, *x.shape)
    assert EPS * 0.9 < noise.abs().max() <= EPS
    before = torch.get_rng_state()
    found = attack(model, x, y, start=x + noise)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, attack(model, x, y, generator=torch.Generator().manual_seed(5)))


def test_n_fgsm_of_a_large_ball_stays_among_pixels(problem):
    model, x, y = problem
    found = NFGSM(eps=0.6)(model, x, y)
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"noise": 0}, "noise=0 must be a number > 0"),
        ({"engine": "warp"}, "engine='warp' is unknown"),
        ({"bn_mode": "both"}, "bn_mode='both' is unknown"),
        ({"eps": 8}, "eps=8 must be a number > 0 and <= 1"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=r"^\w+=") as error:
        NFGSM(**setting)
    assert str(error.value).startswith(message)


def _from_conf(composed, name):
    return instantiate(composed("config", f"attack={name}").attack)


def test_fgsm_rs_is_a_projected_step_of_5_quarters(composed, problem):
    model, x, y = problem
    attack = _from_conf(composed, "fgsm_rs")
    found = attack(model, x, y, generator=torch.Generator().manual_seed(5))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) * 0.06 - 0.03
    stepped = _step(model, (x + noise).clamp(0, 1), y, 1.25 * 0.03)
    expected = stepped.clamp(x - 0.03, x + 0.03).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_fields_attacks(composed):
    field = _from_conf(composed, "linf_8_255")
    assert field == PGDAttack(eps=8 / 255, step_size=2 / 255, steps=10)
    assert _from_conf(composed, "n_fgsm") == NFGSM(eps=0.03, noise=2.0)
    assert "engine" not in NFGSM().as_dict()
