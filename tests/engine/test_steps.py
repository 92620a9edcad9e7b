"""A recorded training step is the step: in real Trainers, with a stand-in for CUDA graphs."""

import copy
import warnings
from contextlib import contextmanager
from functools import partial

import lightning as L
import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils._pytree import tree_leaves

from lrm_lightning import config
from lrm_lightning.data import ImageDataModule, ImageSplit
from lrm_lightning.engine import Drawn, RecordedStep, Replayed
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods import PGDTraining, Regular
from lrm_lightning.models import ResNet

METHODS = sorted(path.stem for path in (config.conf_dir() / "method").glob("*.yaml"))
NOT_RECORDED = (
    "engine=fast: the training step is not recorded: "
    "the loss asks for {!r}, which a recording would freeze"
)
SHAPES = [(8, 3, 8, 8), (4, 3, 8, 8)]  # of an epoch's batches: two full ones and what is left


class Graphs:
    """Stands in for CUDA graphs: results that lie in one place, which every replay overwrites.

    Attributes:
        recorded: The functions' names, with the shapes of their images.
        steps: How often a whole step was replayed.
    """

    def __init__(self):
        self.recorded, self.steps = [], 0

    def __call__(self, function, inputs):
        for _ in range(3):  # to warm up; batch norm and random states take notice
            function(*inputs)
        result = function(*inputs)
        self.recorded.append((function.__name__, tuple(inputs[0].shape)))

        def replay():
            self.steps += function.__name__ == "_compute"
            for mine, new in zip(_tensors(result), _tensors(function(*inputs)), strict=True):
                mine.copy_(new)
            return result

        return replay


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def graphs(monkeypatch):
    """What defences made from now on record with, on the CPU."""
    graphs = Graphs()
    how = {"recorder": graphs, "device": "cpu"}
    monkeypatch.setattr("lrm_lightning.methods.base.RecordedStep", partial(RecordedStep, **how))
    monkeypatch.setattr("lrm_lightning.methods.pgd.Replayed", partial(Replayed, **how))
    return graphs


class Tiny(ImageDataModule):
    """20 training images; unlike ours, its loader keeps the last, smaller batch."""

    name = "tiny"
    num_classes = 4
    steps_per_epoch = 3

    def __init__(self):
        super().__init__(val_size=4, crop_padding=1, flip=True, batch_size=8)

    def load(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (28, 3, 8, 8), generator=generator, dtype=torch.uint8)
        labels = torch.arange(28) % 4
        return ImageSplit(images[:24], labels[:24]), ImageSplit(images[24:], labels[24:])

    def train_dataloader(self):
        loader = super().train_dataloader()
        loader._bounds.append((16, 20))
        return loader


