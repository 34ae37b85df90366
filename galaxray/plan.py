"""Plan a run: check the catalogue, cut it into work units, or find the run to go on with."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from galaxray import __version__
from galaxray.catalog import Catalog
from galaxray.config import RunConfig
from galaxray.display import public_settings, without_secrets
from galaxray.errors import CatalogError, RunMismatchError
from galaxray.runs import UNITS_PER_PART, Run, open_run, part_name
from galaxray.storage import Folder, open_folder
from galaxray.storage_errors import storage_errors

__all__ = ["choose_rows_per_unit", "find_run", "plan_run", "require_same_run"]

MAX_ROWS_PER_UNIT = 1024
"""Bounds the memory of a unit (1,024 decoded images of 224 px are 154 MB) and what a crash can cost."""

STALE_S = 3600.0
"""A worker may outlive a killed run for a moment: what is unfinished is not removed before it is this old."""

# Settings that change how a run goes, not what it gives: a run may be continued with others.
_FREE_SETTINGS: dict[str, frozenset[str]] = {
    "": frozenset({"output", "max_failed_fraction"}),
    "cutouts": frozenset(
        {
            "requests_per_s",
            "max_in_flight",
            "timeout_s",
            "max_attempts",
            "backoff_s",
            "max_backoff_s",
            "cache",
            "contact",
        }
    ),
    "compute": frozenset(
        {
            "device",
            "num_cpus",
            "max_cpus",
            "max_gpus",
            "fetchers",
            "actors",
            "gpus_per_actor",
            "stall_timeout_s",
            "rows_per_unit",
        }
    ),
}


def plan_run(
    config: RunConfig,
    catalog: Catalog,
    models: dict[str, Any],
    *,
    versions: dict[str, str],
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Run:
    """Plan a new run, or find the one to go on with.

    Parameters
    ----------
    config : RunConfig
    catalog : Catalog
        Opened, not yet read.
    models : dict
        What decides the predictions: references, digests and tasks of the models.
    versions : dict of str to str
        Recorded, not compared.
    on_rows : callable
        Told the number of rows read so far, as a large catalogue takes a while.

    Raises
    ------
    RunMismatchError
        As `find_run` does.
    CatalogError
        If the catalogue cannot be read, has no rows, or changes while it is read.
    RunError
        If there is no room for a part of it in the temporary folder.
    """
    run = find_run(config, catalog, models)
    folder = open_folder(config.output)
    folder.clean(older_than_s=STALE_S)
    if run is not None:
        return run
    fixed = _fixed_settings(config)
    fingerprint = catalog.fingerprint()
    rows_per_unit, num_rows = _write_catalog(folder, config, catalog, on_rows)
    catalog.require_unchanged(fingerprint)  # before run.json says that there is a plan
    record = {
        "run_id": f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": fixed,
        "config_digest": _digest(fixed),
        "settings": public_settings(config.model_dump(mode="json")),
        "catalog": {"uri": without_secrets(config.catalog), "fingerprint": fingerprint, "rows": num_rows},
        "along": _along(catalog),
        "models": models,
        "rows_per_unit": rows_per_unit,
        "num_units": math.ceil(num_rows / rows_per_unit),
        "versions": {"galaxray": __version__, **versions},
    }
    folder.write("run.json", json.dumps(record, indent=2).encode())
    run = open_run(config.output)
    assert run is not None
    return run


def find_run(config: RunConfig, catalog: Catalog, models: dict[str, Any]) -> Run | None:
    """The run to go on with, or None if the folder holds none; nothing is written.

    Raises
    ------
    RunMismatchError
        If the folder holds a run with other settings, models or catalogue; the message names the keys.
    """
    run = open_run(config.output)
    if run is not None:
        require_same_run(run, config, catalog, models)
    elif open_folder(config.output).list("annotations"):
        raise RunMismatchError(f"{config.output} holds annotations but no run.json: use another --output")
    return run


def choose_rows_per_unit(config: RunConfig, num_rows: int) -> int:
    """Rows per unit: fine enough to share out and to resume, coarse enough to be cheap.

    A small catalogue is cut into about 16 units. From a polite service a unit takes at most half a minute, since
    what is in flight when a run is killed is asked for again.
    """
    if config.compute.rows_per_unit is not None:
        return config.compute.rows_per_unit
    rows = min(math.ceil(num_rows / 16), MAX_ROWS_PER_UNIT)
    if config.cutouts.source != "files" and config.cutouts.requests_per_s is not None:
        rows = min(rows, math.ceil(30 * config.cutouts.requests_per_s))
    return max(32, 32 * math.ceil(rows / 32))


def _write_catalog(
    folder: Folder, config: RunConfig, catalog: Catalog, on_rows: Callable[[int], None]
) -> tuple[int, int]:
    """Copy the checked catalogue into the run folder, one row group per unit; return rows per unit and rows."""
    slices = catalog.slices(rows=16 * MAX_ROWS_PER_UNIT, limit=config.limit)
    first = next(slices, None)
    if first is None or first.num_rows == 0:
        raise CatalogError(f"{config.catalog} has no rows")
    # One slice holds a catalogue that is small enough for its size to matter to the choice.
    rows_per_unit = choose_rows_per_unit(config, first.num_rows)
    read = 0
    with tempfile.TemporaryDirectory(prefix="galaxray-") as scratch:
        local = Path(scratch) / "part.parquet"
        writer: pq.ParquetWriter | None = None
        for unit, table in enumerate(_cut(chain([first], slices), rows_per_unit)):
            with storage_errors(scratch):
                if writer is None:
                    writer = pq.ParquetWriter(local, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=rows_per_unit)
            read += table.num_rows
            on_rows(read)
            if unit % UNITS_PER_PART == UNITS_PER_PART - 1:
                writer.close()
                folder.adopt(local, part_name(unit // UNITS_PER_PART))
                writer = None
        if writer is not None:
            writer.close()
            folder.adopt(local, part_name((read - 1) // rows_per_unit // UNITS_PER_PART))
    return rows_per_unit, read


def _cut(slices: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Regroup slices of any length into tables of ``rows`` rows (the last may be shorter)."""
    left: pa.Table | None = None
    for piece in slices:
        table = pa.Table.from_batches([piece])
        left = table if left is None else pa.concat_tables([left, table])
        whole = left.num_rows - left.num_rows % rows
        for start in range(0, whole, rows):
            yield left.slice(start, rows)
        left = left.slice(whole)
    if left is not None and left.num_rows:
        yield left


