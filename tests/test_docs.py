"""Numbers and pictures of the README and of docs/ are those of the records in results/."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.evaluation import masking
from lrm_lightning.evaluation.searches import Search
from lrm_lightning.reporting.aggregate import aggregate, load
from lrm_lightning.reporting.leaderboard import leaderboard
from lrm_lightning.reporting.listing import compare
from lrm_lightning.reporting.paper import FGSM_BY_SMOOTHING
from lrm_lightning.reporting.paper import METHODS as PAPER
from lrm_lightning.runs.files import read_arrays
from lrm_lightning.runs.intervals import paired_difference, wilson_interval
from lrm_lightning.runs.records import EvaluationRecord, RunRecord, TransferRecord, read_record

ROOT = Path(__file__).parents[1]
SMALL, FIFTEEN, SHORT = (
    ROOT / f"results/cifar10-jpeg-{each}" for each in ("cpu", "15-epochs", "short")
)
ABLATION = ROOT / "results/ablation"
METHODS = {
    "regular": "regular",
    "label smoothing, s = 0.5": "label_smoothing",
    "PGD": "pgd",
    "ALP": "alp",
    "LRM": "lrm",
}
METHODS_OF_SHORT = {
    "regular": "regular",
    "label smoothing, s = 0.75": "label_smoothing",
    "PGD": "pgd",
    "ALP": "alp",
    "LRM": "lrm",
}
METHODS_OF_FIFTEEN = {k: v for k, v in METHODS_OF_SHORT.items() if v != "alp"}
# Heading of a column: the record's file, and the attack's name in it.
WHITE_BOX = {
    "natural": ("record.json", "clean"),
    "FGSM": ("record.json", "fgsm"),
    "PGD-5": ("record.json", "pgd5"),
    "PGD-10": ("record.json", "pgd10"),
    "PGD-20": ("record.json", "pgd20"),
}
STRONG = {
    "natural": ("evaluations/strong*.json", "clean"),
    "PGD-200 x 5, cross-entropy": ("evaluations/strong*.json", "pgd_ce"),
    "PGD-200 x 5, margin": ("evaluations/strong*.json", "pgd_margin"),
    "targeted PGD": ("evaluations/strong*.json", "pgd_targeted"),
    "AutoAttack": ("evaluations/strong*.json", "autoattack"),
}
# Of the 1,000 images whose verdicts attacks-1000.npz holds.
ATTACKS = {
    "PGD-200 x 5, cross-entropy": "pgd_ce",
    "PGD-200 x 5, margin": "pgd_margin",
    "PGD-200 x 5, DLR": "pgd_dlr",
    "targeted PGD": "pgd_targeted",
    "PGD, best loss": "pgd_best",
    "APGD-CE": "apgd_ce",
    "APGD-T, then FAB-T": "fab_t",
    "AutoAttack": "square",
}
README = {key: WHITE_BOX[key] for key in ("natural", "FGSM", "PGD-20")}
ATTACKS_OF_README = {"PGD, best loss": "pgd_best", "AutoAttack": "square"}
ABLATED = {
    "nothing": FIFTEEN / "lrm-240959a0",
    "VH-mixup": ABLATION / "lrm-8da813f0",
    "smoothing": ABLATION / "lrm-3babcdbe",
    "squeezing": ABLATION / "lrm-1ad394a0",
    "pairing": ABLATION / "lrm-b4bd6449",
}


def _record(folder, method, file):
    (path,) = folder.glob(f"{method}-*/{file}")
    return _read(path)


def _read(path):
    file = path.name
    return read_record(path, RunRecord if file == "record.json" else EvaluationRecord)


def _cell(record, attack):
    low, high = (100 * each for each in record.intervals[attack])
    return f"{100 * record.metrics[attack]:.1f} [{low:.1f}, {high:.1f}]"


def _share(correct):
    low, high = (100 * each for each in wilson_interval(int(correct.sum()), len(correct)))
    return f"{100 * correct.mean():.1f} [{low:.1f}, {high:.1f}]"


def _tables(path):
    """Every table of a Markdown file: its headings, and its rows by their first cell."""
    for block in re.findall(r"(?:^\|.*\|\n)+", path.read_text(encoding="utf-8"), re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        yield head, {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("file", "columns", "folder", "methods"),
    [
        ("README.md", README, SHORT, METHODS_OF_SHORT),
        ("docs/results.md", WHITE_BOX, SMALL, METHODS),
        ("docs/results.md", STRONG, SMALL, METHODS),
        ("docs/results.md", WHITE_BOX, SHORT, METHODS_OF_SHORT),
        ("docs/results.md", WHITE_BOX, FIFTEEN, METHODS_OF_FIFTEEN),
    ],
    ids=["readme", "white-box", "strong", "short", "15-epochs"],
)
def test_a_table_of_results_is_that_of_the_records(file, columns, folder, methods):
    (rows,) = (
        rows
        for head, rows in _tables(ROOT / file)
        if columns.keys() <= set(head) and rows.keys() == methods.keys()
    )
    for title, method in methods.items():
        for heading, (source, attack) in columns.items():
            record = _record(folder, method, source)
            assert rows[title][heading] == _cell(record, attack), (title, heading)
        for heading in rows[title].keys() & {"gradient masked?", "masked?"}:
            verdict = _record(folder, method, "evaluations/strong*.json").masking.verdict
            assert rows[title][heading] == ("yes" if verdict == "masked" else "no")
        if "PGD-20, paper" in rows[title]:
            assert rows[title]["PGD-20, paper"] == f"{PAPER[method].white_box['pgd20']:.1f}"


def _verdicts():
    return dict(np.load(SHORT / "attacks-1000.npz"))


@pytest.mark.parametrize(
    ("file", "columns"), [("README.md", ATTACKS_OF_README), ("docs/results.md", ATTACKS)]
)
def test_a_table_of_stronger_attacks_is_that_of_the_verdicts(file, columns):
    (rows,) = (rows for head, rows in _tables(ROOT / file) if columns.keys() <= set(head))
    verdicts = _verdicts()
    assert rows.keys() == METHODS_OF_SHORT.keys()
    for title, method in METHODS_OF_SHORT.items():
        for heading, attack in columns.items():
            correct = verdicts[f"{method}.{attack}"]
            assert rows[title][heading] == _share(correct), (title, heading)


def _matrix(path):
    """Of a transfer record: verdicts by (target, source), and its test images."""
    record = read_record(path, TransferRecord)
    arrays = np.load(path.with_suffix(".npz"))
    found = {
        (target.label, source.label): arrays["correct"][row, column]
        for row, target in enumerate(record.targets)
        for column, source in enumerate(record.sources)
    }
    for (row, column), share in np.ndenumerate(record.accuracy):
        names = record.targets[row].label, record.sources[column].label
        assert share == pytest.approx(found[names].mean())
    return found, arrays["index"]


def _of_short(title):
    seed_1 = {
        "regular, seed 1": "label_smoothing-c70539aa",
        "label smoothing, seed 1": "label_smoothing-7c6e6722",
    }
    if title in seed_1:
        return seed_1[title]
    (path,) = SHORT.glob(f"{METHODS_OF_SHORT[title]}-*/record.json")
    return path.parent.name


def _page():
    return " ".join((ROOT / "docs/results.md").read_text(encoding="utf-8").split())


def _told(difference):
    """A paired difference without its sign, in points."""
    points, half = difference
    return f"{abs(100 * points):.1f} ± {100 * half:.1f}"


def _judged(method):
    """The verdict by the images of attacks-1000.npz."""
    arrays = {
        key.removeprefix(f"{method}."): each
        for key, each in _verdicts().items()
        if key.startswith(f"{method}.")
    }
    clean, needed = arrays["clean"], arrays["pgd_ce_steps"]
    first = clean & (needed == NEVER)
    search = Search(np.stack([first, arrays["pgd_ce"]]), needed)
    by_gradient = np.logical_and.reduce(
        [clean, *(arrays[name] for name in ("pgd_best", "pgd_targeted", "fab_t"))]
    )
    sources = {name: each for name, each in arrays.items() if name.startswith("transfer_")}
    assert len(sources) == 4
    signs = [
        masking.black_box(by_gradient, arrays["square"]),
        masking.transfer(by_gradient, sources),
        masking.steps(search, most=200),
        masking.restarts(search),
        masking.large_eps(arrays["large_eps"], clean, eps=0.5),
        masking.gradient(arrays["vanished"], arrays["cosine"]),
        masking.zero_gradient(arrays["zero"]),
    ]
    loss = masking.mistaken_loss(arrays["pgd_ce"], arrays["pgd_margin"])
    return masking.verdict(signs, loss), by_gradient


def test_the_verdicts_are_those_of_the_images():
    left, counted = [], {}
    for method in ("pgd", "alp", "lrm"):
        told, by_gradient = _judged(method)
        assert told.verdict == "not masked"
        assert not [sign.name for sign in told.signs if sign.undecided or sign.fired]
        counts = {sign.name: sign.evidence["count"] for sign in told.signs}
        nothing = ("black_box", "transfer", "large_eps", "gradient", "zero_gradient")
        assert not any(counts[name] for name in nothing)
        left.append(int(by_gradient.sum()))
        for name, count in counts.items():
            counted.setdefault(name, []).append(count)
    assert "gradient attacks left, {}, {} and {}, Square and".format(*left) in _page()
    told = "{steps[0]}, {steps[1]} and {steps[2]} images needed more than 20 steps, {restarts[0]},"
    told += (
        " {restarts[1]} and {restarts[2]} a later start than the first; none is left at eps = 0.5,"
    )
    told += " and nowhere does the gradient vanish or turn."
    assert told.format_map(counted) in _page()
    for method, signs in (("regular", 9), ("label_smoothing", 8)):
        told = _record(SHORT, method, "evaluations/strong-*.json").masking
        decided = [sign for sign in told.signs if not sign.undecided]
        assert (told.verdict, len(decided)) == ("not masked", signs)
        assert not any(sign.fired for sign in decided)


def test_table_2_is_that_of_the_record():
    found, _ = _matrix(SHORT / "transfer-45cb641f.json")
    (rows,) = (
        rows for head, rows in _tables(ROOT / "docs/results.md") if head[0] == r"target \ source"
    )
    assert rows.keys() == METHODS_OF_SHORT.keys()
    for target, row in rows.items():
        for source, told in row.items():
            names = _of_short(target), _of_short(source)
            white_box = "*" * (names[0] == names[1])
            assert told == f"{100 * found[names].mean():.1f}{white_box}", (target, source)


def test_differences_of_table_2_are_those_of_the_verdicts():
    text = _page()
    found, index = _matrix(SHORT / "transfer-45cb641f.json")
    ablation, _ = _matrix(ROOT / "results/ablation/transfer-0c621a02.json")
    ls, regular, pgd, alp, lrm = (
        _of_short(each) for each in ("label smoothing, s = 0.75", "regular", "PGD", "ALP", "LRM")
    )
    own = np.load(SHORT / ls / "correct.npz")
    assert (own["index"] == np.arange(10_000)).all()
    mixed, plain, again = "lrm-240959a0", "lrm-8da813f0", _of_short("regular, seed 1")
    for first, second, told in (
        (found[ls, regular], own["fgsm"][index], "leave 12.1%: {} points less than FGSM on itself"),
        (found[ls, ls], found[ls, regular], "and {} more than PGD-10 on itself"),
        (found[ls, again], found[regular, again], "which is {} points less than regular training"),
        (found[pgd, alp], found[pgd, lrm], "ALP's leave {} less."),
        (found[alp, pgd], found[alp, lrm], "by {} points of ALP"),
        (found[ls, pgd], found[ls, lrm], "{} of label smoothing and"),
        (found[regular, pgd], found[regular, lrm], "{} of regular training; of PGD"),
        (ablation[ls, plain], ablation[ls, mixed], "mixing costs {} points there"),
        (ablation[regular, plain], ablation[regular, mixed], "{} of regular training, 8.6"),
        (ablation[pgd, plain], ablation[pgd, mixed], "{} of PGD training and"),
        (ablation[alp, plain], ablation[alp, mixed], "{} of ALP; of LRM"),
        (ablation[lrm, plain], ablation[lrm, mixed], "which is mixed itself, {}."),
    ):
        difference, half = paired_difference(first, second)
        assert told.format(f"{100 * difference:.1f} ± {100 * half:.1f}") in text, told
    left = [100 * ablation[ls, each].mean() for each in (mixed, plain, "pgd-84134c78")]
    assert (
        "LRM leaves {:.1f} of label smoothing, LRM without VH-mixup {:.1f} and PGD".format(*left)
        in text
    )
    for target in (ls, regular, pgd, alp, lrm):
        others = ablation[target, plain].mean() - ablation[target, "pgd-84134c78"].mean()
        assert abs(others) < 0.0125


def test_the_step_curve_is_that_of_the_verdicts():
    ((counts, rows),) = (
        (head[1:], rows) for head, rows in _tables(ROOT / "docs/results.md") if "200" in head
    )
    verdicts = _verdicts()
    assert rows.keys() == METHODS_OF_SHORT.keys()
    for title, method in METHODS_OF_SHORT.items():
        correct, steps = (verdicts[f"{method}.{name}"] for name in ("clean", "pgd_ce_steps"))
        for count in counts:
            left = (correct & (steps > int(count))).mean()
            assert rows[title][count] == f"{100 * left:.1f}", (title, count)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("pgd.square", "alp.square", "is {} points above PGD training after AutoAttack"),
        ("pgd.pgd_best", "alp.pgd_best", "{} after PGD on the best loss"),
        ("pgd.pgd_ce", "alp.pgd_ce", "{} after PGD on cross-entropy"),
        ("pgd.pgd_margin", "alp.pgd_margin", "but {} on the margin"),
        ("pgd.pgd_dlr", "alp.pgd_dlr", "and {} on DLR."),
        ("lrm.square", "pgd.square", "it is {} points below PGD training after AutoAttack"),
        ("lrm.square", "alp.square", "and {} below ALP"),
        ("lrm.pgd_ce", "pgd.pgd_ce", "there it is {} below PGD training"),
        ("lrm.pgd_margin", "pgd.pgd_margin", "{} below under PGD on the margin"),
        ("lrm.square", "lrm.pgd20", "it is {} points (LRM)"),
        ("pgd.square", "pgd.pgd20", "{} (PGD training) and"),
        ("alp.square", "alp.pgd20", "{} (ALP) above what AutoAttack leaves"),
    ],
)
def test_a_paired_difference_is_that_of_the_stronger_attacks(first, second, told):
    verdicts = _verdicts()
    for method in METHODS_OF_SHORT.values():
        (path,) = SHORT.glob(f"{method}-*/correct.npz")
        verdicts[f"{method}.pgd20"] = np.load(path)["pgd20"][verdicts["index"]]
    found = "{:.1f} ± {:.1f}".format(
        *(100 * each for each in paired_difference(verdicts[first], verdicts[second]))
    )
    assert told.format(found) in _page()


def test_the_ablation_is_that_of_the_records():
    (rows,) = (
        rows for head, rows in _tables(ROOT / "docs/results.md") if head[0] == "left out of LRM"
    )
    assert rows.keys() == ABLATED.keys()
    variances = {}
    for title, folder in ABLATED.items():
        for heading, (file, attack) in WHITE_BOX.items():
            told = _cell(_read(folder / file), attack)
            assert rows[title][heading] == told, (title, heading)
        variances[title] = _read(folder / "record.json").test_metrics["test/logits/clean/variance"]
    told = "{nothing:.2f} for LRM, {smoothing:.2f} without smoothing, {squeezing:.2f} without"
    told += " squeezing and {VH-mixup:.2f} without VH-mixup."
    assert told.format_map(variances) in _page()
    assert f"Without pairing it is {variances['pairing']:.2f}" in _page()
    natural = [
        read_arrays(ABLATED[each] / "correct.npz")["clean"] for each in ("nothing", "smoothing")
    ]
    assert (
        f"natural accuracy by at most {_told(paired_difference(*natural))} (smoothing)" in _page()
    )


def test_how_far_pgd_5_flatters_and_what_eq_5_assumes_are_as_recorded():
    verdicts, lost, late, assumed = _verdicts(), {}, {}, {}
    for method in ("pgd", "alp", "lrm"):
        (path,) = SHORT.glob(f"{method}-*/record.json")
        correct = read_arrays(path.with_name("correct.npz"))
        pgd5, pgd20 = (correct[name][verdicts["index"]] for name in ("pgd5", "pgd20"))
        left = verdicts[f"{method}.fab_t"]
        assert not (left & ~(pgd5 & pgd20)).any()
        lost[method], late[method] = pgd5 & ~left, pgd20 & ~left
        assumed[method] = 100 * _read(path).test_metrics["test/pairing/assumption"]
    shares = {method: 100 * each.mean() for method, each in lost.items()}
    more = _two_losses(lost["alp"], lost["lrm"])
    told = "LRM loses {lrm:.1f} points, ALP {alp:.1f} (MORE more) and PGD training {pgd:.1f},"
    assert told.format_map(shares).replace("MORE", more) in _page()
    assert max(late, key=lambda method: late[method].mean()) == "lrm"
    assert f"from PGD-20 on LRM loses most, {100 * late['lrm'].mean():.1f}." in _page()
    told = "holds for {pgd:.0f}% (PGD), {alp:.0f}% (ALP) and {lrm:.0f}% (LRM)"
    assert told.format_map(assumed) in _page()


def _two_losses(first, second):
    """How much more the first loses, with the normal interval of so many images' difference."""
    difference = 100 * (first.astype(float) - second)
    return f"{difference.mean():.1f} ± {1.96 * difference.std(ddof=1) / len(difference) ** 0.5:.1f}"


