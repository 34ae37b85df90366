"""Galaxies of a data set, as training takes them: identifiers and labels in memory, images on disk or in S3."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.errors import ConfigError, RowError, RunError
from galaxray.images import View, decode
from galaxray.storage import open_folder
from galaxray.storage_errors import storage_errors

__all__ = ["LabelledImages", "ShardFile", "no_column"]

MAX_THREADS = 8


@dataclass(frozen=True)
class ShardFile:
    """A Parquet file of images, opened when it is read.

    Attributes
    ----------
    folder, name : str
        Address of the folder, and the file's name in it.
    starts : ndarray of int64
        First row of each of its row groups.
    """

    folder: str
    name: str
    starts: npt.NDArray[np.int64]

    def images(self, group: int) -> pa.ChunkedArray:
        """Image files of a row group, binary."""
        with storage_errors(self.folder), _damage(self), open_folder(self.folder).open(self.name) as stream:
            return pq.ParquetFile(stream).read_row_group(group, columns=["image"])["image"]


class LabelledImages:
    """Some galaxies of a data set; made by `galaxray.training.shards.open_shards`. Cheap to pickle but for the labels.

    Parameters
    ----------
    files : sequence of ShardFile
    table : pyarrow.Table
        ``object_id`` and the label columns of N galaxies.
    file, row : ndarray of int, shape (N,)
        Where each image is: which file, which row of it.
    source_digest : str
        Digest of the whole data set.
    """

    def __init__(
        self,
        files: Sequence[ShardFile],
        table: pa.Table,
        file: npt.NDArray[np.int32],
        row: npt.NDArray[np.int64],
        source_digest: str,
    ) -> None:
        self._files, self._table, self._file, self._row = tuple(files), table, file, row
        self._source_digest = source_digest
        self._last: tuple[tuple[int, int], pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self._row)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}  # a row group of images

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self._table.column_names[1:])

    @cached_property
    def object_id(self) -> npt.NDArray[np.object_]:
        """Identifiers, object (N,)."""
        return _objects(self._table["object_id"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of which galaxies of which data set these are, and in which order."""
        digest = hashlib.sha256(self._source_digest.encode())
        digest.update(self._file.astype("<i4").tobytes() + self._row.astype("<i8").tobytes())
        return digest.hexdigest()

    def label(self, column: str) -> npt.NDArray[np.float64] | npt.NDArray[np.object_]:
        """Labels of one column.

        Returns
        -------
        ndarray, shape (N,)
            Numbers as float64 with NaN, text as object with None where the label is missing.

        Raises
        ------
        ConfigError
            If there is no such column; the message names the nearest.
        """
        if column not in self.columns:
            raise no_column(column, self.columns)
        values = self._table[column]
        if pa.types.is_string(values.type):
            return _objects(values)
        numbers: npt.NDArray[np.float64] = np.array(values.cast(pa.float64()).to_numpy(), dtype=np.float64)
        return numbers

    def where(self, mask: npt.ArrayLike) -> LabelledImages:
        """Select the galaxies where a mask, bool (N,), is true; in the same order."""
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ValueError(f"a mask of {len(self)} galaxies is bool ({len(self)},), not {mask.dtype} {mask.shape}")
        chosen = np.flatnonzero(mask)
        table = self._table.take(pa.array(chosen))
        return LabelledImages(self._files, table, self._file[chosen], self._row[chosen], self._source_digest)

    def image(self, index: int) -> bytes:
        """The file of an image, as it came. Neighbours are quick: the last row group is kept."""
        place, offset = self._place(index)
        last = self._last
        if last is None or last[0] != place:
            self._last = last = (place, self._files[place[0]].images(place[1]))
        content: bytes = last[1][offset].as_py()
        return content

    def pixels(
        self, view: View, cache: Path | str, *, on_rows: Callable[[int], None] = lambda rows: None
    ) -> npt.NDArray[np.uint8]:
        """All images as a model sees them, decoded once and then read as a memory map.

        Parameters
        ----------
        view : View
        cache : Path
            Folder on a local disk, made if needed. The file in it is named by what it holds, and appears when it is
            whole; another program may make the same one at the same time.
        on_rows : callable
            Told after every few images how many are decoded.

        Returns
        -------
        numpy.memmap of uint8, shape (N, size, size, 3)
            Read-only; an ordinary array if there are no galaxies.

        Raises
        ------
        ConfigError
            If the disk has no room for it.
        RunError
            If an image cannot be read or decoded.
        """
        shape = (len(self), view.size, view.size, 3)
        if not len(self):
            return np.zeros(shape, np.uint8)
        path = Path(cache).expanduser() / f"{self.digest[:32]}-{view.key}.npy"
        with storage_errors(str(path.parent)):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _require_room(path.parent, int(np.prod(shape)))
                with _aside(path) as part:
                    pixels = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
                    self._decode_into(pixels, view, on_rows)
                    pixels.flush()
            seen: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        if seen.shape != shape:
            raise RunError(f"{path} holds {seen.shape}, not {shape}: remove it")
        return seen

    def _decode_into(self, pixels: npt.NDArray[np.uint8], view: View, on_rows: Callable[[int], None]) -> None:
        def decode_group(place: tuple[int, int], indices: npt.NDArray[np.int64]) -> int:
            images = self._files[place[0]].images(place[1])
            for index in indices:
                try:
                    pixels[index] = view.apply(decode(images[self._place(int(index))[1]].as_py()))
                except RowError as error:
                    name = self._table["object_id"][int(index)].as_py()
                    raise RunError(f"image of {name}: {error}; make the data set again") from error
            return len(indices)

        done = 0
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
            # a group's bytes are in memory while it is decoded, and no others'
            try:
                for count in threads.map(lambda job: decode_group(*job), self._by_group()):
                    done += count
                    on_rows(done)
            except BaseException:  # the groups that wait are not waited for
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _by_group(self) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.int64]]]:
        """Row groups that hold images of these galaxies, each with the indices of these."""
        group = np.empty(len(self), np.int64)
        for number, file in enumerate(self._files):
            here = self._file == number
            group[here] = np.searchsorted(file.starts, self._row[here], side="right") - 1
        order = np.lexsort((np.arange(len(self)), group, self._file))
        edges = np.flatnonzero(np.diff(self._file[order]) | np.diff(group[order])) + 1
        for indices in np.split(order, edges):
            yield (int(self._file[indices[0]]), int(group[indices[0]])), indices

    def _place(self, index: int) -> tuple[tuple[int, int], int]:
        """File and row group of an image, and its row within the group."""
        file, row = int(self._file[index]), int(self._row[index])
        starts = self._files[file].starts
        group = int(np.searchsorted(starts, row, side="right")) - 1
        return (file, group), row - int(starts[group])


def no_column(column: str, columns: Sequence[str]) -> ConfigError:
    """Make the error for a label column that is not there, with the nearest name or all names."""
    near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
    near = near or [name for name in columns if name.lower() == column.lower()]
    shown = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
    return ConfigError(
        f"no label column {column!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there are: {shown or 'none'}")
    )


def _objects(values: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values.to_pylist()
    return array


@contextmanager
def _damage(file: ShardFile) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into one line."""
    try:
        yield
    except pa.ArrowException as error:
        raise ConfigError(f"{file.folder}/{file.name} is damaged ({error}): make the data set again") from error


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that gets this name when it is whole."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ConfigError(
            f"decoded images take {num_bytes / 1e9:.1f} GB, {folder} has room for {free / 1e9:.1f} GB: "
            "make room, name another folder for the cache, or take a smaller view"
        )
