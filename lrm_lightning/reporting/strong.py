"""The strong evaluation: its table, and the verdicts on gradient masking with their evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrm_lightning.reporting.fields import is_interval, is_number, is_share, printable
from lrm_lightning.reporting.groups import Group
from lrm_lightning.reporting.records import Data, Evaluation, Sign
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import (
    MINUS,
    NOTHING,
    Row,
    Table,
    accuracy_cell,
    percent_range,
    stands_on,
)

ATTACKS = {
    "clean": "natural",
    "pgd_ce": "PGD, CE",
    "pgd_margin": "PGD, margin",
    "pgd_targeted": "PGD, targeted",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
    "autoattack": "AutoAttack",
    "worst": "all together",
}
# Attacks on what PGD left, one a source of examples: what they found is in the verdicts' evidence.
FOLLOWING = ("pgd_square", "transfer_")
# How an evaluation tells a count that is compared with a share.
COUNTED_IN_ORDER = ("count", "of", "share", "interval", "threshold")
COUNTED = set(COUNTED_IN_ORDER)
NOTE = (
    "Accuracy in %, in brackets its 95% Wilson interval over the n test images; “±” is the standard"
    " deviation over seeds. “AutoAttack” counts an image only if it withstands its four attacks,"
    " “all together” only if it withstands every attack. What Square and other networks'"
    " examples broke of what PGD left is told with the verdicts."
)


@dataclass(frozen=True)
class Verdict:
    """Whether one network masks its gradients.

    Attributes:
        title: The network.
        verdict: The record's own word.
        masked: Whether that word is a warning.
        signs: What was looked for, with the evidence as text.
        sources: Numbers of its sources.
        note: What is no sign and yet worth knowing.
    """

    title: str
    verdict: str
    masked: bool
    signs: tuple["ShownSign", ...]
    sources: tuple[int, ...]
    note: str = ""

    @property
    def fired(self) -> int:
        """How many of the signs were found."""
        return sum(sign.fired for sign in self.signs)


@dataclass(frozen=True)
class ShownSign:
    """One sign as text."""

    name: str
    fired: bool
    explanation: str
    evidence: str
    source: str


def strong_table(groups: Sequence[Group], data: Data, book: SourceBook) -> Table | None:
    """Accuracy under each attack of the strong suite, a row a network; ``None`` without any."""
    if not groups:
        return None
    measured = {name for group in groups for name in group.names}
    names = [name for name in ATTACKS if name in measured]
    names += sorted(name for name in measured - set(names) if not name.startswith(FOLLOWING))
    rows = tuple(
        Row(
            group.title,
            tuple(accuracy_cell(group, name, book) for name in names),
            stands_on(group),
        )
        for group in groups
    )
    return Table(
        slug="strong-evaluation",
        caption=f"Strong evaluation, {data.title}",
        corner="training",
        columns=tuple(ATTACKS.get(name, name) for name in names),
        rows=rows,
        notes=(NOTE,),
    )


def verdicts(groups: Sequence[Group], book: SourceBook) -> list[Verdict]:
    """The verdict on every network that has one."""
    found = []
    for group in groups:
        for entry in group.entries:
            origin = entry.origin
            if not isinstance(origin, Evaluation) or origin.masking is None:
                continue
            several = f", seed {entry.run.seed}" if entry.run and len(group.entries) > 1 else ""
            found.append(
                Verdict(
                    title=group.title + several,
                    verdict=origin.masking.verdict,
                    masked=origin.masking.verdict != "not masked",
                    signs=tuple(map(_shown, origin.masking.signs)),
                    sources=(book.cite(origin),),
                    note=origin.masking.loss,
                )
            )
    return found


def _shown(sign: Sign) -> ShownSign:
    return ShownSign(
        name=_words(sign.name),
        fired=sign.fired,
        explanation=sign.explanation,
        evidence=_evidence(sign.evidence),
        source=sign.source,
    )


def _evidence(evidence: Mapping[str, object]) -> str:
    rest = dict(evidence)
    parts = []
    if rest.keys() >= COUNTED and is_interval(rest["interval"]) and is_share(rest["threshold"]):
        count, of, _, interval, threshold = (rest.pop(key) for key in COUNTED_IN_ORDER)
        assert isinstance(interval, list)
        assert isinstance(threshold, (int, float))
        bounds = percent_range((interval[0], interval[1]))
        parts.append(
            f"{_value(count)} of {_value(of)} images, 95% interval {bounds} %;"
            f" a sign if all of it is above {100 * threshold:g} %"
        )
    parts += [f"{_words(key)}: {_value(value)}" for key, value in rest.items()]
    return "; ".join(parts)


def _words(key: object) -> str:
    return printable(str(key)).replace("_", " ")


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if is_number(value):
        assert isinstance(value, (int, float))
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, Mapping):
        return f"({_evidence(value)})"
    return printable(str(value))
