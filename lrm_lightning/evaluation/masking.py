"""Is a network robust, or does it only hide its gradient from the attack? Signs and a verdict.

Each sign compares a count of images with a share that an honest network does not reach: it fires if
the whole 95% Wilson interval of the count is above that share, it does not fire if the whole
interval is below, and it is undecided if the share lies within, so that more images might show it.
One sign suffices for the verdict "masked": each of them means that the accuracy under customary
gradient attacks cannot be taken for robustness. "Not masked" takes more than silence: black box,
which alone needs no gradient, and one of steps, restarts and large eps must be decided. Else the
verdict is "undecided".

docs/evaluation.md has them in a table.

Where no gradient flows from the logits to the pixels, PGD cannot run: it counts as breaking no
image, and the gradient counts as vanished at every correct one. Signs that need PGD are not looked
for.

A sign that did not fire says nothing if it could not: no sources were given, no search went on
after 20 steps, or a single one was made. Nor if the images are too few: even a count of 0 decides
from n = 381 on for a threshold of 1%, 189 for 2%, 73 for 5%.

For black box and transfer, "gradient attacks" are all of the suite: PGD on each loss and towards
each target, APGD and FAB. What one of them finds is not hidden from gradients. For steps, restarts
and large eps PGD is the search on cross-entropy alone, the loss that defences are reported with;
where another loss finds what it doesn't, "PGD, best loss" is still right. An image is
broken by any iterate. "Vanishes": the largest entry of the gradient is zero or denormal in float32.
"Turns": the cosine between the gradients at the image and beside it is below 0.2. "Rises": by more
than a hundredth of how far the loss rose in the whole search. Silent success and unfinished look at
the first search on cross-entropy.

No sign, but told beside the verdict: how many images the margin broke that cross-entropy left
(Carlini & Wagner 2017, arXiv:1608.04644, section V). There the gradient is sound and the customary
loss is not: an accuracy under PGD on cross-entropy alone is too high.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.evaluation.searches import Path, Search
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import LossNote, Masking, Sign

ATHALYE = "Athalye et al. 2018, arXiv:1802.00420"
CARLINI = "Carlini et al. 2019, arXiv:1902.06705"
ENGSTROM = "Engstrom et al. 2018, arXiv:1807.10272"
CROCE = "Croce & Hein 2020, arXiv:2003.01690"
MOSBACH = "Mosbach et al. 2018, arXiv:1810.12042"
PINTOR = "Pintor et al. 2022, arXiv:2106.09947"
ZIMMERMANN = "Zimmermann et al. 2022, arXiv:2206.13991"

# Of each sign the share above which it fires, and where it is from.
SIGNS = {
    "black_box": (0.01, f"{ATHALYE}, section 3.1; {CARLINI}"),
    "transfer": (0.01, f"{ATHALYE}; {CARLINI}"),
    "steps": (0.02, f"{ENGSTROM}; {CARLINI}"),
    "restarts": (0.02, MOSBACH),
    "large_eps": (0.02, f"{ATHALYE}, section 3.1; {CARLINI}"),
    "randomised": (0.02, f"{ATHALYE}, section 4.2; check_randomized of {CROCE}'s code"),
    "straight_through": (0.01, f"{ATHALYE}, section 4.1"),
    "zero_gradient": (0.05, f"check_zero_gradients of {CROCE}'s code"),
    "silent_success": (0.1, f"{PINTOR}, silent success"),
    "unfinished": (0.1, f"{PINTOR}, incomplete optimization"),
    "unit_test": (0.05, ZIMMERMANN),
    "gradient": (0.05, f"{ATHALYE}, section 3 (shattered and vanishing gradients); {CARLINI}"),
}
# Signs that the searches of PGD give, beside the gradient's own.
OF_PGD = (
    "steps", "restarts", "large_eps", "zero_gradient", "silent_success", "unfinished", "unit_test",
)  # fmt: skip
# Signs without one of which, decided, a network isn't called "not masked"; black box is another.
OF_SEARCHING = {"steps", "restarts", "large_eps"}
FEW_STEPS = 20
TURNED = 0.2
# The last steps of a search, as a share of all, and a rise there that counts, as one of the whole.
LAST, RISE = 0.1, 0.01


def verdict(signs: Sequence[Sign], loss: LossNote) -> Masking:
    """``"masked"`` if any sign fired; with all signs, and what :func:`mistaken_loss` found.

    ``"not masked"`` if none did, and black box and one of ``OF_SEARCHING`` are decided; else
    ``"undecided"``.
    """
    decided = {sign.name for sign in signs if not sign.undecided}
    honest = "not masked" if "black_box" in decided and decided & OF_SEARCHING else "undecided"
    masked = any(sign.fired for sign in signs)
    return Masking(verdict="masked" if masked else honest, signs=list(signs), loss=loss)


def black_box(held: np.ndarray, square: np.ndarray) -> Sign:
    """The sign, from what gradient attacks, ``held``, and Square left correct, bool ``(n,)``."""
    broken, of = int((held & ~square).sum()), int(held.sum())
    told = f"Square, which sees no gradient, broke {broken} of the {of} images that gradient"
    told = f"{told} attacks left correct" if of else "gradient attacks left no image to hide"
    return _sign("black_box", broken, len(held), told)


def transfer(held: np.ndarray, transferred: dict[str, np.ndarray]) -> Sign:
    """The sign, from what gradient attacks, ``held``, and each source's examples left correct."""
    if not transferred:
        told, why_not = "not looked for: no sources were given", "not tried: no sources"
        return _sign("transfer", 0, len(held), told, why_not, by_source={})
    each = {name: int((held & ~left).sum()) for name, left in transferred.items()}
    broken = int((held & ~np.logical_and.reduce(list(transferred.values()))).sum())
    told = f"examples made on {len(each)} other network(s) broke {broken} of the"
    told += f" {int(held.sum())} images that gradient attacks left correct"
    return _sign("transfer", broken, len(held), told, by_source=each)


