"""PGD that raises the loss of the network's own training, or a loss of the user's."""

import hashlib
import json
import sys

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.adaptive import given_loss, loss_of
from lrm_lightning.evaluation.tables import print_evaluations
from lrm_lightning.runs.networks import TrainedNetwork
from lrm_lightning.runs.records import Network

B, C, S, BETA = 5, 4, 0.3, 0.02
METHODS = "lrm_lightning.methods"
# Everything that the strong suite does, as little of it as there can be.
SMALL = (
    *("suite=strong", "n_images=24", "batch_size=12", "seed=3", "suite.pgd_steps=2"),
    *(
        "suite.pgd_restarts=2",
        "suite.targets=1",
        "suite.targeted_steps=1",
        "suite.square_queries=2",
    ),
    *("suite.large_eps_steps=2", "suite.autoattack_iterations=1"),
)
PAPER = ("suite=paper", "n_images=20", "suite.steps=4", "suite.table=[2,4]", "suite.logits_at=3")


@pytest.fixture
def network():
    """A smooth network in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, C)
        return nn.Sequential(*layers).double().eval()


@pytest.fixture
def attacked():
    """Clean and attacked images, and labels."""
    generator = torch.Generator().manual_seed(1)
    x, x_adv = torch.rand(2, B, 3, 2, 2, generator=generator, dtype=torch.float64)
    return x, x_adv, torch.randint(C, (B,), generator=generator)


def trained(network, method, **more):
    """The network as if a run's directory had been loaded."""
    about = Network(name="a", label="a-1")
    return TrainedNetwork(network, about, None, {"method": method} | more)


def log_softmax(z):
    return z - torch.log(torch.exp(z).sum(dim=1, keepdim=True))


def cross_entropy(z, y, smoothing):
    targets = torch.full_like(z, smoothing / (C - 1))
    targets[range(len(y)), y] = 1 - smoothing
    return -(targets * log_softmax(z)).sum(dim=1)


def kl(z, z_adv):
    log_p, log_q = log_softmax(z), log_softmax(z_adv)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def label_smoothing(z, z_adv, y):
    return cross_entropy(z_adv, y, S) + BETA * (z_adv**2).sum(dim=1)


def alp(z, z_adv, y):
    return 0.75 * cross_entropy(z_adv, y, 0.0) + 0.5 * ((z - z_adv) ** 2).sum(dim=1)


def lrm(z, z_adv, y):
    adversarial = cross_entropy(z_adv, y, S)
    paired = -(log_softmax(z).exp() * log_softmax(z_adv)).sum(dim=1)
    weight = (0.125 * adversarial / paired).detach()
    return adversarial + weight * paired + BETA * (z_adv**2).sum(dim=1)


def trades(z, z_adv, y):
    return 6 * kl(z, z_adv)


def nuat(z, z_adv, y):  # the nuclear norm of a single row is its length; lambda is that of the end
    return 4.5 * (z - z_adv).norm(dim=1)


LOSSES = {
    "regular.Regular": (label_smoothing, {"smoothing": S, "squeeze_weight": BETA}),
    "clean_logit_pairing.CleanLogitPairing": (
        label_smoothing,
        {"smoothing": S, "squeeze_weight": BETA, "pairing_weight": 3.0},  # clean images with others
    ),
    "pgd.PGDTraining": (lambda z, z_adv, y: cross_entropy(z_adv, y, S), {"smoothing": S}),
    "alp.AdversarialLogitPairing": (alp, {"alpha": 0.25, "pairing_weight": 0.5}),
    "lrm.LogitRegularization": (lrm, {"smoothing": S, "squeeze_weight": BETA}),
    "trades.TRADES": (trades, {}),
    "nuat.NuclearNormTraining": (nuat, {"epochs": 30}),
}


@pytest.mark.parametrize("target", LOSSES)
def test_the_loss_of_a_method_has_its_gradient_and_differs_by_a_constant(target, network, attacked):
    x, x_adv, y = attacked
    expected, settings = LOSSES[target]
    method = {"_target_": f"{METHODS}.{target}", "name": "a", **settings}
    loss = loss_of("method", trained(network, method), x, [])
    found, wanted = [], []
    for each in (x_adv, x_adv.flip(0)):
        leaf = each.clone().requires_grad_()
        with torch.no_grad():
            clean = network(x)
        for function, results in ((loss.function, found), (expected, wanted)):
            values = function(clean, network(leaf), y)
            results += [values.detach(), torch.autograd.grad(values.sum(), leaf)[0]]
    assert found[0].shape == (B,)
    assert wanted[1].abs().max() > 1e-3
    for place in (1, 3):
        torch.testing.assert_close(found[place], wanted[place], rtol=1e-6, atol=1e-9)
    # What doesn't depend on the attacked image, such as clean cross-entropy, moves nothing.
    torch.testing.assert_close(found[0] - found[2], wanted[0] - wanted[2], rtol=1e-6, atol=1e-9)


