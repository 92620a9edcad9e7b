"""The leaderboard: what the customary attack flatters by, on the same images."""

import json
import math

import numpy as np
import pytest

from lrm_lightning.reporting.leaderboard import leaderboard
from lrm_lightning.reporting.parts import Cell

COSTS = {"epoch_s": 12.5, "peak_memory_bytes": 700 * 2**20}


def measured(records, method, pgd20, autoattack, *, index, seen=None, where="paper", **options):
    """A run with its strong evaluation and, on the images ``seen``, PGD-20: verdicts as given."""
    index = np.array(index)
    seen = index if seen is None else np.array(seen)
    n, run = len(index), records.run(method, n=len(seen), curves=False, **options)
    record = json.loads((run / "record.json").read_text())
    if where == "test":
        record["metrics"]["pgd20"] = float(np.mean(pgd20))
        np.savez(run / "correct.npz", index=seen, pgd20=pgd20)
    records.write(run / "record.json", record | COSTS)
    strong = records.strong(run, n=n, clean=0.75, pgd_best=0.6, autoattack=np.mean(autoattack))
    np.savez(strong.with_suffix(".npz"), index=index, autoattack=autoattack)
    if where == "paper":
        paper = records.evaluation(run, "paper", {"pgd20": float(np.mean(pgd20))}, n=len(seen))
        np.savez(paper.with_suffix(".npz"), index=seen, pgd20=pgd20)
    return run


def test_verdicts_that_name_no_images_are_paired_with_none(records, read):
    run = measured(records, "mart", np.ones(4, bool), np.ones(4, bool), index=np.arange(4))
    (path,) = run.glob("evaluations/strong*.npz")
    np.savez(path, autoattack=np.ones(4, bool))
    table, _ = leaderboard(read())
    assert cells(table)["PGD-20"] == Cell()


def cells(table, row=0):
    return dict(zip(table.columns, table.rows[row].cells, strict=True))


@pytest.mark.parametrize("where", ["paper", "test"])
def test_pgd_20_is_paired_with_autoattack_image_by_image(records, read, where):
    # AutoAttack saw 40 of the 100 images that PGD-20 saw, in another order.
    rng = np.random.default_rng(0)
    pgd20, index = rng.random(100) < 0.6, rng.permutation(100)[:40]
    autoattack = pgd20[index] & (rng.random(40) < 0.7)
    measured(records, "mart", pgd20, autoattack, index=index, seen=np.arange(100), where=where)
    (table,) = leaderboard(read())
    assert table.sortable
    found = cells(table)
    share = pgd20[index].mean()
    assert share != pgd20.mean()
    assert found["PGD-20"].value == f"{100 * share:.1f}"
    # By counts of the images on which the two differ, and half an image more of each kind.
    b, n = int((pgd20[index] & ~autoattack).sum()), 40
    assert b > 3
    half = 1.96 * math.sqrt(b + 1 - b**2 / (n + 2)) / (n + 2)
    low, high = (100 * (b / n + side * half) for side in (-1, 1))
    assert found["flatters by"].value == f"{100 * b / n:.1f}"
    assert found["flatters by"].range == f"[{low:.1f}, {high:.1f}]"
    assert [each.record.n for each in found["flatters by"].origins] == [40, 100]
    assert found["AutoAttack"].value == f"{100 * autoattack.mean():.1f}"
    told = [found[key].value for key in ("natural", "PGD, best loss", "verdict")]
    assert told == ["75.0", "60.0", "not masked"]
    assert (found["s an epoch"].value, found["memory, MiB"].value) == ("12.5", "700")


def test_several_seeds_are_a_mean_and_a_deviation(records, read):
    index = range(10)
    for seed, left in ((0, 2), (1, 4)):
        pgd20, autoattack = np.arange(10) < 6, np.arange(10) < left
        measured(records, "trades", pgd20, autoattack, index=index, seed=seed)
    (table,) = leaderboard(read())
    (row,) = table.rows
    assert row.detail.endswith("seeds 0, 1")
    found = cells(table)
    # Of 40 and 20 points: 30 and sqrt(200).
    assert (found["flatters by"].value, found["flatters by"].range) == ("30.0 ± 14.1", "2 seeds")
    assert (found["PGD-20"].value, found["s an epoch"].value) == ("60.0 ± 0.0", "12.5 ± 0.0")
    assert found["verdict"].value == "not masked"


def test_the_best_under_autoattack_comes_first(records, read):
    for method, left in (("pgd", 3), ("mart", 5), ("alp", 4)):
        measured(records, method, np.ones(10, bool), np.arange(10) < left, index=range(10))
    (table,) = leaderboard(read())
    assert [row.head for row in table.rows] == ["MART", "ALP", "PGD"]


@pytest.mark.parametrize("change", ["images", "eps", "weights", "no file"])
def test_another_pgd_20_is_not_paired(records, read, change):
    seen = range(5, 15) if change == "images" else range(10)
    run = measured(records, "pgd", np.ones(10, bool), np.arange(10) < 5, index=range(10), seen=seen)
    path = run / "evaluations" / "paper.json"
    record = json.loads(path.read_text())
    if change == "eps":
        record["attack"]["eps"] = 0.01
    elif change == "weights":
        record["model"]["weights_sha256"] = "12" * 32
    elif change == "no file":
        path.with_suffix(".npz").unlink()
    records.write(path, record)
    table, missing = leaderboard(read())
    found = cells(table)
    assert (found["PGD-20"].value, found["flatters by"].value) == ("–", "–")  # noqa: RUF001
    assert missing.what == "No PGD-20 on AutoAttack's images yet of PGD"
    assert missing.command.endswith("suite=paper n_images=10 seed=0")


def test_each_subset_has_a_command_of_its_own(records, read):
    for method, seed in (("pgd", 0), ("alp", 1), ("trades", 1)):
        run = measured(records, method, [True] * 4, [True] * 4, index=range(4), where="nowhere")
        (path,) = (run / "evaluations").glob("strong*.json")
        record = json.loads(path.read_text())
        records.write(path, record | {"subset": record["subset"] | {"seed": seed}})
    _, *missing = leaderboard(read())
    told = {(each.what.partition(" yet of ")[2], each.command[-6:]) for each in missing}
    assert told == {("PGD", "seed=0"), ("ALP, TRADES", "seed=1")}


def test_records_from_before_have_no_costs(records, read):
    records.strong(records.run("alp"))
    table, _ = leaderboard(read())
    found = cells(table)
    assert (found["s an epoch"].value, found["memory, MiB"].value) == ("–", "–")  # noqa: RUF001


def test_without_a_strong_evaluation_there_is_none(records, read):
    records.run("pgd")
    assert leaderboard(read()) == []
