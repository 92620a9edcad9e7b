"""What goes wrong while a Trainer is at work, in one line."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lrm_lightning.errors import NotFiniteError, UserError
from lrm_lightning.training.failures import in_one_line

CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFiniteError("NaN"), "training diverged: NaN; lower optimizer.lr"),
        (torch.OutOfMemoryError("CUDA"), "out of GPU memory: lower data.batch_size"),
        (RuntimeError(CPU), "out of memory: lower data.batch_size"),
        (MemoryError(), "out of memory: lower data.batch_size"),
        (MisconfigurationException("a\nb"), "trainer: a b"),
    ],
)
def test_what_a_user_can_mend(error, line, make_trainer):
    with pytest.raises(UserError) as raised, in_one_line(make_trainer()):
        raise error
    assert str(raised.value).startswith(line)


def test_a_fault_of_the_code_keeps_its_traceback(make_trainer):
    with pytest.raises(RuntimeError, match="shape"), in_one_line(make_trainer()):
        raise RuntimeError("shape")
