"""From a run directory back to a network."""

from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import get_object
from torch import nn

from lrm_lightning.errors import UserError
from lrm_lightning.run_dir import CHECKPOINTS, CONFIG

# A run directory may come from anybody, so it names a network of ours or it is refused.
TRUSTED = "lrm_lightning.models."
# How the LightningModule calls the network's weights.
PREFIX = "network."


def load_model(
    run_dir: str | Path, *, checkpoint: str | None = None, network: nn.Module | None = None
) -> nn.Module:
    """The trained network of a run, alone: no Lightning, no defence.

    Args:
        run_dir: A run directory.
        checkpoint: ``"last"`` or ``"best"``; the one the run was tested with by default.
        network: A network to fill, for a run with a network that is not this package's.

    Returns:
        The network on the CPU in eval mode: pixels in [0, 1], shape ``(B, 3, H, W)``, to logits ``(B, C)``.

    Raises:
        UserError: If there is no such run, or its files are damaged or do not fit each other.
    """
    folder = Path(run_dir)
    saved = _read_config(folder / CONFIG)
    network = _build(saved["network"], folder) if network is None else network
    path = folder / CHECKPOINTS / f"{checkpoint or saved['select']}.ckpt"
    state = _read_weights(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not fit the network of {folder / CONFIG}: {first}") from error
    return network.eval()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {
            "network": dict(saved["network"]),
            "select": saved["config"]["checkpoint"]["select"],
        }
    except FileNotFoundError as error:
        raise UserError(f"no run in {path.parent}: {path.name} is missing; give a run directory") from error
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged; train the run again") from error


def _build(settings: dict[str, Any], folder: Path) -> nn.Module:
    target = str(settings.pop("_target_", ""))
    try:
        found = get_object(target) if target.startswith(TRUSTED) else None
    except (ImportError, ValueError):
        found = None
    # The class itself must be ours: a module of ours also leads to all that it imports.
    ours = isinstance(found, type) and found.__module__.startswith(TRUSTED)
    if not (ours and issubclass(found, nn.Module)):
        raise UserError(
            f"{folder} names the network {target}, which is not this package's; build it yourself and"
            " pass it as load_model(..., network=...)"
        )
    try:
        # Not hydra's instantiate: it would call any _target_ inside the arguments too.
        return found(**settings)
    except (TypeError, ValueError) as error:
        first = " ".join(str(error).split())
        raise UserError(f"{folder / CONFIG} is damaged, {first}; train the run again") from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.exists():
        raise UserError(f"checkpoint {path} is missing; the run has not finished its first epoch")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(saved["state_dict"])
        return {key[len(PREFIX) :]: each for key, each in state.items() if key.startswith(PREFIX)}
    except Exception as error:  # any damage: torch raises half a dozen types
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint of this project") from error
