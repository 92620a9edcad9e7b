"""From a run directory, or an export of it, back to a network."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from hydra.utils import get_object
from torch import Tensor, nn

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import CHECKPOINTS, CONFIG

# A run directory may come from anybody, so it names a network of ours or it is refused.
TRUSTED = "lrm_lightning.models."
# How the LightningModule calls the network's weights.
PREFIX = "network."
# What lrm_lightning.export leaves in a folder.
EXPORTED, EXPORTED_WEIGHTS = "model.json", "model.safetensors"


def load_model(
    run_dir: str | Path, *, checkpoint: str | None = None, network: nn.Module | None = None
) -> nn.Module:
    """The trained network of a run, alone: no Lightning, no defence.

    Args:
        run_dir: A run directory, or a folder that :mod:`lrm_lightning.export` has written.
        checkpoint: ``"last"`` or ``"best"``; the one the run was tested with by default. An export
            has one only.
        network: A network to fill, for a run with a network that is not this package's.

    Returns:
        The network on the CPU in eval mode: pixels in [0, 1], shape ``(B, 3, H, W)``, to logits
        ``(B, C)``. Weights are laid out channels last, a quarter faster on a CPU.

    Raises:
        UserError: If there is no such run, or its files are damaged or do not fit each other.
    """
    folder = Path(run_dir)
    saved = saved_settings(folder)
    network = _build(saved["network"], folder) if network is None else network
    exported = (folder / EXPORTED).exists()
    name = EXPORTED_WEIGHTS if exported else f"{CHECKPOINTS}/{checkpoint or saved['select']}.ckpt"
    path = folder / name
    if not path.exists():
        why = "export it again" if exported else "the run has not finished its first epoch"
        raise UserError(f"checkpoint {path} is missing; {why}")
    state = read_state(path)
    if not exported:
        state = {key[len(PREFIX) :]: each for key, each in state.items() if key.startswith(PREFIX)}
    fill(network, state, path)
    # torch's stub forgets that memory_format suffices
    return network.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def saved_settings(folder: Path) -> dict[str, Any]:
    """What a run directory or an export says about its network.

    Returns:
        ``network``: how to build it; ``select``: which checkpoint was tested; ``config``: the
        resolved configuration, of an export without machine and paths.

    Raises:
        UserError: If there is no such run, or its file is damaged.
    """
    path = folder / (EXPORTED if (folder / EXPORTED).exists() else CONFIG)
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))  # reads JSON too
        return {
            "network": dict(saved["network"]),
            "select": saved["config"]["checkpoint"]["select"],
            "config": dict(saved["config"]),
        }
    except FileNotFoundError as error:
        raise UserError(
            f"no run in {path.parent}: {path.name} is missing; give a run directory"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged; train the run again") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a file of safetensors or of torch; nothing in it is executed.

    Args:
        path: ``*.safetensors``, or what ``torch.save`` wrote: a state dict, or a dict that has one
            under ``"state_dict"``.

    Raises:
        UserError: If it can't be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(saved.get("state_dict", saved))
    except Exception as error:  # any damage: torch raises half a dozen types
        raise UserError(
            f"checkpoint {path} is damaged or not a plain state dict ({_first(error)})"
        ) from error
    if not all(isinstance(key, str) and isinstance(each, Tensor) for key, each in state.items()):
        raise UserError(
            f"checkpoint {path} holds {', '.join(map(str, list(state)[:4]))} instead of tensors;"
            " save network.state_dict() itself"
        )
    return state


def fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state``, which came from ``path``, into ``network``.

    Raises:
        UserError: If names or shapes differ.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the network: {_first(error)}") from error


def _build(settings: dict[str, Any], folder: Path) -> nn.Module:
    target = str(settings.pop("_target_", ""))
    try:
        found = get_object(target) if target.startswith(TRUSTED) else None
    except (ImportError, ValueError):
        found = None
    # The class itself must be ours: a module of ours also leads to all that it imports.
    if not (
        isinstance(found, type)
        and found.__module__.startswith(TRUSTED)
        and issubclass(found, nn.Module)
    ):
        raise UserError(
            f"{folder} names the network {target}, which is not this package's; build it yourself"
            " and pass it as load_model(..., network=...)"
        )
    try:
        # Not hydra's instantiate: it would call any _target_ inside the arguments too.
        return found(**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder} is damaged, {_first(error)}; train the run again") from error


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
