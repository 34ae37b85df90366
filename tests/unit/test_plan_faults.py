"""A catalogue that changes while it is read, and no room for it: nothing is planned, and the next start plans it."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.errors import CatalogError, RunError
from galaxray.plan import plan_run
from galaxray.runs import Run
from galaxray.storage_errors import storage_errors

ROWS = 40_000  # several slices


def text(rows: int, name: str = "g") -> str:
    return "\n".join(["object_id,ra,dec", *(f"{name}{i},{i % 360},{i % 90}" for i in range(rows))]) + "\n"


def plan(path: str, output: Path, on_rows: Callable[[int], None] = lambda rows: None) -> Run:
    config = RunConfig(catalog=path, output=str(output))
    return plan_run(config, open_catalog(path), {}, versions={}, on_rows=on_rows)


def replace(path: Path) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text(ROWS, "h"))
    aside.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("late,1,2\n")


def write_in_place(path: Path) -> None:
    with path.open("r+") as file:
        file.write("object_id,ra,dec\nX0,")


@pytest.mark.parametrize("change", [replace, truncate, append, write_in_place, Path.unlink])
def test_a_catalogue_that_changes_while_it_is_read_is_refused(tmp_path, change):
    path = tmp_path / "c.csv"
    path.write_text(text(ROWS))
    changed: list[int] = []

    def change_once(rows: int) -> None:
        if not changed:
            changed.append(rows)
            change(path)

    message = "no such file" if change is Path.unlink else "changed while it was read|cannot be read beyond row"
    with pytest.raises(CatalogError, match=message) as caught:
        plan(str(path), tmp_path / "run", change_once)
    assert "\n" not in str(caught.value)
    assert changed[0] < ROWS
    assert not (tmp_path / "run" / "run.json").exists()
    path.write_text(text(ROWS, "i"))
    assert plan(str(path), tmp_path / "run").read_unit(0)["object_id"][0] == "i0"


def test_a_catalogue_in_s3_that_is_replaced_while_it_is_read_is_refused(tmp_path, s3_bucket):
    s3 = s3fs.S3FileSystem(skip_instance_cache=True)
    path = f"{s3_bucket}/c.csv.gz"
    s3.pipe_file(path, gzip.compress(text(ROWS).encode()))
    other = iter([gzip.compress(text(ROWS, "h").encode())])

    def replace_once(_: int) -> None:
        for content in other:
            s3.pipe_file(path, content)

    with pytest.raises(CatalogError, match="changed while it was read"):
        plan(path, tmp_path / "run", replace_once)
    assert not (tmp_path / "run" / "run.json").exists()
    assert plan(path, tmp_path / "run").num_rows == ROWS


def test_a_folder_that_gets_one_more_file_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text(text(ROWS))
    rows = pa.Table.from_batches(list(open_catalog(str(tmp_path / "c.csv")).slices()))
    path = tmp_path / "parts"
    path.mkdir()
    pq.write_table(rows, path / "a.parquet")
    with pytest.raises(CatalogError, match="changed while it was read"):
        plan(str(path), tmp_path / "run", lambda _: pq.write_table(rows, path / "b.parquet"))
    assert plan(str(path), tmp_path / "run").num_rows == 2 * ROWS


def test_no_room_for_the_catalogue_in_the_run_folder(tmp_path, small_disk):
    (tmp_path / "c.csv").write_text(text(ROWS))
    disk = small_disk("200k")
    refused = pytest.raises(RunError, match=f"^{disk}: No space left on device; make room there")
    with refused as caught, storage_errors(str(disk)):
        plan(str(tmp_path / "c.csv"), disk)
    assert "\n" not in str(caught.value)
    assert not list(disk.glob(".staging/*"))
    assert not (disk / "run.json").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert plan(str(tmp_path / "c.csv"), disk).num_rows == ROWS


def test_no_room_in_the_temporary_folder_is_not_blamed_on_the_run_folder(tmp_path, small_disk, monkeypatch):
    (tmp_path / "c.csv").write_text(text(ROWS))
    disk = small_disk("200k")
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(
        RunError, match=f"{disk}/galaxray-[^:]*: .*[Nn]o space left on device; make room there"
    ) as caught:
        plan(str(tmp_path / "c.csv"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not list(disk.iterdir())
    monkeypatch.undo()
    assert plan(str(tmp_path / "c.csv"), tmp_path / "run").num_rows == ROWS
