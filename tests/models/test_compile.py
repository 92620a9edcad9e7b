"""``engine="compile"``: the same attacks through torch.compile, without a compiler of C++."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.errors import UserError
from lrm_lightning.models import view

# What torch does within, and says to nobody outside of tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
SETTINGS = {"eps": 0.1, "step_size": 0.025, "steps": 5, "random_start": False}


@pytest.fixture
def compiler(monkeypatch):
    """Forward and backward are traced and run again as they are; it counts how often it traces."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(view, "COMPILE", {"backend": counter})
    yield counter
    torch._dynamo.reset()


def test_attacks_find_the_same_images_and_compile_once(network, images, compiler):
    network.train()  # as in training, whose attack is in eval mode
    before = {name: each.clone() for name, each in network.state_dict().items()}
    plain, compiled = (PGDAttack(**SETTINGS, engine=each) for each in ("reference", "compile"))
    expected = plain(network, *images)
    assert not expected.equal(images[0])
    for _ in range(2):
        found = compiled(network, *images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    mine, its = (each.trajectory(network, *images, [1, 5]) for each in (compiled, plain))
    torch.testing.assert_close(mine.logits, its.logits)
    torch.testing.assert_close(mine.iterates[5].logits, its.iterates[5].logits)
    assert compiler.frame_count == 1
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_new_weights_are_seen_without_compiling_again(network, images, compiler):
    x, _ = images
    before = view.attack_view(network, "compile")(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    after = view.attack_view(network, "compile")(x)
    torch.testing.assert_close(after, network(x))
    assert not after.allclose(before)
    assert compiler.frame_count == 1


class Recorded(torch.autograd.Function):
    """What a GPU's recorded graph does: each result lies where the one before it lay."""

    @staticmethod
    def forward(ctx, x, network, memory):
        with torch.enable_grad():
            ctx.leaf = x.detach().requires_grad_()
            ctx.logits = network(ctx.leaf)
        ctx.gradient = memory.setdefault("gradient", torch.empty_like(x)).fill_(torch.nan)
        logits = memory.setdefault("logits", torch.empty_like(ctx.logits))
        return logits.copy_(ctx.logits.detach()).detach()

    @staticmethod
    def backward(ctx, gradient):
        (found,) = torch.autograd.grad(ctx.logits, ctx.leaf, gradient)
        return ctx.gradient.copy_(found).detach(), None, None


def test_results_outlive_the_next_ones(network, images, monkeypatch):
    memory = {}

    def record(inner, **_):
        return lambda x: Recorded.apply(x, inner, memory)

    monkeypatch.setattr(torch, "compile", record)
    mine, its = (
        PGDAttack(**SETTINGS, engine=each).trajectory(network, *images, [1, 3])
        for each in ("compile", "reference")
    )
    torch.testing.assert_close(mine.logits, its.logits)
    assert not mine.logits.allclose(memory["logits"])  # which holds the last ones
    for step in (1, 3):
        torch.testing.assert_close(mine.iterates[step].x_adv, its.iterates[step].x_adv)


def test_what_torch_cannot_compile_is_one_line(network, images, monkeypatch):
    def fails(graph, inputs):
        raise RuntimeError("there is no compiler\nat all")

    torch._dynamo.reset()
    monkeypatch.setattr(view, "COMPILE", {"backend": fails})
    with pytest.raises(UserError, match=r"attack\.engine=compile: .*no compiler at all") as error:
        PGDAttack(**SETTINGS, engine="compile")(network, *images)
    assert "\n" not in str(error.value)
