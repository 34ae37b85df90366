"""Make a data set to train on: images with the labels of a catalogue, split, in shards. ``--help`` says how.

::

    OUTPUT/fetched/         a run of the stage fetch, which keeps the images: resumable, polite, exactly once
    OUTPUT/images.csv       with --images: the catalogue that was made of the folder
    OUTPUT/train-*.parquet  the data set (galaxray.training.shards)
    OUTPUT/rejected.parquet galaxies without an image, with the reason
    OUTPUT/dataset.json     written last
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galaxray.catalog import Catalog
from galaxray.catalog.image_folder import describe_images
from galaxray.config import RunConfig
from galaxray.dataset_settings import FetchSettings
from galaxray.dryrun import dry_run
from galaxray.errors import ConfigError, RunMismatchError
from galaxray.lock import RunLock
from galaxray.log import Log
from galaxray.modelset import describe_models
from galaxray.plan import find_run, require_same_run
from galaxray.progress import RunProgress
from galaxray.runs import Run, run_of
from galaxray.schema import TRANSIENT_STATUSES, Status
from galaxray.storage import Folder, open_folder
from galaxray.storage_errors import storage_errors
from galaxray.summary import Tally, failed_fraction, write_summary
from galaxray.training.gather import (
    FETCHED_COLUMNS,
    check_votes_of,
    group_units,
    join_labels,
    sizes_digest,
)
from galaxray.training.label_summary import describe_labels
from galaxray.training.shard_schema import FIXED_COLUMNS, label_kinds
from galaxray.training.shard_writer import DATASET, SHARD_BYTES, SHARD_ROWS, ShardWriter
from galaxray.training.shards import open_shards
from galaxray.training.splits import check_fractions
from galaxray.training.vote_counts import vote_columns
from galaxray.trees import DecisionTree, load_tree
from pipelines.annotate_catalog import EXIT_TOO_MANY_FAILED, open_catalog_for, run_program, work_off
from pipelines.cluster import expected_cluster, refuse_paths_in_job
from pipelines.resources import allot

FETCHED = "fetched"
IMAGES = "images.csv"
REJECTED = "rejected.parquet"
REJECTED_COLUMNS = pa.schema([("object_id", pa.string()), ("status", pa.string()), ("error", pa.string())])


def fetch(settings: FetchSettings, log: Log) -> int:
    """Run the program; the exit status."""
    tally = Tally()
    check_fractions(settings.split.val, settings.split.test)
    tree = load_tree(settings.tree, corrected=True) if settings.tree is not None else None
    folder = open_folder(settings.output)
    folder.check()
    output = f"{settings.output.rstrip('/')}/{FETCHED}"
    with storage_errors(settings.output):
        config = settings.run_config(settings.catalog or describe_folder(settings, folder, log), output)
    refuse_paths_in_job(config)
    catalog = open_catalog_for(config)
    columns = label_columns(settings, catalog, tree)
    if columns:
        catalog.read_along(columns, settings.missing, check_votes_of(tree) if tree else lambda rows: None)
    models = describe_models(config)  # none, as the record of the run says
    if settings.dry_run:
        return tell_plan(config, catalog, log)
    with storage_errors(settings.output), RunLock(open_folder(config.output)) as lock:
        if (finished := find_finished(settings, config, catalog, folder)) is not None:
            return finish(settings, tree, finished, log)
        run, summary = work_off(config, catalog, models, lock, log, tally, retry_failed=settings.retry_failed)
        write_summary(run, summary)
        record = write_dataset(settings, run, folder, lock, log)
        return finish(settings, tree, record, log, summary)


def describe_folder(settings: FetchSettings, folder: Folder, log: Log) -> str:
    """Make a catalogue of a folder of images, and put it where the run finds it; its address."""
    assert settings.images is not None
    text, num, classes = describe_images(settings.images)
    if not folder.exists(IMAGES):
        folder.write(IMAGES, text.encode())
    elif folder.read(IMAGES) != text.encode():
        if folder.exists(f"{FETCHED}/run.json") or folder.exists(DATASET):
            raise RunMismatchError(
                f"{settings.output} was made of other images than are in {settings.images} now: use another --output"
            )
        folder.write(IMAGES, text.encode())
    shown = f" in {len(classes)} classes ({', '.join(classes[:10])}{', ...' * (len(classes) > 10)})" if classes else ""
    log.say("images", f"{settings.images}: {num:,} images{shown}", images=num, classes=len(classes))
    return f"{folder.root}/{IMAGES}"


def label_columns(settings: FetchSettings, catalog: Catalog, tree: DecisionTree | None) -> dict[str, str]:
    """Label columns of the data set, and the columns of the catalogue that they are read from."""
    if settings.without_labels:
        return {}
    columns = vote_columns(catalog.column_names, tree) if tree is not None else {}
    labels = settings.labels
    if settings.images is not None:
        labels = ("label",) if "label" in catalog.column_names else ()
    elif not labels and tree is None:
        names = ", ".join(catalog.column_names[:40])
        raise ConfigError(
            "name the columns with labels (--labels A,B), or the decision tree whose votes they hold (--tree); "
            f"--labels none is for images alone; {catalog.uri} has {names}"
        )
    columns |= {name: name for name in labels}
    for name in columns:
        if name in FIXED_COLUMNS.names:
            raise ConfigError(f"label column {name!r} has the name of a column of the data set: rename it")
    return columns


def tell_plan(config: RunConfig, catalog: Catalog, log: Log) -> int:
    """Check the labels and print what would be done."""
    for _ in catalog.slices(limit=config.limit):
        pass  # what does not fit is raised
    models = describe_models(config)
    cluster = expected_cluster(config, show_worker_logs=log.format == "text")
    pools = allot(config, **vars(cluster.most))
    print(dry_run(config, catalog, models, cluster.describe(pools), find_run(config, catalog, models.record)))
    if catalog.extras is not None:
        shown = [f"{name} ({kind})" for name, kind in label_kinds(pa.schema(list(catalog.extras.type))).items()]
        print(f"labels     {', '.join(shown[:40])}{f' and {len(shown) - 40} more' if len(shown) > 40 else ''}")
    return 0


def find_finished(
    settings: FetchSettings, config: RunConfig, catalog: Catalog, folder: Folder
) -> dict[str, Any] | None:
    """The record of the data set if it is finished and nothing is to be done again.

    Raises
    ------
    RunMismatchError
        If it was made with other settings; the message names the keys.
    """
    if not folder.exists(DATASET):
        return None
    record = open_shards(folder.root).record
    if "run_id" not in record["source"]:
        raise RunMismatchError(
            f"{folder.root} holds a data set that was not made by this program: use another --output"
        )
    require_same_run(run_of(folder.root, record["source"]), config, catalog, {})
    ShardWriter(folder, record["labels"], **settings.split.model_dump()).require_same(record)
    fetched = record["fetched"]
    left = sum(fetched["by_status"].get(status, 0) for status in TRANSIENT_STATUSES)
    return None if settings.retry_failed and left and folder.exists(f"{FETCHED}/run.json") else record


def write_dataset(settings: FetchSettings, run: Run, folder: Folder, lock: RunLock, log: Log) -> dict[str, Any]:
    """Join images and labels unit by unit, and write the shards that are not there yet; the record of the data set."""
    along = run.record.get("along")
    kinds = label_kinds(run.read_extras(0).schema) if along else {}
    writer = ShardWriter(folder, kinds, **settings.split.model_dump())
    sizes = run.listing().size
    if folder.exists(DATASET):  # finished before, and failed rows were fetched again
        record = open_shards(folder.root).record
        if record["fetched"]["digest"] == sizes_digest(sizes):  # in vain
            return record
        folder.remove(DATASET)
    pieces = list(group_units(sizes, run.rows_per_unit, shard_bytes=SHARD_BYTES, shard_rows=SHARD_ROWS))
    counts: Counter[str] = Counter()
    done = [number for number, units in enumerate(pieces) if writer.has(number, sizes_digest(sizes, units))]
    rows_done = sum(run.rows_in(pieces[number]) for number in done)
    with RunProgress(run.num_rows, rows_done, lambda: counts, what="shards: ", log=log) as progress:
        for number in sorted(set(range(len(pieces))) - set(done)):
            with writer.piece(number, sizes_digest(sizes, pieces[number])) as piece:
                for unit in pieces[number]:
                    fetched = run.read_finished(unit, FETCHED_COLUMNS)
                    piece.add(join_labels(fetched, run.read_extras(unit) if along else None))
                    counts.update(fetched["status"].to_pylist())
                    progress.update(fetched.num_rows)
                    lock.check()
    by_status = write_rejected(run, folder)
    source = {name: value for name, value in run.record.items() if name != "versions"}
    fetched_record = {"by_status": by_status, "digest": sizes_digest(sizes)}
    return writer.finish(len(pieces), source, tree=settings.tree, fetched=fetched_record)


def write_rejected(run: Run, folder: Folder) -> dict[str, int]:
    """Write the list of galaxies without an image, if there are any; the rows by status."""
    by_status: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="galaxray-") as scratch:
        path = Path(scratch) / REJECTED
        with pq.ParquetWriter(path, REJECTED_COLUMNS, compression="zstd") as file:
            for record in run.records():
                by_status.update(record.by_status)
                if record.by_status.get(Status.OK, 0) < record.rows:
                    rows = run.read_finished(record.unit, REJECTED_COLUMNS.names)
                    file.write_table(rows.filter(pc.not_equal(rows["status"], Status.OK)).cast(REJECTED_COLUMNS))
        if by_status.total() > by_status[Status.OK]:
            folder.adopt(path, REJECTED)
        else:
            folder.remove(REJECTED)
    return {status.value: by_status[status] for status in Status if by_status[status]}


def finish(
    settings: FetchSettings,
    tree: DecisionTree | None,
    record: Mapping[str, Any],
    log: Log,
    summary: Mapping[str, Any] | None = None,
) -> int:
    """Say what came out; the exit status."""
    by_status = record["fetched"]["by_status"]
    num_rows = sum(by_status.values())
    rejected = {name: count for name, count in by_status.items() if name != Status.OK}
    text = f"{sum(record['num'].values()):,} of {num_rows:,} galaxies are in the data set"
    if rejected:
        reasons = ", ".join(f"{name} {count:,}" for name, count in rejected.items())
        text += f"; {sum(rejected.values()):,} are not ({REJECTED}): {reasons}"
    log.say("finish", text, rows=num_rows, num=record["num"], rejected=rejected, digest=record["digest"])
    print("\n".join(describe_labels(open_shards(settings.output), tree)))
    print(f"data set: {settings.output} (digest {record['digest'][:12]})")
    transient = sum(rejected.get(status, 0) for status in TRANSIENT_STATUSES)
    if transient:
        again = f"{transient:,} galaxies were throttled or not reached: run the same command with --retry-failed"
        log.say("retry", again, rows=transient)
    failed = failed_fraction({"by_status": by_status, "rows": num_rows})
    if failed > settings.max_failed_fraction:
        text = f"{failed:.1%} of the rows failed, more than --max-failed-fraction {settings.max_failed_fraction:g}"
        log.say("failed", text, failed_fraction=failed)
        return EXIT_TOO_MANY_FAILED
    return 0


def main() -> int:
    """Turn what went wrong into one line and an exit status."""
    return run_program(FetchSettings, fetch, Path(__file__).name)


if __name__ == "__main__":
    sys.exit(main())