def test_accuracy_by_smoothing_is_that_of_the_records():
    (rows,) = (rows for head, rows in _tables(ROOT / "docs/results.md") if head[0] == "s")
    paths = (ROOT / "results/cifar10-jpeg-5-epochs").glob("*/record.json")
    records, verdicts = {}, {}
    for path in paths:
        if (record := _read(path)).method == "label_smoothing":
            s = f"{record.config['method']['smoothing']:g}"
            arrays = read_arrays(path.with_name("correct.npz"))
            assert (arrays["index"][:2000] == np.arange(2000)).all()
            records[s], verdicts[s] = record, {name: each[:2000] for name, each in arrays.items()}
    assert list(rows) == sorted(records, key=float)
    for s, record in records.items():
        for heading, (_, attack) in WHITE_BOX.items():
            assert rows[s][heading] == _share(verdicts[s][attack]), (s, heading)
        variance = record.test_metrics["test/logits/clean/variance"]
        assert rows[s]["variance of the clean logits"] == f"{variance:.2f}"
    regular, little, half = (verdicts[s] for s in ("0", "0.01", "0.5"))
    times = half["fgsm"].mean() / regular["fgsm"].mean()
    lower = _told(paired_difference(half["clean"], regular["clean"]))
    told = f"{times:.0f} times regular training's at s = 0.5, at a natural accuracy {lower} points"
    assert told in _page()
    more, printed = _told(paired_difference(regular["fgsm"], little["fgsm"])), FGSM_BY_SMOOTHING
    told = f"s = 0.01 leaves {more} points more under FGSM than regular training; the paper has"
    assert f"{told} {printed[0.01]}% and {printed[0.0]}% after 200." in _page()
    most = max(each["pgd10"].mean() for each in verdicts.values())
    assert f"at most {100 * most:.1f}% are left" in _page()


