from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from galaxray.batches import text_array
from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.errors import CatalogError, RunError, RunMismatchError
from galaxray.ledger import Ledger
from galaxray.plan import choose_rows_per_unit, plan_run
from galaxray.runs import Run, open_run
from galaxray.schema import to_table


def write_catalog(path: Path, rows: int) -> str:
    lines = [f"g{i},{i % 360},{i % 90}" for i in range(rows)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return str(path)


def plan(config: RunConfig, models: dict | None = None) -> Run:
    return plan_run(config, open_catalog(config.catalog, config.columns), models or {}, versions={})


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/run"


def finished(run: Run, unit: int, statuses: dict[int, str] | None = None, *, retry: bool = False):
    """Table of a unit whose rows came to ``statuses`` (by row index; ok otherwise)."""
    batch = run.read_unit(unit, retry=retry)
    status = [(statuses or {}).get(int(row), "ok") for row in batch["row_index"]]
    batch["status"] = text_array(status)
    batch["error"] = text_array([None if text == "ok" else f"it was {text}" for text in status])
    batch["attempts"] = batch["attempts"] + np.int16(1)
    batch["smooth_fraction"] = batch["row_index"].astype(np.float32)
    return to_table(batch)


def read_rows(run: Run) -> dict[str, list]:
    folder = run.folder
    tables = []
    for name in folder.list("annotations"):
        with folder.open(f"annotations/{name}") as file:
            tables.append(pq.read_table(file).to_pydict())
    return {key: [value for table in tables for value in table[key]] for key in tables[0]}


def test_units_cover_the_catalogue_once(tmp_path, output):
    catalog = write_catalog(tmp_path / "c.csv", 100)
    run = plan(RunConfig(catalog=catalog, output=output, compute={"rows_per_unit": 32}))
    assert (run.num_rows, run.num_units, run.rows_per_unit) == (100, 4, 32)
    rows = np.concatenate([run.read_unit(unit)["row_index"] for unit in run.pending()])
    np.testing.assert_array_equal(rows, np.arange(100))
    assert run.read_unit(3)["object_id"].tolist() == ["g96", "g97", "g98", "g99"]


def test_a_unit_is_done_when_its_file_is_there(tmp_path, output):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 70), output=output, compute={"rows_per_unit": 32})
    run = plan(config)
    run.commit(1, finished(run, 1, {40: "blank"}))

    again = plan(config)
    assert again.run_id == run.run_id
    assert again.done() == [1]
    assert again.pending() == [0, 2]
    with pytest.raises(RunError, match="1 units are there, 3 are planned"):
        Ledger(again).verify()

    for unit in (0, 2, 1):  # 1 is done again: a crash between writing and being told of it
        again.commit(unit, finished(again, unit, {40: "blank"}))
    Ledger(again).verify()
    records = list(again.records())
    assert [record.rows for record in records] == [32, 32, 6]
    assert records[1].by_status == {"ok": 31, "blank": 1}
    assert records[1].errors == {"it was blank": 1}
    assert read_rows(again)["row_index"] == list(range(70))


def test_rows_with_a_transient_status_are_replaced(tmp_path, output):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 40), output=output, compute={"rows_per_unit": 32})
    run = plan(config)
    run.commit(0, finished(run, 0, {3: "throttled", 7: "unreachable", 9: "corrupt"}))
    run.commit(1, finished(run, 1))
    assert run.retryable() == [0]
    assert run.read_unit(0, retry=True)["row_index"].tolist() == [3, 7]

    written = run.commit(0, finished(run, 0, {7: "unreachable"}, retry=True), retry=True)
    assert written.record.by_status == {"ok": 30, "unreachable": 1, "corrupt": 1}
    assert written.before is not None
    assert written.before.transient == 2
    assert written.size == run.listing().size[0]
    rows = read_rows(run)
    assert rows["row_index"] == list(range(40))
    assert (rows["status"][3], rows["attempts"][3], rows["smooth_fraction"][3]) == ("ok", 2, 3.0)
    assert (rows["status"][7], rows["attempts"][7], rows["smooth_fraction"][7]) == ("unreachable", 2, None)
    assert (rows["status"][9], rows["attempts"][9]) == ("corrupt", 1)


def test_what_is_written_stays_when_a_unit_is_done_again(tmp_path):
    run = plan(RunConfig(catalog=write_catalog(tmp_path / "c.csv", 70), output=str(tmp_path / "run")))
    first = run.commit(1, finished(run, 1, {40: "throttled"}))
    path = tmp_path / "run" / "annotations" / "unit-00000001.parquet"
    inode = path.stat().st_ino
    assert run.commit(1, finished(run, 1)) == first
    assert path.stat().st_ino == inode
    assert read_rows(run)["status"][8] == "throttled"