class Watch(L.Callback):
    """Keeps every step's metrics, learning rate and norm of the gradients that step sees."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients).item()
        self.seen.append((optimizer.param_groups[0]["lr"], norm))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append({name: value.item() for name, value in trainer.callback_metrics.items()})
        self.seen.append(outputs["loss"].item())


@pytest.fixture
def trained():
    """Function: what training has left of a defence, its state and all that was seen on the way."""

    def run(defense, *callbacks, checkpoint=None, **settings):
        watch = Watch()
        torch.manual_seed(1)
        trainer = L.Trainer(
            **{"max_epochs": 2, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0}
            | settings,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[watch, *callbacks],
        )
        trainer.fit(defense, datamodule=Tiny(), ckpt_path=checkpoint, weights_only=True)
        return defense.state_dict(), watch.seen

    return run


def _network():
    torch.manual_seed(0)
    return ResNet(depth=1, widths=(4, 4, 8, 8), num_classes=4)


def _defense(method, *overrides, engine="fast"):
    fixed = (f"method={method}", f"engine={engine}", "attack.steps=2", "optimizer.warmup_epochs=1")
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        cfg = compose("config", [*fixed, *overrides])
    return config.build_defense(cfg, _network(), num_classes=4)


def _plainly(defense):
    """The same defence, recording nothing."""
    plain = copy.deepcopy(defense)
    plain._replayed_step = lambda batch: None
    if isinstance(plain, PGDTraining):
        plain._replayed = lambda *inputs: None
    return plain


@contextmanager
def _one_warning(message):
    with warnings.catch_warnings(record=True, action="always") as caught:
        yield
    # not of those that Lightning makes of its own
    (warned,) = [str(each.message) for each in caught if "engine" in str(each.message)]
    assert warned == message


def _assert_same(one, other):
    (state, seen), (other_state, other_seen) = one, other
    for name, value in state.items():
        assert value.equal(other_state[name]), name
    assert seen == other_seen


@pytest.mark.parametrize("method", METHODS)
def test_every_defense_trains_the_same(method, graphs, trained):
    defense = _defense(method)
    plain = _plainly(defense)
    before = copy.deepcopy(defense.state_dict())
    recorded = trained(defense)
    assert graphs.recorded == [("_compute", shape) for shape in SHAPES]
    assert graphs.steps == 6
    _assert_same(recorded, trained(plain))
    assert graphs.steps == 6
    assert recorded[0]["network.bn.num_batches_tracked"] == 6
    assert not recorded[0]["network.stem.weight"].equal(before["network.stem.weight"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("pgd", "method.alpha=0.5", "method.smoothing=0.2", "method.squeeze_weight=0.1"),
        ("pgd", "attack.restarts=2", "+attack.keep=best", "method.mixing=mixup"),
        ("pgd", "attack.random_start=false"),
        ("alp", "attack.norm=l2", "attack.eps=0.5", "attack.step_size=0.2"),
        ("lrm", "attack.bn_mode=train", "method.pairing_kind=cosine"),
        ("regular", "method.squeeze_weight=0.1", "method.mixing=vh_mixup"),
    ],
    ids=" ".join,
)
def test_with_every_knob_it_trains_the_same(overrides, graphs, trained):
    defense = _defense(*overrides)
    plain = _plainly(defense)
    recorded = trained(defense)
    assert graphs.steps == 6
    _assert_same(recorded, trained(plain))


def test_gradients_are_clipped(graphs, trained):
    clipped, plain = (_defense("pgd") for _ in range(2))
    found = trained(clipped, gradient_clip_val=1e-3)
    _assert_same(found, trained(_plainly(plain), gradient_clip_val=1e-3))
    assert graphs.steps == 6
    unclipped, _ = trained(_defense("pgd"))
    assert not unclipped["network.stem.weight"].equal(found[0]["network.stem.weight"])


def test_in_double_precision_too(graphs, trained):
    made = _defense("lrm")
    plain = _plainly(made)
    found = trained(made, precision="64-true")
    _assert_same(found, trained(plain, precision="64-true"))
    assert graphs.steps == 6
    assert found[0]["network.stem.weight"].dtype == torch.float64


class SaveAt(L.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_goes_on_alike(graphs, trained, tmp_path):
    path = tmp_path / "amid.ckpt"
    whole, seen = trained(_defense("lrm"), SaveAt(4, path))
    graphs.recorded.clear()
    state, rest = trained(_defense("lrm"), checkpoint=path)
    assert len(graphs.recorded) == 2
    _assert_same((state, rest), (whole, seen[-len(rest) :]))
    assert len(rest) == 2 * 3


class Dropping(Regular):
    """Draws from torch's own generator, and in what is drawn before; uses all of a batch."""

    def draw(self, batch):
        generator = batch.draws.generator("noise")
        return (torch.randn(batch.x.shape, generator=generator),)

    def loss_terms(self, batch):
        (noise,) = self.drawn(batch)
        logits = nn.functional.dropout(self(batch.x + 0.1 * noise), 0.3)
        clean = soft_cross_entropy(logits, self.training_targets(batch))
        return {"clean": clean, "numbers": logits.mean() * (batch.y / (1 + batch.index)).mean()}


def test_what_is_random_is_drawn_anew_at_every_step(graphs, trained):
    defense = Dropping(_network(), num_classes=4, engine="fast")
    plain = _plainly(defense)
    _assert_same(trained(defense), trained(plain))
    assert graphs.steps == 6


class DrawsInside(Regular):
    def loss_terms(self, batch):
        noise = torch.randn(batch.x.shape, generator=batch.draws.generator("noise"))
        return super().loss_terms(batch._replace(x=batch.x + noise))


class Anneals(Regular):
    def loss_terms(self, batch):
        (clean,) = super().loss_terms(batch).values()
        return {"clean": (1 + self.current_epoch) * clean}


class Logs(Regular):
    def loss_terms(self, batch):
        self.log("brightness", batch.x.mean())
        return super().loss_terms(batch)


@pytest.mark.parametrize("mixed", [False, True])
def test_in_a_loop_without_a_trainer_it_is_the_step_too(mixed, graphs):
    datamodule = Tiny()
    datamodule.setup()
    batches = list(datamodule.train_dataloader())
    seen = {}
    for engine in ("fast", "reference"):
        defense = PGDTraining(_network(), num_classes=4, engine=engine).train()
        seen[engine] = []
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = torch.stack(list(defense.step_terms(batch).values())).sum()
            defense.zero_grad()
            defense.backward(loss)
            seen[engine] += [loss.detach(), *(each.grad.clone() for each in defense.parameters())]
    assert graphs.steps == (0 if mixed else len(batches))
    if not mixed:  # attacks in bfloat16 are not the same to the last digit
        torch.testing.assert_close(seen["fast"], seen["reference"])


@pytest.mark.parametrize(
    ("defense", "asked"),
    [(DrawsInside, "generator"), (Anneals, "current_epoch"), (Logs, "barebones")],
)
def test_what_a_recording_would_freeze_is_not_recorded(defense, asked, graphs, trained):
    made = defense(_network(), num_classes=4, engine="fast")
    plain = _plainly(made)
    with _one_warning(NOT_RECORDED.format(asked)):
        found = trained(made)
    _assert_same(found, trained(plain))
    assert graphs.steps == 0