def test_mixing_is_that_of_the_records():
    folder, text = ROOT / "results/cifar10-jpeg-5-epochs", (ROOT / "docs/results.md").read_text()
    rows = next(
        rows
        for head, rows in _tables(ROOT / "docs/results.md")
        if "VH-mixup" in rows and "n" in head
    )
    (regular,) = (
        path
        for path in folder.glob("label_smoothing-*/record.json")
        if _read(path).config["method"]["smoothing"] == 0
    )
    plain = read_arrays(regular.with_name("correct.npz"))
    told = {}
    for title, method in (("mixup", "mixup"), ("VH-mixup", "vh_mixup")):
        (path,) = folder.glob(f"{method}-*/record.json")
        record, mixed = _read(path), read_arrays(path.with_name("correct.npz"))
        assert rows[title]["n"] == f"{record.n:,}"
        for heading, (_, attack) in WHITE_BOX.items():
            assert rows[title][heading] == _cell(record, attack)
            points, half = paired_difference(plain[attack][: record.n], mixed[attack])
            told[title, attack] = f"{abs(100 * points):.1f} ± {100 * half:.1f}"
        variance = record.test_metrics["test/logits/clean/variance"]
        assert rows[title]["variance of the clean logits"] == f"{variance:.2f}"
    for each in (
        f"{told['mixup', 'fgsm']} points above regular training (paired",
        f"VH-mixup gains {told['VH-mixup', 'fgsm']} points",
        f"{told['mixup', 'clean']} (mixup) and {told['VH-mixup', 'clean']} points (VH-mixup) lower",
        f"variance is {_read(regular).test_metrics['test/logits/clean/variance']:.2f}.",
    ):
        assert each in text


