"""The paper's numbers as data."""

import pytest
from omegaconf import OmegaConf

from lrm_lightning.reporting import paper

METHODS = list(paper.METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_of_the_paper_is_the_method_as_conf_has_it(name, composed):
    defaults = composed("config", f"method={name}").method
    method = paper.METHODS[name]
    assert {key: defaults[key] for key in method.knobs} == method.knobs
    assert defaults["epochs"] == method.epochs
    # What two methods share must not make one of them the other.
    assert {"smoothing", "squeeze_weight", "mixing"} <= set(method.knobs)


def test_the_recipe_is_that_of_experiment_paper(composed):
    cfg = composed("config", "experiment=paper")
    for key, value in paper.RECIPE.items():
        assert OmegaConf.select(cfg, key) == value, key
    assert {key: cfg.attack[key] for key in paper.THREAT_MODEL} == paper.THREAT_MODEL


@pytest.mark.parametrize(
    ("name", "attack", "printed"),
    [
        ("regular", "fgsm", 6.1),
        ("label_smoothing", "pgd20", 34.4),
        ("label_smoothing", "pgd200", 13.6),
        ("pgd", "clean", 75.8),
        ("alp", "pgd10", 49.1),
        ("lrm", "pgd5", 53.8),
    ],
)
def test_table_1(name, attack, printed):
    assert paper.METHODS[name].white_box[attack] == printed


@pytest.mark.parametrize(
    ("target", "source", "printed"),
    [
        ("regular", "regular", 26.8),
        ("regular", "lrm", 67.3),
        ("lrm", "regular", 71.5),
        ("label_smoothing", "pgd", 75.6),
        ("pgd", "label_smoothing", 69.1),
        ("alp", "lrm", 56.4),
    ],
)
def test_table_2_is_by_target_then_source(target, source, printed):
    assert paper.METHODS[target].black_box[source] == printed
