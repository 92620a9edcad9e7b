"""Train a defence, test it with the paper's attacks, and leave a record.

python -m lrm_lightning.train method=alp
python -m lrm_lightning.train -m method=alp,pgd,lrm
"""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.errors import UserError
from lrm_lightning.runs import identity


@hydra.main(version_base="1.3", config_path=str(identity.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    # Seconds of imports, which --help and completion do without.
    from lrm_lightning.training.run import train

    cli.quieten()
    # Lightning starts other ranks with a run directory of its own making; ours travels beside it.
    path = os.environ.setdefault("LRM_RUN_DIR", HydraConfig.get().runtime.output_dir)
    try:
        return train(cfg, Path(path))
    except UserError as error:
        cli.fail(error)
    except OSError as error:
        cli.fail(UserError(f"{error} (run directory {path}); mend it and run the command again"))
    finally:
        os.environ.pop("LRM_RUN_DIR", None)
    return None


def main() -> None:
    """Entry point of ``python -m lrm_lightning.train``."""
    cli.run(_app)


if __name__ == "__main__":
    main()