def test_squeezing_beside_pairing_is_that_of_the_records():
    found = {}
    for path in (ROOT / "results/figure1").glob("*/evaluations/paper-*.json"):
        method = _read(path.parents[1] / "record.json").config["method"]
        verdicts = read_arrays(path.with_suffix(".npz"))
        found[method["name"], method["squeeze_weight"]] = _read(path), verdicts
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (PGD|ALP) \| (0|0\.01|0\.1) \| (.*) \|$", text, re.MULTILINE)
    assert [(name.lower(), float(weight)) for name, weight, _ in rows] == sorted(
        found, key=lambda each: ("pgd alp".index(each[0]), each[1])
    )
    for name, weight, cells in rows:
        record, _ = found[name.lower(), float(weight)]
        assert record.n == 10_000
        told = [_cell(record, attack) for _, attack in WHITE_BOX.values()]
        assert cells == " | ".join([*told, f"{record.logits['clean'].variance:.2f}"])

    def difference(one, other, attack="pgd20"):
        points, half = paired_difference(found[one][1][attack], found[other][1][attack])
        return f"{abs(100 * points):.1f} ± {100 * half:.1f}"

    plain, paired = ("pgd", 0.0), ("alp", 0.0)
    little, much = ("pgd", 0.01), ("pgd", 0.1)
    for told in (
        f"ALP is {difference(plain, paired)} points above PGD training under PGD-20",
        f"brings PGD training {difference(plain, little)}\n  points (β = 0.01) and"
        f" {difference(plain, much)} points (β = 0.1), at a natural accuracy"
        f" {difference(plain, little, 'clean')} and {difference(plain, much, 'clean')} points",
        f"ALP's is {difference(plain, paired, 'clean')} points lower",
        f"{difference(little, ('alp', 0.01))} points under PGD-20 at β = 0.01 and"
        f" {difference(much, ('alp', 0.1))} at β = 0.1",
        f"barely above ALP alone, by {difference(paired, ('alp', 0.01))}.",
    ):
        assert told in text


