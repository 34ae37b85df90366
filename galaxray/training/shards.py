"""A folder of labelled images, the *data set* that training reads: Parquet shards, already split.

::

    FOLDER/dataset.json            what it is; written last, so it means "finished"
    FOLDER/train-00000.parquet     and val-..., test-...: images as they came, with their labels
    FOLDER/piece-00000.json        while it is being written: what one piece of it became

Any reader of Parquet reads the shards. The columns are those of `FIXED_COLUMNS`, then the labels as they are (int64,
float64 or string; null where missing). The same input gives the same bytes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.errors import ConfigError, UsageError
from galaxray.storage import Folder, open_folder
from galaxray.storage_errors import storage_errors
from galaxray.training.labelled_images import LabelledImages, ShardFile
from galaxray.training.shard_schema import FIXED_COLUMNS, label_kinds
from galaxray.training.shard_writer import DATASET, FORMAT, SHARD_BYTES, SHARD_NAME, SHARD_ROWS, ShardWriter
from galaxray.training.splits import SPLITS, fold_of

__all__ = ["FIXED_COLUMNS", "LabelledImages", "ShardWriter", "Shards", "open_shards", "write_shards"]


class Shards:
    """A finished data set. Made by `open_shards`.

    Attributes
    ----------
    folder : str
        Its address.
    record : dict
        The content of ``dataset.json``.
    """

    def __init__(self, folder: str, record: Mapping[str, Any]) -> None:
        self.folder = folder
        self.record = dict(record)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all shards."""
        return str(self.record["digest"])

    @property
    def label_columns(self) -> dict[str, str]:
        """Label columns, and what each holds: ``"int64"``, ``"float64"`` or ``"string"``."""
        return dict(self.record["labels"])

    @property
    def num(self) -> dict[str, int]:
        """Galaxies by split."""
        return dict(self.record["num"])

    @cached_property
    def all(self) -> LabelledImages:
        """Every galaxy of the folder, of all splits."""
        names = [shard["name"] for split in SPLITS for shard in self._shards(split)]
        folder = open_folder(self.folder)
        files, tables = [], []
        with storage_errors(self.folder):
            for name in names:
                file, table = self._read(folder, name)
                files.append(file)
                tables.append(table)
        sizes = [table.num_rows for table in tables]
        table = pa.concat_tables(tables) if tables else self._schema().empty_table()
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(size) for size in sizes)])
        return LabelledImages(files, table, np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), row, self.digest)

    def split(self, name: str) -> LabelledImages:
        """Galaxies of one split: ``"train"``, ``"val"`` or ``"test"``.

        Raises
        ------
        ConfigError
            If there is no split of this name.
        """
        if name not in SPLITS:
            raise ConfigError(f"no split {name!r}: {', '.join(SPLITS)}")
        sizes = [sum(shard["rows"] for shard in self._shards(split)) for split in SPLITS]
        return self.all.where(np.repeat(np.array(SPLITS), sizes) == name)

    def fold(self, k: int, folds: int, seed: int = 0) -> dict[str, LabelledImages]:
        """Split all galaxies for cross-validation: fold ``k`` is the test set, the next one validates.

        Parameters
        ----------
        k : int
            From 0 to ``folds - 1``.
        folds : int
            From 3 on.
        seed : int

        Returns
        -------
        dict of str to LabelledImages
            ``train``, ``val`` and ``test``; together all galaxies of the folder.

        Raises
        ------
        ConfigError
            If there are too few folds, or none of this number.
        """
        if folds < 3 or not 0 <= k < folds:
            raise ConfigError(f"fold {k} of {folds}: at least 3 folds, counted from 0")
        fold = fold_of(self.all.object_id, folds, seed)
        is_test, is_val = fold == k, fold == (k + 1) % folds
        parts = {"train": ~(is_test | is_val), "val": is_val, "test": is_test}
        return {name: self.all.where(mask) for name, mask in parts.items()}

    def _shards(self, split: str) -> list[dict[str, Any]]:
        return [shard for shard in self.record["shards"] if shard["name"].startswith(f"{split}-")]

    def _schema(self) -> pa.Schema:
        return pa.schema([("object_id", pa.string()), *self.label_columns.items()])

    def _read(self, folder: Folder, name: str) -> tuple[ShardFile, pa.Table]:
        try:
            with folder.open(name) as stream:
                file = pq.ParquetFile(stream)
                groups = range(file.metadata.num_row_groups)
                rows = [file.metadata.row_group(group).num_rows for group in groups]
                table = file.read(columns=self._schema().names).select(self._schema().names).cast(self._schema())
        except (pa.ArrowException, FileNotFoundError, KeyError) as error:
            reason = "is gone" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
            raise ConfigError(f"{self.folder}/{name} {reason}: make the data set again") from error
        starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64) if rows else np.zeros(0, np.int64)
        return ShardFile(self.folder, name, starts), table