def randomised(
    held: np.ndarray, left: np.ndarray, *, eot: int, difference: float, spread: float
) -> Sign:
    """The sign, from the images that PGD with the gradient of one pass, ``held``, and of ``eot``.

    ``difference`` is between two passes' logits, as a share of their norm; ``spread`` the largest
    standard deviation of a pass's accuracy.
    """
    broken = int((held & ~left).sum())
    told = f"the output is random (two passes' logits differ by up to {100 * difference:.2g}%, the"
    told += f" accuracy's standard deviation is up to {100 * spread:.1f} points): PGD with the mean"
    told += f" gradient of {eot} passes broke {broken} of the {int(held.sum())} images that PGD"
    more: dict[str, Any] = {"difference": difference, "spread": spread}
    return _sign("randomised", broken, len(held), f"{told} with one pass's left", **more)


def straight_through(held: np.ndarray, left: np.ndarray) -> Sign:
    """The sign, from what gradient attacks, ``held``, and PGD with a stand-in's gradient left."""
    broken = int((held & ~left).sum())
    told = f"PGD with the gradient of a stand-in broke {broken} of the {int(held.sum())} images"
    return _sign("straight_through", broken, len(held), f"{told} that the network's own left")


def untried(name: str, why_not: str) -> Sign:
    """The sign ``name``, which could not be looked for."""
    return _sign(name, 0, 0, f"not looked for: {why_not}", f"not tried: {why_not}")


def steps(search: Search, *, most: int) -> Sign:
    """The sign, from a search on cross-entropy of up to ``most`` steps."""
    n, held = len(search.needed), int(search.held[0].sum())
    late = int(((search.needed > FEW_STEPS) & (search.needed < NEVER)).sum())
    before, after = _percent(held + late, n), _percent(held, n)
    told = f"accuracy fell from {before} at {FEW_STEPS} steps to {after} at {most}"
    accuracy = {str(min(FEW_STEPS, most)): (held + late) / n, str(most): held / n}
    why_not = f"not tried: {most} steps are at most {FEW_STEPS}" if most <= FEW_STEPS else ""
    return _sign("steps", late, n, told, why_not, accuracy_by_steps=accuracy)


def restarts(search: Search) -> Sign:
    """The sign, from searches on cross-entropy, one after another."""
    left, n = search.held.sum(axis=1), search.held.shape[1]
    before, after = _percent(int(left[0]), n), _percent(int(left[-1]), n)
    told = f"accuracy fell from {before} after the first start to {after} after {len(left)}"
    broken = int(left[0] - left[-1])
    why_not = "not tried: one start" if len(left) == 1 else ""
    return _sign("restarts", broken, n, told, why_not, accuracy_by_restarts=(left / n).tolist())


def large_eps(held: np.ndarray, correct: np.ndarray, *, eps: float) -> Sign:
    """The sign, from the images that are ``correct`` and that PGD left so at the large radius."""
    left, of = int((held & correct).sum()), int(correct.sum())
    told = f"PGD left {left} of {of} images correct at eps = {eps:g}, where it should break all"
    return _sign("large_eps", left, of, told, eps=eps)