def test_the_records_hold_no_pictures():
    for path in (ROOT / "results").rglob("*.npz"):
        for name, array in read_arrays(path).items():
            assert array.ndim < 3 or array.dtype == bool, (path, name)


def test_the_leaderboard_is_that_of_the_records():
    (results,) = aggregate(load([str(ROOT / "results/leaderboard")]))
    (table,) = leaderboard(results)
    (rows,) = (rows for head, rows in _tables(ROOT / "docs/results.md") if "flatters by" in head)
    assert list(rows) == [row.head for row in table.rows]
    assert len(rows) >= 10
    assert rows.keys() >= {"PGD", "ALP", "LRM", "TRADES", "SCORE", "MART", "IKL", "GAT", "NuAT"}
    for row in table.rows:
        cells = dict(zip(table.columns, row.cells, strict=True))
        for heading, told in rows[row.head].items():
            assert told == f"{cells[heading].value} {cells[heading].range}".strip(), row.head


@pytest.mark.parametrize(
    ("method", "suite", "attack", "told"),
    [
        ("mart", "paper", "pgd20", "Under PGD-20 MART is {} points above PGD training (paired)"),
        ("mart", "strong", "autoattack", "training (paired), under AutoAttack {}."),
        ("lrm", "strong", "autoattack", "paired, LRM is {} above PGD training"),
        ("alp", "strong", "autoattack", "ALP {}, and one seed"),
        ("gat", "strong", "autoattack", "{} below PGD training under AutoAttack"),
        ("gat", "strong", "clean", "{} above without an attack"),
        ("lrm", "strong", "clean", "{} below without an attack"),
    ],
)
def test_a_difference_of_the_leaderboard_is_that_of_the_verdicts(method, suite, attack, told):
    def verdicts(name):
        (path,) = (ROOT / "results/leaderboard").glob(f"{name}-*/evaluations/{suite}-*.npz")
        return np.load(path)[attack]

    assert told.format(_told(paired_difference(verdicts("pgd"), verdicts(method)))) in _page()


