"""What the program does with fetched images, without Ray: units are made up here, as the stream would write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_training_shards import contents, picture

from galaxray.batches import text_array
from galaxray.errors import GalaxrayError
from galaxray.ledger import Ledger
from galaxray.plan import plan_run
from galaxray.runs import open_run
from galaxray.schema import Status, to_table
from galaxray.summary import summarize
from galaxray.training.labels import LabelSpec, output_names, targets_for
from galaxray.training.shards import open_shards
from pipelines import fetch_cutouts

ROWS = 100
QUICK = ["--compute.rows_per_unit", "32", "--cutouts.source", "files", "--cutouts.path_template", "{object_id}"]


def write_catalog(path: Path, rows: int = ROWS, **changed: dict[int, object]) -> Path:
    """Ten volunteers voted on each galaxy."""
    lines = ["id_str,smooth-or-featured_smooth,smooth-or-featured_featured-or-disk,smooth-or-featured_artifact,T,ring"]
    for row in range(rows):
        values = {
            "smooth": row % 11,
            "disk": 10 - row % 11,
            "artifact": 0,
            "T": row - 50,
            "ring": "yes" if row % 4 else "",
        }
        values |= {name: cells[row] for name, cells in changed.items() if row in cells}
        lines.append(",".join([f"g{row}", *(str(value) for value in values.values())]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What comes of each galaxy, by identifier; ok otherwise. The stream of units is made up."""
    fates: dict[str, str] = {}

    def work_off(config, catalog, models, lock, log, tally, *, retry_failed):
        run = plan_run(config, catalog, models.record, versions={})
        again = run.retryable() if retry_failed else []
        for unit in [*run.pending(), *again]:
            batch = run.read_unit(unit, retry=unit in again)
            status = [fates.get(name, "ok") for name in batch["object_id"]]
            batch["status"] = text_array(status)
            batch["error"] = text_array([None if text == "ok" else f"it was {text}" for text in status])
            images = [picture(int(name[1:])) if name[1:].isdigit() else b"" for name in batch["object_id"]]
            batch["image"] = text_array(
                [data if text == "ok" else None for data, text in zip(images, status, strict=True)]
            )
            batch["image_sha256"] = text_array([f"{number:064x}" for number in batch["row_index"]])
            batch["pixel_scale_arcsec"] = np.full(len(status), 0.262)
            run.commit(unit, to_table(batch), retry=unit in again)
        ledger = Ledger(run)
        ledger.verify()
        return run, summarize(ledger, tally)

    monkeypatch.setattr(fetch_cutouts, "work_off", work_off)
    return fates


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, statuses: dict[str, str]) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["fetch_cutouts.py", *(str(argument) for argument in arguments)])
        return fetch_cutouts.main()

    return run


def shards_alone(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".parquet")}


def test_images_and_labels_are_joined_by_row(tmp_path, run, statuses, capsys):
    statuses |= {"g3": Status.NOT_COVERED, "g40": Status.CORRUPT, "g41": Status.CORRUPT}
    catalog, output = write_catalog(tmp_path / "c.csv", T={5: ""}), tmp_path / "data"
    flags = ["--catalog", catalog, "--output", output, *QUICK]

    assert run(*flags, "--tree", "gz_decals_5", "--labels", "T,ring", "--missing", "-9999,49") == 0

    shards = open_shards(output)
    assert list(shards.label_columns.items())[2:] == [
        ("smooth-or-featured-dr5_artifact", "int64"),
        ("T", "int64"),
        ("ring", "string"),
    ]
    images = shards.all
    assert sorted(images.object_id) == sorted({f"g{row}" for row in range(ROWS)} - {"g3", "g40", "g41"})
    votes = targets_for("tree", images, LabelSpec(tree="gz_decals_5"))
    for index, name in enumerate(images.object_id):
        row = int(name[1:])
        assert images.image(index) == picture(row)
        assert votes[index, :3].tolist() == [row % 11, 10 - row % 11, 0]
        np.testing.assert_equal(images.label("T")[index], np.nan if row in (5, 99) else row - 50)
        assert images.label("ring")[index] == ("yes" if row % 4 else None)
    rejected = pq.read_table(output / "rejected.parquet").to_pylist()
    assert {row["object_id"]: (row["status"], row["error"]) for row in rejected} == {
        "g3": ("not_covered", "it was not_covered"),
        "g40": ("corrupt", "it was corrupt"),
        "g41": ("corrupt", "it was corrupt"),
    }
    out, err = capsys.readouterr()
    assert "97 of 100 galaxies are in the data set; 3 are not (rejected.parquet): not_covered 1, corrupt 2" in err
    assert [line.split() for line in out.splitlines()[:2]] == [
        ["train", "val", "test"],
        ["galaxies", *(str(shards.num[name]) for name in ("train", "val", "test"))],
    ]
    assert "smooth-or-featured-dr5 " in out
    assert "T (-50 to 48, mean" in out
    record = json.loads((output / "dataset.json").read_text())
    assert record["source"]["run_id"] == open_run(str(output / "fetched")).run_id
    assert record["tree"] == "gz_decals_5"


