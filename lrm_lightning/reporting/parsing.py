"""From JSON to records, every field checked on the way."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from lrm_lightning.reporting.fields import FieldError, Fields, is_interval, is_share
from lrm_lightning.reporting.records import (
    Curve,
    Data,
    Evaluation,
    Histogram,
    Masking,
    Model,
    Origin,
    Run,
    Sign,
    Transfer,
)

SCHEMA = 1


def parse_run(path: Path, content: object, overrides: tuple[str, ...] = ()) -> Run:
    """A run from its record's JSON.

    Raises:
        FieldError: At the first field that is missing or wrong.
    """
    fields = _ours(content)
    return Run(
        path=path,
        method=fields.text("method"),
        run_id=fields.text("run_id", ""),
        seed=fields.maybe_whole("seed", low=0),
        data=_data(fields),
        n=fields.whole("n", low=1),
        metrics=fields.accuracies("metrics"),
        intervals=fields.intervals("intervals"),
        attack=fields.part("attack", required=False).content,
        config=fields.part("config", required=False).content,
        test_metrics=fields.part("test_metrics", required=False).content,
        checkpoint=fields.text("checkpoint", ""),
        epochs=fields.maybe_whole("epochs", low=0),
        origin=_origin(fields),
        overrides=overrides,
    )


def parse_evaluation(path: Path, content: object) -> Evaluation:
    """A white-box evaluation from its JSON; raises as :func:`parse_run`."""
    fields = _ours(content)
    if fields.text("kind") != "whitebox":
        raise FieldError("kind must be whitebox")
    logits = fields.part("logits", required=False)
    return Evaluation(
        path=path,
        suite=fields.text("suite"),
        model=_model(fields.part("model")),
        data=_data(fields),
        n=fields.whole("n", low=1),
        subset_seed=fields.part("subset", required=False).maybe_whole("seed", low=0),
        metrics=fields.accuracies("metrics"),
        intervals=fields.intervals("intervals"),
        attack=fields.part("attack", required=False).content,
        origin=_origin(fields),
        curve=_curve(fields.part("curve")) if fields.content.get("curve") else None,
        logits={name: _histogram(logits.part(name)) for name in logits.content},
        masking=_masking(fields.part("masking")) if fields.content.get("masking") else None,
    )


def parse_transfer(path: Path, content: object) -> Transfer:
    """A black-box matrix from its JSON; raises as :func:`parse_run`."""
    fields = _ours(content)
    if fields.text("kind") != "blackbox":
        raise FieldError("kind must be blackbox")
    sources, targets = (
        tuple(_model(Fields(each, key)) for each in fields.items(key))
        for key in ("sources", "targets")
    )
    accuracy, intervals = fields.items("accuracy"), fields.items("intervals", required=False)
    shape = (len(targets), len(sources))
    if not _is_matrix(accuracy, shape, is_share):
        raise FieldError("accuracy must have one row a target, one number in [0, 1] a source")
    if intervals and not _is_matrix(intervals, shape, is_interval):
        raise FieldError("intervals must have the shape of accuracy, a pair in [0, 1] each")
    return Transfer(
        path=path,
        sources=sources,
        targets=targets,
        data=_data(fields),
        n=fields.whole("n", low=1),
        subset_seed=fields.part("subset", required=False).maybe_whole("seed", low=0),
        accuracy=tuple(tuple(row) for row in accuracy),
        intervals=tuple(tuple((low, high) for low, high in row) for row in intervals)
        or tuple((None,) * shape[1] for _ in range(shape[0])),
        attack=fields.part("attack", required=False).content,
        origin=_origin(fields),
    )


def _ours(content: object) -> Fields:
    fields = Fields(content)
    schema = fields.content.get("schema")
    if schema != SCHEMA:
        raise FieldError(f"schema is {str(schema)[:20]}, this version reads {SCHEMA}")
    return fields


def _is_matrix(rows: list[Any], shape: tuple[int, int], is_item: Any) -> bool:  # noqa: ANN401
    return len(rows) == shape[0] and all(
        isinstance(row, list) and len(row) == shape[1] and all(map(is_item, row)) for row in rows
    )


def _data(fields: Fields) -> Data:
    data = fields.part("data")
    # Bytes that nobody vouches for are not official.
    official = data.flag("official") is True
    return Data(data.text("name"), official, data.text("fingerprint", ""), data.text("note", ""))


def _origin(fields: Fields) -> Origin:
    git = fields.part("git", required=False)
    wall_s = fields.content.get("wall_s")
    return Origin(
        written=fields.text("written", ""),
        wall_s=float(wall_s) if isinstance(wall_s, (int, float)) else None,
        commit=git.text("commit", ""),
        dirty=git.flag("dirty"),
        hardware=fields.part("hardware", required=False).content,
        versions=fields.part("versions", required=False).content,
    )


def _model(fields: Fields) -> Model:
    name = fields.text("name")
    return Model(
        name=name,
        label=fields.text("label", name),
        run_dir=fields.text("run_dir", ""),
        run_id=fields.text("run_id", ""),
        checkpoint=fields.text("checkpoint", ""),
        weights=fields.text("weights_sha256", ""),
    )


def _curve(fields: Fields) -> Curve:
    steps, accuracy = fields.numbers("steps"), fields.numbers("accuracy")
    if len(steps) != len(accuracy) or not all(map(is_share, accuracy)):
        raise FieldError("curve must have one accuracy in [0, 1] a step")
    return Curve(tuple(int(step) for step in steps), tuple(accuracy))


def _histogram(fields: Fields) -> Histogram:
    edges, counts = fields.numbers("edges"), fields.numbers("counts")
    rising = all(low < high for low, high in pairwise(edges))
    fits = len(edges) == len(counts) + 1 and rising
    if not (fits and counts and min(counts) >= 0 and sum(counts) > 0):
        raise FieldError("a histogram must have rising edges and one count between two of them")
    (variance,) = Fields({"variance": [fields.content.get("variance")]}).numbers("variance")
    return Histogram(variance, tuple(edges), tuple(counts))


def _masking(fields: Fields) -> Masking:
    signs = []
    for each in fields.items("signs"):
        sign = Fields(each, "masking.signs")
        signs.append(
            Sign(
                name=sign.text("name"),
                fired=sign.flag("fired") is True,
                evidence=sign.part("evidence", required=False).content,
                explanation=sign.text("explanation", ""),
                source=sign.text("source", ""),
            )
        )
    loss = fields.part("loss", required=False).text("explanation", "")
    return Masking(fields.text("verdict"), tuple(signs), loss)