def test_a_unit_with_lost_rows_is_not_committed(tmp_path):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 40), output=str(tmp_path / "run"))
    run = plan(config)
    with pytest.raises(RunError, match="has 31 rows where the catalogue has 32"):
        run.commit(0, finished(run, 0).slice(1))
    assert run.done() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutouts": {"layer": "ls-dr9"}}, "cutouts.layer was 'ls-dr10', is 'ls-dr9'"),
        ({"stages": ("fetch",)}, "stages was"),
        ({"limit": 10}, "limit was None, is 10"),
        ({"classifier": {"passes": 5}}, "classifier.passes was 1, is 5"),
        ({"compute": {"rows_per_unit": 64}}, "compute.rows_per_unit was 32, is 64"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, message):
    settings = {"catalog": write_catalog(tmp_path / "c.csv", 40), "output": str(tmp_path / "run")}
    plan(RunConfig(**settings))
    with pytest.raises(RunMismatchError) as caught:
        plan(RunConfig(**settings, **change))
    assert message in str(caught.value)
    assert caught.value.exit_status == 2


def test_other_models_and_another_catalogue_are_refused(tmp_path):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 40), output=str(tmp_path / "run"))
    plan(config, {"classifier": {"digest": "aa"}})
    with pytest.raises(RunMismatchError, match=r"model classifier.digest was 'aa', is 'bb'"):
        plan(config, {"classifier": {"digest": "bb"}})
    write_catalog(tmp_path / "c.csv", 41)
    with pytest.raises(RunMismatchError, match="the catalogue's content has changed"):
        plan(config, {"classifier": {"digest": "aa"}})


def test_politeness_and_hardware_may_change(tmp_path):
    settings = {"catalog": write_catalog(tmp_path / "c.csv", 40), "output": str(tmp_path / "run")}
    run = plan(RunConfig(**settings))
    other = {"cutouts": {"requests_per_s": 3, "timeout_s": 5}, "compute": {"device": "cpu", "actors": "separate"}}
    assert plan(RunConfig(**settings, **other)).run_id == run.run_id


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 40), output=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(RunMismatchError, match="was not written by galaxray"):
        open_run(config.output)
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "annotations").mkdir()
    (tmp_path / "run" / "annotations" / "x.parquet").write_bytes(b"")
    with pytest.raises(RunMismatchError, match=r"no run\.json"):
        plan(config)


def small_run(tmp_path, name: str = "run") -> Run:
    """Two units, both done."""
    run = plan(RunConfig(catalog=write_catalog(tmp_path / "c.csv", 40), output=str(tmp_path / name)))
    for unit in (0, 1):
        run.commit(unit, finished(run, unit))
    return run


def test_a_unit_of_another_run_is_found(tmp_path):
    run, other = small_run(tmp_path), small_run(tmp_path, "other")
    name = "annotations/unit-00000001.parquet"
    run.folder.write(name, other.folder.read(name))
    with pytest.raises(RunError, match=rf"{name} is unit 1 of run {other.run_id}, not of this run.*delete it"):
        Ledger(run).verify()


def test_a_unit_under_another_name_is_found(tmp_path):
    run = small_run(tmp_path)
    run.folder.write("annotations/unit-00000001.parquet", run.folder.read("annotations/unit-00000000.parquet"))
    with pytest.raises(RunError, match=r"unit-00000001.parquet is unit 0 of run"):
        Ledger(run).verify()


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", None])
def test_a_damaged_unit_is_named(tmp_path, content):
    run = small_run(tmp_path)
    name = "annotations/unit-00000000.parquet"
    if content is None:  # a table, but none of ours
        pq.write_table(finished(run, 0), tmp_path / "run" / name)
    else:
        run.folder.write(name, content)
    with pytest.raises(RunError, match=rf"{name} cannot be read .*delete it and run again"):
        list(run.records())


@pytest.mark.parametrize("name", ["unit-00000001.parquet.crc", "more.parquet", "unit-00000002.parquet"])
def test_a_foreign_file_among_the_annotations_is_named(tmp_path, name):
    run = small_run(tmp_path)
    run.folder.write("annotations/.unit-00000001.parquet.crc", b"")  # readers pass over it, and so do we
    Ledger(run).verify()
    run.folder.write(f"annotations/{name}", b"")
    with pytest.raises(RunError, match=rf"{name} is no file of this run"):
        run.pending()


