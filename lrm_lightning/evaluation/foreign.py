"""Networks that this project did not train: how they are imported, filled and read.

An import path on the command line is code that runs: the user names what he trusts. Nothing in a
file of weights is executed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lrm_lightning.errors import UserError
from lrm_lightning.models.standardize import ChannelNormalization
from lrm_lightning.runs.files import expanded
from lrm_lightning.runs.identity import hashed
from lrm_lightning.runs.networks import TrainedNetwork, imported, weights_sha256
from lrm_lightning.runs.records import Network
from lrm_lightning.runs.weights import fill

# What the commands say of such a network alone, besides its import path, and the defaults in conf.
SETTINGS = {"weights": None, "name": None, "mean": 0, "std": 1, "output": None}
PARTS = "; say which part of it they are: output=0, output=logits"


class Adapted(nn.Module):
    """From pixels to logits, through a network that is given other input, or gives more.

    Args:
        network: What it is.
        normalize: What the pixels go through first, with one value or one a channel.
        output: Which part of what the network returns are the logits: a number of a tuple, a key of
            a mapping, an attribute of anything else. ``None``: it returns logits.
    """

    def __init__(
        self, network: nn.Module, normalize: ChannelNormalization, output: int | str | None
    ) -> None:
        super().__init__()
        self.network, self.normalize, self.output = network, normalize, output

    def forward(self, x: Tensor) -> Tensor:
        """Logits; raises :class:`ValueError` if what the network returns has no such part."""
        values = len(self.normalize.mean)
        if values not in (1, x.shape[1]):
            raise ValueError(f"mean has {values} values, but the images have {x.shape[1]} channels")
        return picked(self.network(self.normalize(x)), self.output)


def picked(found: Any, output: int | str | None) -> Tensor:  # noqa: ANN401  (anybody's)
    """The part ``output`` of what a network returned; as :class:`Adapted`."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Mapping):
        parts = dict(found)
    elif isinstance(found, (tuple, list)):
        parts = dict(enumerate(found)) | getattr(found, "_asdict", dict)()
    else:
        parts = getattr(found, "__dict__", {})
    part = parts.get(output, getattr(found, str(output), None))
    if not isinstance(part, Tensor):
        tensors = [name for name, each in parts.items() if isinstance(each, Tensor)]
        choose = " or ".join(f"output={name}" for name in tensors[:4])
        given = f", in which output={output} is no tensor" if output is not None else ""
        raise ValueError(f"the network returns a {type(found).__name__}{given}; give {choose}")
    return part


def load_foreign(
    target: str,
    *,
    weights: str | None = None,
    name: str | None = None,
    out: str | Path = "runs",
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    output: int | str | None = None,
) -> TrainedNetwork:
    """A network that this project did not train, from ``package.module:function``.

    Args:
        target: The function, imported and called without arguments.
        weights: A file that :func:`~lrm_lightning.runs.weights.fill` reads; ``None`` if the
            function has loaded them.
        name: What to call it; by default as the function.
        out: Its evaluations are kept in a folder of its name in here.
        mean: What is subtracted from the pixels before the network sees them, one number or one a
            channel.
        std: What they are divided by then, above 0.
        output: As in :class:`Adapted`.

    Raises:
        UserError: If it can't be imported, called or filled, or a setting is out of range.
    """
    network = imported("network", target)
    name = name or target.partition(":")[2]
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"name={name} must be usable as the name of a folder")
    path = expanded(weights or "")
    if weights is not None:
        if not path.is_file():
            raise UserError(f"weights={weights}: there is no such file")
        fill(network, path)
    sha256 = weights_sha256(network.eval().float())
    if (mean, std, output) != (0.0, 1.0, None):
        values = [list(each) if isinstance(each, Sequence) else [each] for each in (mean, std)]
        try:
            normalize = ChannelNormalization(*values)
        except (TypeError, ValueError) as error:
            raise UserError(f"mean={mean} and std={std}: {error}") from error
        network = Adapted(network, normalize, output).eval()
        sha256 = hashed([sha256, *values, output])
    known = {"name": name, "label": name, "checkpoint": path.name, "weights_sha256": sha256}
    about = Network(**known, run_dir="", run_id="")  # given, so that a record says so
    return TrainedNetwork(network, about, Path(out) / name, {})