def test_whom_the_customary_number_flatters_most_is_as_far_as_it_can_be_told():
    def flattered(method):
        folder = ROOT / "results/leaderboard"
        ((paper,), (strong,)) = (
            folder.glob(f"{method}-*/evaluations/{suite}-*.npz") for suite in ("paper", "strong")
        )
        pgd20, autoattack = np.load(paper)["pgd20"], np.load(strong)["autoattack"]
        assert not (autoattack & ~pgd20).any()
        return pgd20 & ~autoattack

    mart = flattered("mart")
    assert f"MART less PGD training: {_two_losses(mart, flattered('pgd'))}" in _page()
    assert f"SCORE, the least, can ({_two_losses(mart, flattered('score'))})" in _page()


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (
            (FIFTEEN, "pgd"),
            (FIFTEEN, "lrm"),
            {
                "pgd20": "It is {} points below PGD training under PGD-20",
                "clean": "at a natural accuracy {} points lower",
                "fgsm": "{} points under FGSM",
                "pgd5": "{} under PGD-5",
                "pgd10": "{} under PGD-10",
            },
        ),
        (
            (FIFTEEN, "lrm"),
            (ABLATION, "lrm-8da8"),
            {
                "clean": "LRM gains {} points of natural accuracy",
                "pgd20": "and {} under PGD-20 (paired)",
            },
        ),
        (
            (FIFTEEN, "pgd"),
            (ABLATION, "lrm-8da8"),
            {
                "pgd20": "is {} above PGD training under PGD-20",
                "clean": "a natural accuracy {} lower",
            },
        ),
        ((FIFTEEN, "lrm"), (ABLATION, "lrm-3bab"), {"pgd20": "PGD-20 by \u2212{} (smoothing)"}),
        ((FIFTEEN, "lrm"), (ABLATION, "lrm-1ad3"), {"pgd20": "\u2212{} (squeezing)"}),
        ((FIFTEEN, "lrm"), (ABLATION, "lrm-b4bd"), {"pgd20": "+{} (pairing) points"}),
        (
            (SHORT, "pgd"),
            (FIFTEEN, "pgd"),
            {
                "pgd20": "PGD's by {} and",
                "clean": "PGD's by 3.2 ± 0.6 and {}",
            },
        ),
        (
            (SHORT, "lrm"),
            (FIFTEEN, "lrm"),
            {
                "pgd20": "its PGD-20 rose by {} points",
                "clean": "its natural accuracy by {}",
            },
        ),
        (
            (SHORT, "lrm"),
            (SHORT, "alp"),
            {"pgd20": "It is {} points below ALP under PGD-20"},
        ),
        (
            (SHORT, "pgd"),
            (SHORT, "lrm"),
            {
                "pgd20": "level with PGD training (+{})",
                "clean": "a natural accuracy {} points below PGD's",
            },
        ),
        (
            (SHORT, "pgd"),
            (SHORT, "alp"),
            {
                "pgd20": "by {} points under PGD-20",
                "pgd10": "by {} points under PGD-10",
                "clean": "a natural accuracy {} points lower",
                "fgsm": "Under FGSM ({} points)",
            },
        ),
    ],
    ids=[
        "lrm-15",
        "mixing",
        "mixing-pgd",
        "smoothing",
        "squeezing",
        "pairing",
        "pgd-epochs",
        "lrm-epochs",
        "lrm-alp",
        "lrm",
        "alp",
    ],
)
def test_a_paired_difference_is_that_of_the_verdicts(first, second, told, capsys):
    compare(*(next(folder.glob(f"{method}*")) for folder, method in (first, second)))
    printed = capsys.readouterr().out
    found = dict(re.findall(r"^ *test (\w+) % .* [+-](\d+\.\d ± \d+\.\d) *$", printed, re.M))
    text = _page()
    for name, words in told.items():
        assert words.format(found[name]) in text, name