def test_run_json_holds_all_settings(tmp_path):
    config = RunConfig(
        catalog=write_catalog(tmp_path / "c.csv", 40), output=str(tmp_path / "run"), cutouts={"timeout_s": 7}
    )
    run = plan(config)
    assert RunConfig.model_validate(run.record["settings"]) == config
    assert plan(config.model_copy(update={"max_failed_fraction": 0.5})).run_id == run.run_id


def test_what_a_killed_run_left_unfinished_goes_when_it_is_old(tmp_path):
    run = small_run(tmp_path)
    staging = tmp_path / "run" / ".staging"
    for name, age_s in (("old", 7200), ("young", 0)):
        (staging / name).write_text("")
        os.utime(staging / name, (time.time() - age_s,) * 2)
    plan(RunConfig(catalog=str(tmp_path / "c.csv"), output=run.output))
    assert [path.name for path in staging.iterdir()] == ["young"]


def test_a_limit_takes_the_first_rows(tmp_path):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 1000), output=str(tmp_path / "run"), limit=40)
    run = plan(config)
    assert run.num_rows == 40
    assert sum(len(run.read_unit(unit)["row_index"]) for unit in run.pending()) == 40


def test_a_catalogue_without_rows_is_refused(tmp_path):
    with pytest.raises(CatalogError):
        plan(RunConfig(catalog=write_catalog(tmp_path / "c.csv", 0), output=str(tmp_path / "run")))
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("rows", "cutouts", "expected"),
    [
        (20, {"source": "files"}, 32),
        (2_000, {"source": "files"}, 128),
        (10_000_000, {"source": "files"}, 1024),
        (10_000_000, {"requests_per_s": 10}, 320),
        (10_000_000, {"requests_per_s": None}, 1024),
    ],
)
def test_rows_per_unit(rows, cutouts, expected):
    assert choose_rows_per_unit(RunConfig(catalog="c", output="o", cutouts=cutouts), rows) == expected


def test_many_units_span_several_parts(tmp_path):
    catalog = write_catalog(tmp_path / "c.csv", 1000)
    run = plan(RunConfig(catalog=catalog, output=str(tmp_path / "run"), compute={"rows_per_unit": 2}))
    assert run.folder.list("catalog") == ["part-00000.parquet", "part-00001.parquet"]
    assert [run.read_unit(unit)["row_index"].tolist() for unit in (0, 255, 256, 499)] == [
        [0, 1],
        [510, 511],
        [512, 513],
        [998, 999],
    ]


def test_another_precision_is_another_run(tmp_path):
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", 3), output=str(tmp_path / "run"))
    plan(config.model_copy(update={"compute": config.compute.model_copy(update={"precision": "bf16"})}))
    with pytest.raises(RunMismatchError, match=r"precision was 'bf16', is 'fp32'.*--compute\.precision bf16"):
        plan(config.model_copy(update={"compute": config.compute.model_copy(update={"precision": "fp32"})}))


def plan_along(config: RunConfig, labels: dict[str, str]) -> Run:
    catalog = open_catalog(config.catalog)
    catalog.read_along(labels, ["9"])
    return plan_run(config, catalog, {}, versions={})


def test_what_is_read_along_waits_in_the_run_folder(tmp_path, output):
    path = tmp_path / "c.csv"
    path.write_text("\n".join(["object_id,ra,dec,image", *(f"g{i},{i},1,{i}" for i in range(70))]) + "\n")
    config = RunConfig(catalog=str(path), output=output, compute={"rows_per_unit": 32})

    run = plan_along(config, {"the label": "image"})

    assert "extras" not in run.read_unit(1)
    assert run.read_extras(1)["the label"].to_pylist() == list(range(32, 64))
    assert run.read_extras(0)["the label"].to_pylist()[8:11] == [8, None, 10]
    run.commit(2, finished(run, 2))
    assert run.read_finished(2, ["object_id", "status"]).to_pylist()[0] == {"object_id": "g64", "status": "ok"}
    assert plan_along(config, {"the label": "image"}).run_id == run.run_id
    with pytest.raises(RunMismatchError, match=r"labels\.the label was 'image', is 'dec'"):
        plan_along(config, {"the label": "dec"})
    with pytest.raises(RunMismatchError, match=r"labels was .* is None; missing was"):
        plan(config)


def test_a_worker_opens_the_folder_for_itself_and_only_once(tmp_path, output):
    run = plan(RunConfig(catalog=write_catalog(tmp_path / "c.csv", 10), output=output))
    assert run.folder is run.folder
    sent = pickle.loads(pickle.dumps(run))
    assert sent == run
    assert "folder" not in vars(sent)  # a client of S3 has threads and sockets, which stay where they are
    assert sent.read_unit(0)["object_id"].tolist() == [f"g{i}" for i in range(10)]