def gradient(vanished: np.ndarray, cosine: np.ndarray | None) -> Sign:
    """The sign, from what :func:`~lrm_lightning.evaluation.searches.gradient_health` found.

    Without ``cosine`` vanished gradients count alone: those of a random network turn by chance.
    """
    of, gone = len(vanished), int(vanished.sum())
    told, more = f"the gradient vanishes at {gone}", dict[str, Any](vanished=gone)
    bad = gone
    if cosine is not None:
        bad = int((vanished | (cosine < TURNED)).sum())
        told += f" and turns at {bad - gone}"
        more["median_cosine"] = float(np.median(cosine)) if of else None
    return _sign("gradient", bad, of, f"{told} of {of} correctly classified images", **more)


def zero_gradient(zero: np.ndarray) -> Sign:
    """The sign, from the images at which the gradient of DLR is 0, bool ``(m,)``."""
    count, of = int(zero.sum()), len(zero)
    told = f"the gradient of the DLR loss is exactly 0 at {count} of {of}"
    return _sign("zero_gradient", count, of, f"{told} correctly classified images")


def silent_success(path: Path) -> Sign:
    """The sign, from the searches of :func:`~lrm_lightning.evaluation.searches.follow`."""
    silent = path.fooled.any(axis=1) & ~path.fooled[:, -1]
    count, of = int(silent.sum()), len(silent)
    told = f"an iterate of PGD fooled the network and the last one does not at {count} of {of}"
    return _sign("silent_success", count, of, f"{told} correctly classified images")


def unfinished(path: Path) -> Sign:
    """The sign, from the searches of :func:`~lrm_lightning.evaluation.searches.follow`."""
    most = path.loss.shape[1] - 1
    if most <= FEW_STEPS:
        return untried("unfinished", f"{most} steps are at most {FEW_STEPS}")
    if path.fooled.any(axis=1).all():
        return untried("unfinished", "PGD left no image")
    best = np.maximum.accumulate(path.loss[~path.fooled.any(axis=1)], axis=1)
    late = best[:, -1] - best[:, -1 - max(1, int(LAST * most))]
    count, of = int((late > RISE * (best[:, -1] - best[:, 0])).sum()), len(best)
    told = f"the loss still rises at the end of {most} steps at {count} of {of}"
    return _sign("unfinished", count, of, f"{told} images that PGD left correct")


def unit_test(found: np.ndarray) -> Sign:
    """The sign, from the planted examples that PGD found, bool ``(m,)``."""
    missed, of = int((~found).sum()), len(found)
    told = f"PGD did not find {missed} of {of} adversarial examples that were planted in its ball"
    return _sign("unit_test", missed, of, told)


def no_gradient(of: int) -> Sign:
    """The gradient's sign at ``of`` correct images, if none flows from the logits to the pixels."""
    told = "no gradient flows from the logits to the pixels: PGD, APGD and FAB are impossible, so"
    told += " that what is left says little about robustness"
    return _sign("gradient", of, of, told, vanished=of, median_cosine=None)


def mistaken_loss(cross_entropy: np.ndarray, margin: np.ndarray) -> LossNote:
    """How far cross-entropy overestimates, from what PGD on each loss left correct, ``(n,)``."""
    broken, n = int((cross_entropy & ~margin).sum()), len(margin)
    told = f"PGD on the margin broke {broken} of the {int(cross_entropy.sum())} images"
    told += " that PGD on cross-entropy left correct"
    return LossNote(**_share(broken, n), explanation=told)


def _sign(name: str, count: int, of: int, told: str, why_not: str = "", **more: object) -> Sign:
    """A sign that fires if the count's whole interval is above the threshold.

    ``why_not`` says why it could not; that the interval leaves it open is found here.
    """
    threshold, source = SIGNS[name]
    evidence: dict[str, Any] = {**_share(count, of), "threshold": threshold, **more}
    low, high = evidence["interval"]
    fired = low > threshold
    if not fired and high > threshold:
        few = f"undecided: {'even ' * (not count)}{count} of {of} images leave up to"
        few += f" {100 * high:.1f}% open, and more than {100 * threshold:g}% is a sign"
        why_not = why_not or few
    known = {"name": name, "fired": fired, "evidence": evidence, "explanation": told}
    return Sign(**known, source=source, undecided="" if fired else why_not)


def _share(count: int, of: int) -> dict[str, Any]:
    interval = list(wilson_interval(count, of)) if of else [0.0, 1.0]
    return {"count": count, "of": of, "share": count / of if of else 0.0, "interval": interval}


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}%"