@pytest.fixture(scope="module")
def pictures():
    """The script that draws them."""
    spec = importlib.util.spec_from_file_location("make_picture", ROOT / "docs/make_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _drawn(path):
    return re.sub(r"<!--.*?-->|Matplotlib v[\d.]+", "", path.read_text(encoding="utf-8"))


def test_the_picture_is_that_of_the_records(pictures, tmp_path):
    pictures.draw(tmp_path / "picture.svg")
    assert _drawn(tmp_path / "picture.svg") == _drawn(pictures.PICTURE)


def test_the_figures_are_those_of_the_records(pictures, tmp_path):
    pictures.draw_figures(tmp_path)
    names = [sorted(path.name for path in each.iterdir()) for each in (tmp_path, pictures.FIGURES)]
    assert names[0] == names[1]
    assert len(names[0]) == 5
    for name in names[0]:
        assert _drawn(tmp_path / name) == _drawn(pictures.FIGURES / name)


def test_the_size_of_logits_under_attack_is_that_of_the_records():
    sizes = {}
    for method in METHODS_OF_SHORT.values():
        found = _record(SHORT, method, "evaluations/paper-*.json").logits
        sizes[method] = [found[kind].variance for kind in ("clean", "adversarial")]
    told = {method: "{:.2f} and {:.2f}".format(*each) for method, each in sizes.items()}
    assert "rises from {:.2f} to {:.2f};".format(*sizes["regular"]) in _page()
    assert (
        f"it is {told['label_smoothing']} for label smoothing, {told['pgd']} for PGD training,"
        f" {told['alp']} for ALP, {told['lrm']} for LRM." in _page()
    )


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    names = re.findall(
        r"`((?:lrm_lightning|conf|tests|benchmarks|docs|examples|hydra_plugins)/[^` *]+)`", text
    )
    for target in links:
        assert (path.parent / target).exists(), target
    for target in names:
        assert (ROOT / target).exists(), target


def test_the_speed_in_the_readme_is_that_of_the_table():
    ((_, rows), _) = _tables(ROOT / "docs/speed.md")
    ratios = {"training steps": [], "evaluations": []}
    for title, row in rows.items():
        kind = "training steps" if "training step" in title else "evaluations"
        ratios[kind] += [value for heading, value in row.items() if heading != "ours"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind, found in ratios.items():
        low, high = min(found, key=float), max(found, key=float)
        assert re.search(rf"{kind} (are )?{low} to {high} times", text)


def test_the_speed_on_a_gpu_is_what_was_kept():
    (_, ((_, *headings), rows)) = _tables(ROOT / "docs/speed.md")
    kept = (ROOT / "results/benchmarks/h100.txt").read_text(encoding="utf-8")
    times = {
        (model, way): float(seconds)
        for model, way, seconds in re.findall(r"step, (\w+), ([\w, ]+?) +([\d.]+) ms", kept)
    }
    for model, row in rows.items():
        for heading in headings:
            way = heading.replace("`", "")
            like = "reference, TF32" if "TF32" in way else "reference"
            ratio = times[model.strip("`"), like] / times[model.strip("`"), way]
            told = row[heading].removesuffix(f" ({times[model.strip('`'), way]} ms)")
            assert float(told) == pytest.approx(ratio, abs=0.005 + 1e-9), (model, way)


def test_the_page_of_methods_has_every_setting_and_its_defaults(composed):
    methods, settings = (rows for _, rows in _tables(ROOT / "docs/methods.md"))
    named = re.findall(r"`(\w+)`", " ".join([*methods, *settings]))
    for path in (ROOT / "conf/method").glob("*.yaml"):
        method = composed(None, f"+method={path.stem}").method
        assert not {method["name"], *method} - {"_target_", "name", *named}, path
        for key in ("smoothing", "squeeze_weight"):
            if method[key]:
                assert f"`{method['name']}` {method[key]:g}" in settings[f"`{key}`"]["meaning"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200
