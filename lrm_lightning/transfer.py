"""Score every target on the adversarial examples of every source: the black-box matrix of Table 2.

python -m lrm_lightning.transfer 'sources=[runs/cifar10/*]' 'targets=[other_seed/cifar10/*]'
"""

from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.runs.identity import plain


@cli.command("transfer")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.transfer``."""
    # Seconds of imports, which --help and completion do without.
    from lrm_lightning.evaluation.tables import print_matrix
    from lrm_lightning.evaluation.transfer import transfer

    print_matrix(transfer(plain(cfg), cli.overrides()))


if __name__ == "__main__":
    main()