def _fixed_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that decide what the table holds, as JSON values."""
    settings: dict[str, Any] = public_settings(config.model_dump(mode="json"))
    for section, names in _FREE_SETTINGS.items():
        part = settings[section] if section else settings
        for name in names:
            part.pop(name)
    return settings


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _along(catalog: Catalog) -> dict[str, Any]:
    """What is read along with the catalogue's rows, as JSON values."""
    return catalog.extras.record if catalog.extras is not None else {}


def require_same_run(run: Run, config: RunConfig, catalog: Catalog, models: dict[str, Any]) -> None:
    """Refuse to go on with a run that was made otherwise; RunMismatchError names the keys."""
    fixed, rows_per_unit = _fixed_settings(config), config.compute.rows_per_unit
    differences = [
        *_differences(run.record["config"], fixed),
        *_differences(run.record.get("along", {}), _along(catalog)),
        *_differences(run.record["models"], models, "model "),
    ]
    if run.record["catalog"]["fingerprint"] != catalog.fingerprint():
        differences.append("the catalogue's content has changed")
    if rows_per_unit not in (None, run.rows_per_unit):
        differences.append(f"compute.rows_per_unit was {run.rows_per_unit}, is {rows_per_unit}")
    if differences:
        was = run.record["config"]["compute"]["precision"]  # "auto" is settled by the hardware, that another may lack
        flag = f", here --compute.precision {was}" if was != fixed["compute"]["precision"] else ""
        raise RunMismatchError(
            f"{run.output} holds a run that was made otherwise: {'; '.join(differences)}. "
            f"Use another --output, or the settings of that run to go on with it{flag}."
        )


def _differences(old: Any, new: Any, prefix: str = "") -> Sequence[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for key in sorted(old.keys() | new.keys())
            for text in _differences(
                old.get(key),
                new.get(key),
                f"{prefix}{key}" if not prefix or prefix.endswith(" ") else f"{prefix}.{key}",
            )
        ]
    return [] if old == new else [f"{prefix} was {old!r}, is {new!r}"]