def test_a_finished_data_set_is_left_as_it_is(tmp_path, run, monkeypatch):
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK, "--labels", "T"]
    assert run(*flags) == 0
    before = contents(tmp_path / "data")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.*") if path.is_file()}
    monkeypatch.setattr(fetch_cutouts, "work_off", lambda *_, **__: pytest.fail("worked again"))
    assert run(*flags) == 0
    assert contents(tmp_path / "data") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # what was fetched may go when the data set is finished
    for path in sorted((tmp_path / "data" / "fetched").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert run(*flags) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--labels", "T,ring"], "labels.ring was None, is 'ring'"),
        (["--missing", "3"], "missing was [], is ['3']"),
        (["--split.seed", "1"], "split.seed was 0, is 1"),
        (["--split.val", "0.3"], "split.val was 0.1, is 0.3"),
        (["--cutouts.pixel_scale_arcsec", "0.4"], "cutouts.pixel_scale_arcsec was None, is 0.4"),
        (["--limit", "50"], "limit was None, is 50"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_folder_made_with_other_settings_is_refused(tmp_path, run, capsys, change, message, is_finished):
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK]
    assert run(*flags, "--labels", "T") == 0
    if not is_finished:
        make_unfinished(tmp_path / "data", "T", pieces=1)
    before = contents(tmp_path / "data")
    labels = [] if change[0] == "--labels" else ["--labels", "T"]
    assert run(*flags, *labels, *change) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert "another --output" in error
    assert contents(tmp_path / "data") == before


def make_unfinished(folder: Path, *labels: str, pieces: int) -> None:
    """Put a data set of several pieces back to where only some of them were written."""
    run = open_run(str(folder / "fetched"))
    settings = {"labels": dict.fromkeys(labels, "int64"), "split": {"val": 0.1, "test": 0.1, "seed": 0}}
    sizes = run.listing().size
    units = list(
        fetch_cutouts.group_units(sizes, 32, shard_bytes=fetch_cutouts.SHARD_BYTES, shard_rows=fetch_cutouts.SHARD_ROWS)
    )
    record = json.loads((folder / "dataset.json").read_text())
    for number in range(pieces):
        mine = [shard for shard in record["shards"] if f"-{number:05d}" in shard["name"]]
        content = {"origin": fetch_cutouts.sizes_digest(sizes, units[number]), "settings": settings, "shards": mine}
        (folder / f"piece-{number:05d}.json").write_text(json.dumps(content))
    (folder / "dataset.json").unlink()


def test_a_killed_program_goes_on_and_writes_the_same(tmp_path, run, monkeypatch):
    monkeypatch.setattr(fetch_cutouts, "SHARD_ROWS", 40)
    catalog = write_catalog(tmp_path / "c.csv")
    flags = ["--catalog", catalog, *QUICK, "--labels", "T"]
    assert run(*flags, "--output", tmp_path / "data") == 0
    assert run(*flags, "--output", tmp_path / "other") == 0
    undisturbed = contents(tmp_path / "data")
    assert "train-00001.parquet" in undisturbed
    assert shards_alone(tmp_path / "other") == shards_alone(tmp_path / "data")

    make_unfinished(tmp_path / "data", "T", pieces=1)
    (tmp_path / "data" / "train-00001.parquet").unlink()
    kept = (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns
    assert run(*flags, "--output", tmp_path / "data") == 0
    assert contents(tmp_path / "data") == undisturbed
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == kept


def test_healed_rows_come_in_and_the_rest_stays(tmp_path, run, statuses, monkeypatch, capsys):
    monkeypatch.setattr(fetch_cutouts, "SHARD_ROWS", 40)
    statuses |= {"g70": Status.THROTTLED, "g71": Status.UNREACHABLE}
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK, "--labels", "T"]
    assert run(*flags) == 0
    assert (
        "2 galaxies were throttled or not reached: run the same command with --retry-failed" in capsys.readouterr().err
    )
    before = contents(tmp_path / "data")
    assert run(*flags, "--retry-failed") == 0  # in vain
    assert contents(tmp_path / "data") == before

    statuses.clear()
    assert run(*flags, "--retry-failed") == 0
    assert sum(open_shards(tmp_path / "data").num.values()) == ROWS
    assert not (tmp_path / "data" / "rejected.parquet").exists()
    assert run(*flags, "--retry-failed") == 0


def test_units_make_pieces_up_to_a_size():
    sizes = np.array([10, 10, 30, 50, 1, 1, 1])
    assert list(fetch_cutouts.group_units(sizes, 32, shard_bytes=40, shard_rows=96)) == [[0, 1, 2], [3], [4, 5, 6]]
    assert list(fetch_cutouts.group_units(sizes, 32, shard_bytes=10**9, shard_rows=64))[-1] == [6]
    assert list(fetch_cutouts.group_units(sizes[:0], 32, shard_bytes=1, shard_rows=1)) == []


def test_too_many_failures_are_an_exit_status(tmp_path, run, statuses):
    statuses |= {f"g{row}": Status.BLANK for row in range(20)}
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK, "--labels", "T"]
    assert run(*flags, "--max-failed-fraction", "0.1") == 3
    assert sum(open_shards(tmp_path / "data").num.values()) == 80
    assert run(*flags, "--max-failed-fraction", "0.2") == 0


