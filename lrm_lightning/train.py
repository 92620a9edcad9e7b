"""Train a defence, test it with the paper's attacks, and leave a record.

python -m lrm_lightning.train method=alp
python -m lrm_lightning.train -m method=alp,pgd,lrm
"""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lrm_lightning import cli
from lrm_lightning.errors import UserError


@cli.command("config")
def main(cfg: DictConfig) -> float | None:
    """Entry point of ``python -m lrm_lightning.train``; the score is for Hydra's sweepers."""
    # Seconds of imports, which --help and completion do without.
    from lrm_lightning.runs.directory import CONFIG, forget_refused
    from lrm_lightning.training.run import train

    if HydraConfig.get().job.chdir:
        raise UserError("hydra.job.chdir=true would make relative paths mean others; leave it")
    # Lightning starts other ranks with a run directory of its own making; ours travels beside it.
    is_first = "LRM_RUN_DIR" not in os.environ
    path = os.environ.setdefault("LRM_RUN_DIR", HydraConfig.get().runtime.output_dir)
    # A job of a sweep: one of a sweep that was killed before may still be saving what it has.
    in_sweep = not OmegaConf.is_missing(HydraConfig.get().job, "num")
    is_new = is_first and not (Path(path) / CONFIG).exists()
    try:
        return train(cfg, Path(path), wait=in_sweep)
    except UserError:
        if is_new:
            forget_refused(Path(path))
        raise
    except OSError as error:
        mend = f"{error} (run directory {path}); mend it and run the command again"
        raise (cli.of_the_disk(error, path) or UserError(mend)) from error
    finally:
        os.environ.pop("LRM_RUN_DIR", None)


if __name__ == "__main__":
    main()
