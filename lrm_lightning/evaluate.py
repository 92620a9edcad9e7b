"""Attack trained networks and record what is left of their accuracy.

python -m lrm_lightning.evaluate runs=[runs/cifar10/alp-dde014db] suite=paper
python -m lrm_lightning.evaluate 'runs=[runs/cifar10/*]' suite=strong n_images=1000
python -m lrm_lightning.evaluate network=my_package.models:my_network weights=my.pt name=mine
python -m lrm_lightning.evaluate 'runs=[runs/cifar10/*]' '+attack@extra_attacks.mine=mine'
"""

from pathlib import Path

from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.runs.identity import plain


@cli.command("evaluate")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.evaluate``."""
    # Seconds of imports, which --help and completion do without.
    from lrm_lightning.evaluation.suites import evaluate
    from lrm_lightning.evaluation.tables import print_evaluations

    records = evaluate(plain(cfg), cli.overrides())
    print_evaluations(records)
    if cfg.wandb:
        from lrm_lightning.tracking.loggers import add_evaluation

        for record in records:
            if record.network.run_dir:
                add_evaluation(Path(record.network.run_dir), record.suite, record.metrics)


if __name__ == "__main__":
    main()