def test_not_one_image(tmp_path, run, statuses):
    statuses |= {f"g{row}": Status.NOT_COVERED for row in range(ROWS)}
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK, "--labels", "T"]
    assert run(*flags) == 0
    assert len(open_shards(tmp_path / "data").all) == 0


def test_images_alone(tmp_path, run):
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "data", *QUICK, "--labels", "none"]
    assert run(*flags) == 0
    assert open_shards(tmp_path / "data").all.columns == ()
    assert len(open_shards(tmp_path / "data").all) == ROWS


@pytest.mark.parametrize(
    ("flags", "changed", "message"),
    [
        ([], {}, "name the columns with labels (--labels A,B), or the decision tree"),
        (["--labels", "TT"], {}, "no column 'TT' (did you mean 'T'?); columns found: id_str"),
        (["--labels", "id_str,object_id"], {}, "label column 'object_id' has the name of a column of the data set"),
        (["--tree", "gz_decal_5"], {}, "do you mean 'gz_decals_5'"),
        (["--tree", "gz2"], {"disk": {7: 0.25}}, "'smooth-or-featured-gz2_featured-or-disk' holds 0.25 for object g7"),
        (["--tree", "gz2"], {"smooth": {9: -1}}, "'smooth-or-featured-gz2_smooth' holds -1 for object g9: votes count"),
        (["--tree", "gz2"], {"smooth": {9: "many"}}, "holds 'many' for object g9: votes are numbers"),
        (["--tree", "gz_rings", "--labels", "T"], {}, "no column has votes on gz_rings: they are called ring_yes"),
        (["--labels", "T", "--split.val", "0.6", "--split.test", "0.6"], {}, "together at most 1"),
        (["--labels", "T", "--cutouts.path_template", "{nothing}"], {}, "nothing"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_planned(tmp_path, run, capsys, flags, changed, message):
    catalog, output = write_catalog(tmp_path / "c.csv", **changed), tmp_path / "data"
    assert run("--catalog", catalog, "--output", output, *QUICK, *flags) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (output / "fetched" / "run.json").exists()
    # what is mended is not held against the folder
    write_catalog(tmp_path / "c.csv")
    assert run("--catalog", catalog, "--output", output, *QUICK, "--labels", "T") == 0


def test_a_dry_run_checks_the_labels_and_writes_nothing(tmp_path, run, capsys):
    catalog = write_catalog(tmp_path / "c.csv")
    flags = ["--catalog", catalog, "--output", tmp_path / "data", *QUICK, "--dry-run"]
    assert run(*flags, "--tree", "gz2", "--labels", "ring") == 0
    assert "labels     smooth-or-featured-gz2_smooth (int64)" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    write_catalog(tmp_path / "c.csv", smooth={99: -5})
    assert run(*flags, "--tree", "gz2") == 2
    assert "holds -5 for object g99" in capsys.readouterr().err


def test_help_teaches(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for words in ("For example:", "--images photos", "--split.val", "--missing VALUE[,VALUE...]", "Exit status"):
        assert words in text
    assert "``" not in text


def write_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".jpg", ".png"):
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), np.uint8)).save(path)
        else:
            path.write_text("no image")
    return folder