def open_shards(folder: Path | str) -> Shards:
    """Open a finished data set.

    Parameters
    ----------
    folder : path or str
        A path or ``s3://bucket/prefix``.

    Raises
    ------
    ConfigError
        If it holds none, or none that this version reads.
    """
    place = open_folder(str(folder))
    try:
        with storage_errors(place.root):
            if not place.exists(DATASET):
                raise ConfigError(
                    f"{folder} holds no finished data set ({DATASET}): make it with pipelines/fetch_cutouts.py "
                    f"--output {folder}, or run that command again"
                )
            record = json.loads(place.read(DATASET))
        if record["format"] != FORMAT:
            raise ConfigError(f"{folder}/{DATASET} has the format {record['format']!r}; this version reads {FORMAT!r}")
        _ = record["digest"], dict(record["labels"]), dict(record["num"]), [s["rows"] for s in record["shards"]]
        for shard in record["shards"]:
            if not SHARD_NAME.fullmatch(shard["name"]):  # a data set may come from others: no file but its own is read
                raise ValueError(f"a shard called {shard['name']!r}")
        return Shards(place.root, record)
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/{DATASET} was not written by galaxray ({error!r})") from error


def write_shards(
    folder: Path | str,
    tables: Iterable[pa.Table],
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
) -> Shards:
    """Write a data set from tables of labelled images, of which one at a time is in memory.

    Parameters
    ----------
    folder : path or str
        A path or ``s3://bucket/prefix``; a data set that is there already is refused.
    tables : iterable of pyarrow.Table
        ``object_id`` and ``image`` (bytes of a file); if known ``ra_deg``, ``dec_deg``, ``pixel_scale_arcsec`` and
        ``image_sha256``; all other columns are labels. All have the same columns.
    val, test, seed
        See `galaxray.training.splits.split_of`.
    source : mapping, optional
        Where the images come from, for ``dataset.json``; JSON values.
    shard_rows, shard_bytes : int
        Most galaxies, and bytes of images (in memory), of the shards of one piece together.

    Raises
    ------
    ConfigError
        If the folder holds a data set, a table lacks a column, or a label has a type that is neither number nor text.
    """
    place = open_folder(str(folder))
    if place.exists(DATASET):
        raise ConfigError(f"{folder} holds a data set: name another folder")
    source_tables = iter(tables)
    writer = None
    for number in itertools.count():
        table = next(source_tables, None)
        if table is None:
            break
        writer = writer or ShardWriter(place, label_kinds(table.schema), val=val, test=test, seed=seed)
        with writer.piece(number) as piece:
            while table is not None:
                piece.add(table)
                is_full = piece.num_rows >= shard_rows or piece.num_bytes >= shard_bytes
                table = None if is_full else next(source_tables, None)
    if writer is None:
        raise ConfigError(f"{folder}: no images to write")
    writer.finish(number, source or {})
    return open_shards(folder)