def test_an_image_is_attacked_alike_in_every_batch(network, attacked):
    x, x_adv, y = attacked
    method = {"_target_": f"{METHODS}.lrm.LogitRegularization"}
    loss = loss_of("method", trained(network, method), x, [])
    clean, logits_adv = network(x).detach(), network(x_adv)
    whole = loss.function(clean, logits_adv, y)
    parts = [loss.function(*(each[k : k + 1] for each in (clean, logits_adv, y))) for k in range(B)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_pgd_climbs_it(network, attacked):
    x, _, y = attacked
    method = {"_target_": f"{METHODS}.trades.TRADES"}
    loss = loss_of("method", trained(network, method), x, [])
    attack = PGDAttack(eps=0.1, step_size=0.03, steps=1, random_start=True, loss=loss)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x)
    start = (x + 0.02 * noise).clamp(0, 1)
    leaf = start.clone().requires_grad_()
    kl(network(x).detach(), network(leaf)).sum().backward()
    found = attack(network, x, y, start=start)
    torch.testing.assert_close(found, (start + 0.03 * leaf.grad.sign()).clamp(0, 1))
    assert attack.as_dict()["loss"] == "method"


def test_the_means_that_ikl_has_learned_are_those_of_its_checkpoint(network, attacked, tmp_path):
    x, x_adv, y = attacked
    means = torch.rand(C, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    means /= means.sum(dim=1, keepdim=True)
    config = {"network": {}, "config": {"checkpoint": {"select": "last"}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "checkpoints").mkdir()
    state = {"network.w": torch.zeros(1), "class_means": means, "class_sums": means}
    torch.save({"state_dict": state}, tmp_path / "checkpoints/last.ckpt")
    settings = {"alpha": 0.0, "pairing_weight": 0.0, "mse_weight": 8.0}
    ikl = trained(network, {"_target_": f"{METHODS}.ikl.ImprovedKL"} | settings)
    run = TrainedNetwork(ikl.module, Network(name="a", checkpoint="last"), tmp_path, ikl.config)
    z, z_adv = network(x).detach(), network(x_adv)
    loss = loss_of("method", run, x, [])
    found = loss.function(z, z_adv, y)
    apart, s = z - z_adv, means.float().double()[y]
    by_pairs = (apart[:, :, None] - apart[:, None, :]) ** 2
    variance = (s[:, :, None] * s[:, None, :] * by_pairs).sum(dim=(1, 2))
    torch.testing.assert_close(found, cross_entropy(z_adv, y, 0.0) + 8 / 4 * variance)


TRUST = "trust=[somebodys_losses]"
OWN = """
import torch
from torch.nn import functional as F
from lrm_lightning.methods.base import Defense
from lrm_lightning.methods.regular import Regular

def logit(logits, y):
    return -logits.gather(1, y[:, None])[:, 0]

def mean(logits, y):
    return logits.mean()

def verdict(logits, y):
    return (logits.argmax(dim=1) != y).float()

def wrong(logits, y):
    return logits[:, 99]

class Silent(Defense):
    def loss_terms(self, batch):
        return {}

class Loud(Regular):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Losses and a defence of somebody's."""
    path = tmp_path / "somebodys_losses.py"
    path.write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_losses", raising=False)
    return path


@pytest.fixture
def run(make_run):
    """A finished run directory that says by what it was trained, function of that."""

    def make(target=f"{METHODS}.regular.Regular", **settings):
        folder = make_run()
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        saved["config"]["method"] |= {"_target_": target, "smoothing": S} | settings
        (folder / "config.yaml").write_text(yaml.safe_dump(saved))
        return folder

    return make


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["paper", "strong"])
def test_it_is_recorded_and_shown(suite, evaluated, run, capsys):
    folder = run()
    settings = (f"runs=[{folder}]", *(PAPER if suite == "paper" else SMALL), "attack.eps=0.01")
    (plain,) = evaluated(*settings)
    (record,) = evaluated(*settings, "attack_loss=method")
    assert set(record.metrics) - set(plain.metrics) == {"pgd_adaptive"}
    assert record.evaluation_id != plain.evaluation_id
    for name in plain.metrics.keys() - {"pgd_best", "worst"}:
        assert record.metrics[name] == plain.metrics[name], name
    assert record.settings["pgd_adaptive"]["loss"] == "method"
    saved = json.loads((folder / f"evaluations/{suite}-{record.evaluation_id}.json").read_text())
    assert saved["settings"]["pgd_adaptive"]["loss"] == "method"
    if suite == "strong":
        assert record.metrics["pgd_best"] <= record.metrics["pgd_adaptive"]
        assert record.settings["pgd_adaptive"]["restarts"] == 2
    capsys.readouterr()
    print_evaluations([record])
    shown = capsys.readouterr().out
    assert "PGD, adaptive" in shown
    assert "regular-00000000: adaptive PGD raises the loss method" in shown
    assert evaluated(*settings, "attack_loss=method") == [record]
    assert "already evaluated" in capsys.readouterr().out


def test_a_loss_of_ones_own(evaluated, run, own):
    settings = (f"runs=[{run()}]", *PAPER, "attack.eps=0.02")
    given = "attack_loss=somebodys_losses:logit"
    (record,) = evaluated(*settings, given, "trust=[somebodys_losses]")
    assert record.settings["pgd_adaptive"]["loss"] == "somebodys_losses:logit"
    loss = given_loss("somebodys_losses:logit", ["somebodys_losses"])
    logits = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    found = loss.function(logits, logits, torch.tensor([1, 0]))
    assert found.tolist() == [-2.0, -3.0]
    (margin,) = evaluated(*settings, "attack_loss=margin")
    assert margin.settings["pgd_adaptive"]["loss"] == "margin"
    assert margin.evaluation_id != record.evaluation_id
    assert margin.code == {}


@pytest.mark.parametrize(
    ("target", "attack_loss"),
    [
        (f"{METHODS}.regular.Regular", "somebodys_losses:logit"),
        ("somebodys_losses.Loud", "method"),
    ],
)
def test_a_loss_whose_code_has_changed_is_another(target, attack_loss, evaluated, run, own):
    settings = (f"runs=[{run(target)}]", *PAPER, "attack.eps=0.02", f"attack_loss={attack_loss}")
    (record,) = evaluated(*settings, TRUST)
    assert record.code == {"somebodys_losses": hashlib.sha256(own.read_bytes()).hexdigest()}
    assert evaluated(*settings, TRUST) == [record]
    own.write_text(f"{OWN}# mended")
    (other,) = evaluated(*settings, TRUST)
    assert other.evaluation_id != record.evaluation_id
    assert other.code != record.code


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["attack_loss=metod"],
            "attack_loss=metod is unknown \\(did you mean method\\?\\); choose one of method",
        ),
        (["attack_loss=xyz"], "attack_loss=xyz is unknown; choose one of method, cross_entropy"),
        (["attack_loss=somebodys_losses:logit"], r"give trust=\[somebodys_losses\]"),
        (["attack_loss=os:system", TRUST], r"attack_loss=os:system is not a function"),
        (["attack_loss=somebodys_losses:absent", TRUST], "absent is not a function of a package"),
        (["attack_loss=somebodys_losses:mean", TRUST], r"mean must .* \(20,\), one .*, not shape"),
        (["attack_loss=somebodys_losses:verdict", TRUST], "verdict has no gradient"),
        (["attack_loss=somebodys_losses:wrong", TRUST], "wrong: IndexError"),
    ],
)
def test_a_loss_that_cannot_be_raised(evaluated, run, own, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        evaluated(f"runs=[{run()}]", *PAPER, *overrides)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("somebodys_losses.Silent", r"trained by somebodys_losses.Silent, .* trust=\[somebodys"),
        (f"{METHODS}.LabelSmoothing", "which is not this package's"),
        (f"{METHODS}.lrm.soft_cross_entropy", "which is not this package's"),
        ("os.system", "which is not this package's"),
    ],
)
def test_a_method_that_is_not_trusted(evaluated, run, own, target, message):
    with pytest.raises(UserError, match=message):
        evaluated(f"runs=[{run(target)}]", *PAPER, "attack_loss=method")


