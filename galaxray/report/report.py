"""Write ``report.html``: one file without scripts and without requests, to be read anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from galaxray import __version__
from galaxray.display import without_secrets
from galaxray.report import plots
from galaxray.report.classes import Grouping, group, questions_of
from galaxray.report.pictures import Picture, picture
from galaxray.report.sample import Rows, Sample, num_rows, read_json, read_sample, take
from galaxray.schema import COLUMNS, TRANSIENT_STATUSES, Status
from galaxray.storage import open_folder
from galaxray.trees import Question

__all__ = ["write_report"]

PICTURES_PER_CLASS = 6
MAX_CLASSES = 12
PICTURES_IN_HEADER = 14
EXAMPLES_PER_STATUS = 3
MAX_ERROR_TEXTS = 15
STAGE_ORDER = ("fetch", "decode", "classify", "embed", "segment", "write")

_NOT_KNOWN = dict.fromkeys(
    (
        "run_id",
        "rows_done_now",
        "rows_per_s",
        "wall_s",
        "startup_s",
        "cpu_idle_fraction",
        "gpu_idle_fraction",
        "finished",
    )
)

MEANINGS: Mapping[Status, str] = {
    Status.OK: "annotated",
    Status.BAD_COORDINATES: "the position is missing or not on the sky",
    Status.NOT_COVERED: "the survey has no image there, or the file does not exist",
    Status.BLANK: "an image came, but it is empty, black or constant",
    Status.CORRUPT: "what came is no image that can be trusted",
    Status.THROTTLED: "the service refused for the moment, however often it was asked",
    Status.UNREACHABLE: "no answer: connection, time-out or server error",
    Status.MODEL_ERROR: "the image is good, a model failed on it",
}


def write_report(output: str | Path) -> str:
    """Write the report of a run into its folder.

    It shows what is there: a stage that was not run, a summary that is not written yet, or a run without one row that
    is ok leave out their sections only. The work is bounded, however many rows the table has.

    Parameters
    ----------
    output : str or Path
        The run folder, a path or ``s3://``: ``annotations/*.parquet``, ``summary.json``, ``run.json`` and
        ``thumbnails/*.parquet`` (see `galaxray.report.sample`).

    Returns
    -------
    str
        Address of ``report.html``.
    """
    folder = open_folder(str(output))
    run, summary, sample = read_json(folder, "run.json"), read_json(folder, "summary.json"), read_sample(folder)
    folder.write("report.html", _render(folder.root, run, summary, sample).encode())
    return f"{folder.root}/report.html"


def _render(root: str, run: Mapping[str, Any], summary: Mapping[str, Any], sample: Sample) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("galaxray.report"),
        autoescape=True,  # identifiers, error texts and addresses were written by others
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=_number, percent=_percent, duration=_duration)
    environment.filters["public"] = lambda text: without_secrets(str(text))
    questions = questions_of(sample.rows)
    grouping = group(sample.rows)
    zoom = float(run.get("models", {}).get("segmenter", {}).get("zoom", 1.0))
    classes = _classes(sample.pictures, grouping, questions, zoom)
    by_status = summary.get("by_status") or dict(Counter(sample.rows.get("status", np.empty(0, object)).tolist()))
    rows = summary.get("rows") or sum(by_status.values())
    return environment.get_template("report.html").render(
        root=root,
        run=run,
        summary={**_NOT_KNOWN, "galaxray_version": __version__, **summary},
        rows=rows,
        statuses=_statuses(by_status, rows),
        num_ok=by_status.get(Status.OK, 0),
        models=_models(run),
        classes=classes,
        header=[best for rank in zip_longest(*(c[2] for c in classes)) for best in rank if best][:PICTURES_IN_HEADER],
        oddities=_oddities(sample.pictures, questions, zoom),
        failures=_failures(by_status, sample, questions, zoom),
        errors=sorted(summary.get("errors", {}).items(), key=lambda item: -item[1])[:MAX_ERROR_TEXTS],
        stages=_stages(summary.get("stages", {})),
        settings=list(_flatten(run.get("config", {}))),
        versions=run.get("versions", {}),
        columns={name: column for name, column in COLUMNS.items() if name in sample.rows or name in sample.pictures},
        example=_example_column(questions),
        num_sampled=num_rows(sample.rows),
        complete=sample.complete,
        plots={
            "votes": plots.vote_fractions(sample.rows, questions),
            "measurements": plots.measurements(sample.rows),
            "latent": plots.latent_space(sample, grouping),
            "sky": plots.sky(sample.rows, sample.failures),
        },
    )


def _classes(
    pictures: Rows, sampled: Grouping, questions: tuple[Question, ...], zoom: float
) -> list[tuple[str, float, list[Picture]]]:
    """Name, share of the annotated galaxies and best pictures of each class that has any."""
    pictured = group(pictures)
    num_annotated = int((sampled.member >= 0).sum())
    classes = []
    for index, name in enumerate(sampled.names):
        if name in pictured.names:
            which = np.flatnonzero(pictured.member == pictured.names.index(name))
            best = which[np.argsort(-pictured.strength[which], kind="stable")][:PICTURES_PER_CLASS]
            classes.append(
                (name, sampled.count(index) / max(1, num_annotated), _pictures(pictures, best, questions, zoom))
            )
    classes.sort(key=lambda item: -item[1]) if len(classes) > MAX_CLASSES else None
    return [item for item in classes[:MAX_CLASSES] if item[2]]


def _oddities(pictures: Rows, questions: tuple[Question, ...], zoom: float) -> list[Picture]:
    """Pictures that the autoencoder reconstructs worst."""
    error = pictures.get("reconstruction_error", np.empty(0))
    known = np.flatnonzero(np.isfinite(error))
    worst = known[np.argsort(-error[known], kind="stable")][:PICTURES_PER_CLASS]
    return _pictures(pictures, worst, questions, zoom) if len(known) > 5 * PICTURES_PER_CLASS else []


def _pictures(rows: Rows, which: npt.NDArray[np.int64], questions: tuple[Question, ...], zoom: float) -> list[Picture]:
    drawn = (picture(rows, int(index), questions, zoom) for index in which)
    return [each for each in drawn if each is not None]


def _statuses(by_status: Mapping[str, int], rows: int) -> list[dict[str, Any]]:
    return [
        {
            "name": status,
            "count": by_status[status],
            "share": by_status[status] / rows,
            "color": plots.STATUS_COLORS[status],
        }
        for status in Status
        if by_status.get(status)
    ]


def _failures(
    by_status: Mapping[str, int], sample: Sample, questions: tuple[Question, ...], zoom: float
) -> list[dict[str, Any]]:
    failures = []
    for status in Status:
        if status is Status.OK or not by_status.get(status):
            continue
        examples = take(sample.failures, np.flatnonzero(sample.failures["status"] == status)) if sample.failures else {}
        _, first = np.unique(examples.get("error", np.empty(0, object)).astype(str), return_index=True)
        examples = take(examples, np.sort(first)[:EXAMPLES_PER_STATUS])
        with_picture = np.flatnonzero(sample.pictures["status"] == status) if sample.pictures else np.empty(0, np.int64)
        failures.append(
            {
                "name": status,
                "count": by_status[status],
                "meaning": MEANINGS[status],
                "transient": status in TRANSIENT_STATUSES,
                "examples": _as_dicts(examples, ("object_id", "ra_deg", "dec_deg", "error", "image_url")),
                "pictures": _pictures(sample.pictures, with_picture[:PICTURES_PER_CLASS], questions, zoom),
            }
        )
    return failures


def _as_dicts(rows: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: rows[name][i] if name in rows else None for name in names} for i in range(num_rows(rows))]


def _models(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line per model: its weights as they were named, what it predicts, its digest."""
    models = []
    for role, record in run.get("models", {}).items():
        weights = record.get("weights") or run.get("config", {}).get(role, {}).get("weights", "")
        predicts = (
            record.get("tree") or record.get("task") or (f"{record['dim']} dimensions" if "dim" in record else "")
        )
        models.append(
            {
                "role": role,
                "weights": weights if isinstance(weights, str) else ", ".join(weights),
                "predicts": str(predicts),
                "digest": str(record.get("digest", "")),
            }
        )
    return models


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    longest = max((stage["busy_s"] for stage in stages.values()), default=0) or 1
    order = {name: position for position, name in enumerate(STAGE_ORDER)}
    return [
        {"name": name, "share": stage["busy_s"] / longest, **stage}
        for name, stage in sorted(stages.items(), key=lambda item: order.get(item[0], len(order)))
    ]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _example_column(questions: Sequence[Question]) -> tuple[str, str] | None:
    """A question asked of some galaxies only, and its first answer."""
    asked_of_some = [question for question in questions if question.stem not in ("smooth-or-featured", "merging")]
    return (asked_of_some[0].name, asked_of_some[0].labels[0]) if asked_of_some else None


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if value in (0, 1) or 0.1 <= value <= 0.9 else 1
    return f"{100 * value:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