def test_a_step_that_cannot_be_recorded_may_still_replay_its_attack(graphs, trained):
    class Mine(PGDTraining):
        def loss_terms(self, batch):
            terms = super().loss_terms(batch)
            return terms | {"epoch": self.current_epoch * terms["adversarial"]}

    made = Mine(_network(), num_classes=4, engine="fast")
    plain = _plainly(made)
    with _one_warning(NOT_RECORDED.format("current_epoch")):
        found = trained(made)
    assert graphs.recorded == [("_attack", shape) for shape in SHAPES]
    _assert_same(found, trained(plain))


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_other_engines_record_nothing(engine, graphs, trained):
    trained(_defense("pgd", engine=engine), max_epochs=1)
    assert graphs.recorded == []


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_where_gradients_are_not_one_batchs_in_full_precision_nothing_is_recorded(
    settings, graphs, trained
):
    made = _defense("regular")
    plain = _plainly(made)
    _assert_same(trained(made, **settings), trained(plain, **settings))
    assert graphs.recorded == []


def test_one_of_several_processes_replays_the_attack_alone(graphs, monkeypatch):
    data = Tiny()
    data.setup()
    batch, other, _ = data.train_dataloader()
    made = _defense("pgd")
    plain = _plainly(made)
    made.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert made._replayed_step(batch) is None
    assert made.loss_terms(batch)["adversarial"].equal(plain.loss_terms(batch)["adversarial"])
    attacked = made.attack_batch(batch, batch.targets)
    made.attack_batch(other, other.targets)
    assert attacked.equal(plain.attack_batch(batch, batch.targets))
    assert graphs.recorded == [("_attack", SHAPES[0])]


class Freeze(L.Callback):
    """Freezes the stem, and all statistics of batch norm, in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.network.stem.requires_grad_(False)
            pl_module.network.eval()


def test_layers_may_be_frozen_on_the_way(graphs, trained):
    made = _defense("alp")
    plain = _plainly(made)
    found = trained(made, Freeze())
    assert len(graphs.recorded) == 4
    _assert_same(found, trained(plain, Freeze()))
    assert found[0]["network.bn.num_batches_tracked"] == 3


def test_a_defense_can_be_trained_again_and_again(graphs, trained):
    made = _defense("pgd")
    plain = _plainly(made)
    for times in range(1, 4):
        _assert_same(trained(made), trained(plain))
        assert len(graphs.recorded) == 2 * times
        assert graphs.steps == 6 * times


# ---------------------------------------------------------------------- without a Trainer


@pytest.fixture
def linear():
    """A network of which the loss leaves one parameter out, its inputs, and a recorded step."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})

    def terms(x):
        logits = network["used"](x)
        return {"size": logits.square().mean(), "spread": logits.var()}

    step = RecordedStep(terms, network, recorder=Graphs(), device="cpu")
    return network, step, [torch.randn(4, 3), torch.randn(4, 3)]


def test_terms_outlive_the_next_step(linear):
    _, step, (first, second) = linear
    terms = step(first).terms
    kept = {name: value.item() for name, value in terms.items()}
    assert step(second).terms != kept
    assert {name: value.item() for name, value in terms.items()} == kept
    assert list(kept) == ["size", "spread"]


def test_gradients_are_the_losss_and_the_modules_own_are_left_alone(linear):
    network, step, inputs = linear
    own = [torch.ones_like(each) for each in network.parameters()]
    for x in inputs:
        for parameter, gradient in zip(network.parameters(), own, strict=True):
            parameter.grad = gradient
        found = step(x).gradients
        assert found[2:] == (None, None)
        logits = network["used"](x)
        loss = logits.square().mean() + logits.var()
        expected = torch.autograd.grad(loss, list(network["used"].parameters()))
        for gradient, wanted in zip(found, expected, strict=False):
            assert gradient.equal(wanted)
    assert all(gradient.equal(torch.ones_like(gradient)) for gradient in own)


def test_what_stands_for_draws_holds_tensors_and_answers_nothing_else():
    tensor = torch.ones(2)
    drawn = Drawn(tensor)
    assert drawn.tensors == (tensor,)
    for name in ("generator", "seed", "size", "rows"):
        with pytest.raises(RuntimeError, match=f"asks for '{name}'"):
            getattr(drawn, name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_recorded_training_is_training(method, trained):
    settings = {"accelerator": "gpu", "precision": "64-true"}
    made = _defense(method)
    plain = _plainly(made)
    state, seen = trained(made, **settings)
    assert len(made._recorded._replayed._recordings) == len(SHAPES)
    expected, expected_seen = trained(plain, **settings)
    for name, value in state.items():
        torch.testing.assert_close(value.cpu(), expected[name].cpu(), rtol=1e-7, atol=1e-9)
    for mine, its in zip(seen, expected_seen, strict=True):
        assert mine == pytest.approx(its, rel=1e-6)