def test_a_method_that_does_not_say_its_terms(evaluated, run, own):
    folder = run("somebodys_losses.Silent")
    with pytest.raises(UserError, match="Silent doesn't define terms"):
        evaluated(f"runs=[{folder}]", *PAPER, "attack_loss=method", TRUST)
    folder.joinpath("config.yaml").write_text(
        folder.joinpath("config.yaml").read_text().replace("smoothing: 0.3", "smoothing: 3")
    )
    with pytest.raises(UserError, match=r"attack_loss=method: regular-0.* smoothing=3"):
        evaluated(f"runs=[{folder}]", *PAPER, "attack_loss=method", TRUST)


def test_a_network_from_elsewhere_has_no_method(evaluated, tmp_path, own):
    (tmp_path / "somebodys_network.py").write_text(
        "from torch import nn\n"
        "def pooled():\n"
        "    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))\n"
    )
    given = ("network=somebodys_network:pooled", f"out={tmp_path}", "data.name=digits", *PAPER)
    with pytest.raises(UserError, match="how pooled was trained is unknown; give attack_loss="):
        evaluated(*given, "attack_loss=method")
    (record,) = evaluated(*given, "attack_loss=somebodys_losses:logit", TRUST)
    assert "pgd_adaptive" in record.metrics


def test_cross_entropy_is_that_of_torch():  # what the expectations above stand on
    z = torch.randn(3, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.tensor([0, 3, 1])
    ours = F.cross_entropy(z, y, label_smoothing=S * C / (C - 1), reduction="none")
    torch.testing.assert_close(cross_entropy(z, y, S), ours)
