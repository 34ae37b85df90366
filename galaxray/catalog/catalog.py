"""Open a catalogue and read its checked rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galaxray.catalog.angles import arcsec_factor, declinations, notation, right_ascensions
from galaxray.catalog.columns import Column, Columns, find_columns
from galaxray.catalog.extras import Extras
from galaxray.catalog.files import CatalogFiles, describe_failure, find_files
from galaxray.catalog.formats import open_table
from galaxray.catalog.regroup import first_rows, regroup
from galaxray.catalog.table import Table
from galaxray.catalog.values import as_identifiers, as_text, read_numbers
from galaxray.config import CatalogConfig
from galaxray.display import printable
from galaxray.errors import CatalogError
from galaxray.schema import EXTRAS, Status

__all__ = ["Catalog", "open_catalog"]

logger = logging.getLogger(__name__)

SLICE_ROWS = 65_536


def open_catalog(
    uri: str,
    config: CatalogConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    need_coordinates: bool = True,
    need_path: bool = False,
    anchor_paths: bool = True,
) -> Catalog:
    """Open a catalogue: its header is read, its columns are found, its first row is looked at.

    Parameters
    ----------
    uri : str
        CSV, TSV, ECSV, Parquet (file or folder), FITS table or VOTable; a path, ``s3://``, ``https://`` or
        ``http://``. Text, FITS and VOTable may be compressed with gzip, bzip2 or xz.
    config : CatalogConfig, optional
        Columns, units and format, where they are not to be found automatically.
    storage_options : mapping, optional
        Arguments of ``s3fs.S3FileSystem``; the environment decides otherwise.
    need_coordinates : bool
        Whether a position is needed. Without need, a catalogue may have no positions at all, and a row whose
        position is missing stays ``ok``.
    need_path : bool
        Whether the column with the path of the image is needed.
    anchor_paths : bool
        Whether needed paths that are relative are those beside the catalogue; otherwise they stay as they stand.

    Raises
    ------
    CatalogError
        If the file cannot be read, is no catalogue, has no rows, or lacks a needed column.
    """
    config = config or CatalogConfig()
    files = find_files(uri, storage_options)
    table = open_table(files, config)
    columns = find_columns(uri, table.fields, config, need_coordinates=need_coordinates, need_path=need_path)
    anchor_paths = need_path and anchor_paths
    catalog = Catalog(files, table, columns, config, need_coordinates=need_coordinates, anchor_paths=anchor_paths)
    if next(catalog.slices(rows=1, limit=1), None) is None:
        raise CatalogError(f"{uri}: a table with {len(table.fields)} columns but no rows")
    return catalog


class Catalog:
    """A catalogue of galaxies, read in slices. Made by :func:`open_catalog`.

    Attributes
    ----------
    uri : str
    columns : Columns
        Which column of the file is what.
    num_rows : int or None
        None for text and VOTable, where only reading tells.
    has_coordinates : bool
        Whether there are columns with positions.
    extras : Extras or None
        Further columns that are read along; see `read_along`.
    """

    def __init__(
        self,
        files: CatalogFiles,
        table: Table,
        columns: Columns,
        config: CatalogConfig,
        *,
        need_coordinates: bool,
        anchor_paths: bool = False,
    ) -> None:
        self.uri = files.uri
        self.columns = columns
        self.num_rows = table.num_rows
        self.has_coordinates = columns.ra is not None
        self.extras: Extras | None = None
        self._files = files
        self._table = table
        self._need_coordinates = need_coordinates
        self._folder = _folder_of(files.uri) if anchor_paths else None
        self._warned: set[str] = set()
        self._check_slice: Callable[[pa.RecordBatch], None] = lambda rows: None
        self._positions = sorted({position for column in _found(columns) for position in column.positions}) or [0]
        if columns.ra is not None and columns.dec is not None:
            self._ra = notation("ra", columns.ra.unit, config.angle_unit, self._label(columns.ra))
            self._dec = notation("dec", columns.dec.unit, config.angle_unit, self._label(columns.dec))

    @property
    def schema(self) -> pa.Schema:
        """Schema of the slices; what is read along is known when the first slice is."""
        return self._schema(self.extras)

    def _schema(self, extras: Extras | None) -> pa.Schema:
        fields = {
            "row_index": pa.int64(),
            "object_id": pa.string(),
            "ra_deg": pa.float64(),
            "dec_deg": pa.float64(),
            "status": pa.string(),
            "error": pa.string(),
        }
        if self.columns.path is not None:
            fields["path"] = pa.string()
        if self.columns.pixel_scale is not None:
            fields["pixel_scale_arcsec"] = pa.float64()
        if self.columns.size is not None:
            fields["size_arcsec"] = pa.float64()
        if extras is not None:
            fields[EXTRAS] = extras.type
        return pa.schema(list(fields.items()))

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns of the table."""
        return tuple(field.name for field in self._table.fields)

    def read_along(
        self,
        columns: Mapping[str, str],
        missing: Sequence[str] = (),
        check: Callable[[pa.RecordBatch], None] = lambda rows: None,
    ) -> None:
        """Have further columns read along with the checked rows, in the column ``extras`` of the slices, a struct.

        Parameters
        ----------
        columns : mapping of str to str
            Names for the values, and the columns that they are read from.
        missing : sequence of str
            Values that stand for a missing one, e.g. ``-9999``; see `Extras`.
        check : callable
            Called with each slice before it is given; raises if it is not to be used.

        Raises
        ------
        CatalogError
            If there is no such column; the message names the nearest.
        """
        self.extras = Extras(self.uri, self._table.fields, columns, missing)
        self._check_slice = check

    def fingerprint(self) -> str:
        """SHA-256 that changes when the catalogue's content does.

        Made from the content of a small local file, from size and entity tag in S3, from the digest of a download,
        and from size and time of modification of a large local file.
        """
        return self._files.fingerprint()

    def require_unchanged(self, fingerprint: str) -> None:
        """Refuse a catalogue that is not what it was when its fingerprint was taken.

        Parameters
        ----------
        fingerprint : str

        Raises
        ------
        CatalogError
            If its files are others now, or gone: what was read since may be a part of each.
        """
        if self._files.now().fingerprint() != fingerprint:
            raise CatalogError(
                f"{self.uri} changed while it was read: run again when it is finished, or give a copy of it"
            )

    def slices(self, rows: int = SLICE_ROWS, limit: int | None = None) -> Iterator[pa.RecordBatch]:
        """Read the catalogue from the first row to the last, in bounded memory.

        Parameters
        ----------
        rows : int
            Rows per slice; the last may be shorter.
        limit : int, optional
            Only so many rows.

        Yields
        ------
        pyarrow.RecordBatch
            ``row_index`` int64, ``object_id`` string (never null: ``row-<row_index>`` where the catalogue has none),
            ``ra_deg`` in [0, 360) and ``dec_deg`` in [-90, 90] float64 (NaN where they cannot be used), ``status``
            ``ok`` or ``bad_coordinates``, ``error`` string (null when ok); where the catalogue has such columns
            ``path`` string, ``pixel_scale_arcsec`` and ``size_arcsec`` float64 (NaN where there is no value above 0);
            ``extras``, a struct of what is read along.

        Raises
        ------
        CatalogError
            If the file is damaged or ends too early; the message names the row that was reached.
        """
        if self.extras is not None and not self.extras.is_settled(limit):
            self.extras.settle(first_rows(limit, self._read(self.extras.positions)), limit)
        for piece in regroup(self._checked_batches(limit, self.extras), rows):
            self._check_slice(piece)
            yield piece

    def describe(self) -> str:
        """Say what was found: the format, and which column is taken for what, with its first value."""
        count = "rows not counted yet" if self.num_rows is None else f"{self.num_rows:,} rows"
        lines = [f"{self.uri}: {self._table.kind}, {count}, {len(self._table.fields)} columns"]
        head = next(regroup(self._checked_batches(1000, None), 1000))
        names = {"object_id": "object_id", "ra": "ra_deg", "dec": "dec_deg", "path": "path"}
        names |= {"pixel_scale": "pixel_scale_arcsec", "size": "size_arcsec"}
        for role, name in names.items():
            column: Column | None = getattr(self.columns, role)
            if column is not None:
                unit = f" [{column.unit}]" if column.unit else ""
                lines.append(f"  {name:<18} {column.name}{unit}, found by {column.found_by}; first {head[name][0]}")
        if self.columns.object_id is None:
            lines.append("  object_id          none found: row-0, row-1, ...")
        bad = [text for text in head["error"].to_pylist() if text]
        if bad:
            lines.append(f"  {len(bad)} of the first {head.num_rows} rows have bad coordinates, e.g. {bad[0]}")
        return "\n".join(map(printable, lines))  # names and values are the file's own

    def _label(self, column: Column) -> str:
        return f"{self.uri}: column {column.name!r}"

    def _checked_batches(self, limit: int | None, extras: Extras | None) -> Iterator[pa.RecordBatch]:
        first = 0
        along = () if extras is None else extras.positions
        for batch in first_rows(limit, self._read([*self._positions, *along])):
            try:
                checked = self._check(batch, first, extras)
            except pa.ArrowException as error:  # more text than an array can hold
                raise CatalogError(f"{self.uri}: rows from {first} on: {describe_failure(error)}") from error
            yield checked
            first += batch.num_rows

    def _read(self, positions: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns as they are in the file; one may be asked for twice."""
        reached = 0
        different = list(dict.fromkeys(positions))
        batches = self._table.batches(different)
        while True:
            try:
                batch = next(batches, None)
            except self._files.read_errors as error:
                failure = describe_failure(error)
                raise CatalogError(f"{self.uri}: cannot be read beyond row {reached}: {failure}") from error
            if batch is None:
                return
            reached += batch.num_rows
            if len(different) < len(positions):
                batch = pa.RecordBatch.from_arrays(
                    [batch.column(different.index(position)) for position in positions],
                    names=[str(place) for place in range(len(positions))],
                )
            yield batch

    def _check(self, batch: pa.RecordBatch, first: int, extras: Extras | None) -> pa.RecordBatch:
        """Rows as they leave the catalogue, from a batch as it is in the file."""
        row_index = pa.array(np.arange(first, first + batch.num_rows))
        ra, dec, problems = self._coordinates(batch)
        columns = {
            "row_index": row_index,
            "object_id": self._identifiers(batch, row_index, first),
            "ra_deg": pa.array(ra),
            "dec_deg": pa.array(dec),
            "status": _with_exceptions(batch.num_rows, Status.OK, dict.fromkeys(problems, Status.BAD_COORDINATES)),
            "error": _with_exceptions(batch.num_rows, None, problems),
        }
        if self.columns.path is not None:
            paths = as_text(self._values(batch, self.columns.path), self._label(self.columns.path))
            columns["path"] = _anchored(paths, self._folder)
        if self.columns.pixel_scale is not None:
            columns["pixel_scale_arcsec"] = self._arcsec(batch, self.columns.pixel_scale)
        if self.columns.size is not None:
            columns["size_arcsec"] = self._arcsec(batch, self.columns.size)
        if extras is not None:
            columns[EXTRAS] = extras.read(batch.columns[len(self._positions) :])
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self._schema(extras))

    def _identifiers(self, batch: pa.RecordBatch, row_index: pa.Array, first: int) -> pa.Array:
        numbered = pc.binary_join_element_wise("row", row_index.cast(pa.string()), "-")
        column = self.columns.object_id
        if column is None:
            return numbered
        parts = [
            as_identifiers(batch.column(self._positions.index(position)), self._label(column), first)
            for position in column.positions
        ]
        return pc.coalesce(parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "_"), numbered)

    def _coordinates(self, batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, str]]:
        """Right ascensions, declinations, and what is wrong with them, by position in the batch."""
        if self.columns.ra is None or self.columns.dec is None:
            nowhere = np.full(batch.num_rows, np.nan)
            return nowhere, nowhere, {}
        ra = right_ascensions(self._values(batch, self.columns.ra), self._ra, self._label(self.columns.ra))
        dec = declinations(self._values(batch, self.columns.dec), self._dec, self._label(self.columns.dec))
        problems: dict[int, str] = {}
        for column, angles in ((self.columns.ra, ra), (self.columns.dec, dec)):
            for position, problem in angles.problems.items():
                if self._need_coordinates or not angles.missing[position]:
                    before = f"{problems[position]}; " if position in problems else ""
                    problems[position] = f"{before}{printable(column.name)} {problem}"
        return ra.degrees, dec.degrees, problems

    def _arcsec(self, batch: pa.RecordBatch, column: Column) -> pa.Array:
        label = self._label(column)
        stored = self._values(batch, column)
        values, missing = read_numbers(stored, label)
        values[~np.isfinite(values) | (values <= 0)] = np.nan
        unusable = np.isnan(values) & ~missing
        if unusable.any() and column.name not in self._warned:
            self._warned.add(column.name)
            example = stored[int(np.flatnonzero(unusable)[0])].as_py()
            logger.warning("%s holds %r, no number above 0: such rows get the default", label, example)
        return pa.array(values * arcsec_factor(column.unit, label))

    def _values(self, batch: pa.RecordBatch, column: Column) -> pa.Array:
        return batch.column(self._positions.index(column.positions[0]))


def _folder_of(uri: str) -> str | None:
    """Folder that relative paths in a catalogue start from; None for a download, which has no neighbours."""
    if uri.startswith("s3://"):
        return uri.rpartition("/")[0]
    if "://" in uri:
        return None
    path = Path(uri).expanduser().absolute()
    return str(path if path.is_dir() else path.parent)


def _anchored(paths: pa.Array, folder: str | None) -> pa.Array:
    if folder is None:
        return paths
    is_absolute = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, "://"))
    return pc.if_else(is_absolute, paths, pc.binary_join_element_wise(folder, paths, "/"))


def _with_exceptions(length: int, usual: str | None, exceptions: dict[int, str]) -> pa.Array:
    """Make a column of text with one value, but for a few rows."""
    if not exceptions:
        return pa.repeat(pa.scalar(usual, pa.string()), length)
    values = np.full(length, usual, dtype=object)
    values[list(exceptions)] = list(exceptions.values())
    return pa.array(values, pa.string())


def _found(columns: Columns) -> list[Column]:
    return [column for column in vars(columns).values() if column is not None]
