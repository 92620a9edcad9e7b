"""Take a trained network out of its run: weights as safetensors, and how to build it as JSON.

    python -m lrm_lightning.export run=runs/cifar10/alp-dde014db out=exported/alp

``lrm_lightning.load_model`` reads the folder, and so do ``evaluate`` and ``transfer``. Neither file
can execute anything, and of paths they have those alone that identify a run: ``init_from`` and the
file of ``data=arrays``, as they were typed.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import EXPORTED, EXPORTED_WEIGHTS, finished_run
from lrm_lightning.runs.files import file_sha256, replacing, write_sealed_json
from lrm_lightning.runs.networks import load_model, saved_settings, weights_sha256

FORMAT = 1
INPUT = "pixels in [0, 1], float32, shape (B, channels, H, W); normalisation is inside the network"
# Of a run's record, what a reader of the network needs.
TRAINING = {
    "run_id", "method", "seed", "epochs", "data", "split", "n", "metrics", "intervals", "attack",
    "versions", "git", "written",
}  # fmt: skip


def export_model(
    run_dir: str | Path,
    out: str | Path,
    *,
    checkpoint: str | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Write ``model.safetensors`` and ``model.json`` of a finished run into the folder ``out``.

    The other arguments are those of :func:`~lrm_lightning.runs.networks.load_model`. Returns
    ``out``, which is made if absent.

    Raises:
        UserError: If the run is missing, unfinished or damaged, or ``out`` is of another run or
            can't be written.
    """
    run_dir, out = Path(run_dir), Path(out)
    saved = saved_settings(run_dir)
    network = load_model(run_dir, checkpoint=checkpoint, trust=trust)
    record = finished_run(run_dir)
    if record is None:
        raise UserError(f"the run {run_dir} is not finished: it has no record yet")
    there = ""
    with suppress(UserError):  # nothing, or what is damaged
        there = saved_settings(out)["run_id"]
    if there not in ("", record.run_id):
        raise UserError(f"{out} is of another run, {there}; give another out=..., or delete it")
    identity = saved["identity"]  # without what belongs to the machine: paths, devices, loggers
    selected = identity.get("checkpoint", {}) | {"select": checkpoint or saved["select"]}
    described = {
        "format": FORMAT,
        "input": INPUT,
        "network": saved["network"],
        "weights_sha256": weights_sha256(network),
        "config": identity | {"checkpoint": selected},
        "training": record.model_dump(mode="json", include=TRAINING, exclude_unset=True),
    }
    state = {name: each.contiguous() for name, each in network.state_dict().items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / EXPORTED_WEIGHTS) as partial:
            # Not save_file, which lets nobody but the owner read the file.
            partial.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))
    except OSError as error:
        raise UserError(
            f"cannot write to {out}: {error}; free space or choose another folder"
        ) from error
    files = {EXPORTED_WEIGHTS: file_sha256(out / EXPORTED_WEIGHTS)}
    write_sealed_json(out / EXPORTED, described | {"files": files})
    return out


@cli.command("export")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.export``."""
    if cfg.run is None or cfg.out is None:
        raise UserError("give run=<run directory> and out=<folder>")
    out = export_model(cfg.run, cfg.out, checkpoint=cfg.checkpoint, trust=cfg.trust)
    print(f"exported to {out}: load it with lrm_lightning.load_model({str(out)!r})")  # noqa: T201


if __name__ == "__main__":
    main()