def test_a_folder_of_classes(tmp_path, run, capsys):
    names = [
        "spiral/g1.jpg",
        "spiral/more/g2.PNG",
        "elliptical/g3.jpg",
        "notes.txt",
        ".hidden/g4.jpg",
        "spiral/.g5.jpg",
    ]
    folder = write_images(tmp_path / "photos", *names)
    assert run("--images", folder, "--output", tmp_path / "data") == 0
    assert "3 images in 2 classes (elliptical, spiral)" in capsys.readouterr().err
    images = open_shards(tmp_path / "data").all
    labels = dict(zip(images.object_id, images.label("label"), strict=True))
    assert labels == {"g1": "spiral", "g2": "spiral", "g3": "elliptical"}
    assert output_names("classes", images, LabelSpec(column="label")) == ("elliptical", "spiral")

    write_images(folder, "spiral/g9.jpg")
    assert run("--images", folder, "--output", tmp_path / "data") == 2
    assert "was made of other images than are in" in capsys.readouterr().err


def test_a_folder_without_classes(tmp_path, run):
    names = ["g1.jpg", "g2.png", "#3.jpg", "4, 5.jpg", 'the "six".jpg', "seven\n#8.jpg"]
    folder = write_images(tmp_path / "photos", *names)
    assert run("--images", folder, "--output", tmp_path / "data") == 0
    images = open_shards(tmp_path / "data").all
    assert images.columns == ()
    assert sorted(f"{name}." for name in images.object_id) == sorted(name[:-3] for name in names)


def test_images_of_the_same_name_are_told_apart_by_their_folder(tmp_path):
    folder = write_images(tmp_path / "photos", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    text, num, classes = fetch_cutouts.describe_images(str(folder))
    assert [line.split('"')[1] for line in text.splitlines()] == ["id_str", "a/1", "b/1", "b/2"]
    assert (num, classes) == (3, ("a", "b"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "no images in it; their names end in .jpg, .jpeg, .png, .fits"),
        (["train/a/1.jpg", "val/a/2.jpg"], "its sub-folders are train, val: splits are drawn here"),
        (["1.jpg", "1.png"], "1.jpg and 1.png have the same identifier"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, names, message):
    write_images(tmp_path / "photos", *names)
    with pytest.raises(GalaxrayError, match=message):
        fetch_cutouts.describe_images(str(tmp_path / "photos"))
    with pytest.raises(GalaxrayError, match="no such folder of images"):
        fetch_cutouts.describe_images(str(tmp_path / "nowhere"))


def test_in_object_storage(tmp_path, run, s3_bucket):
    flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", f"{s3_bucket}/data", *QUICK, "--labels", "T"]
    assert run(*flags) == 0
    assert sum(open_shards(f"{s3_bucket}/data").num.values()) == ROWS
    assert run(*flags) == 0
