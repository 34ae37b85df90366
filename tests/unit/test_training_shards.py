from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections import deque
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galaxray.errors import ConfigError, RunError, RunMismatchError
from galaxray.images import View, decode
from galaxray.storage import open_folder
from galaxray.training.shards import ShardWriter, open_shards, write_shards
from galaxray.training.splits import fold_of, split_of

LABELS = {"T": "int64", "radius": "float64", "class": "string"}


def picture(number: int) -> bytes:
    """A picture that tells its number by its colour."""
    pixels = np.random.default_rng(number).integers(0, 40, (12, 12, 3), np.uint8)
    pixels[..., 0] += np.uint8(number % 200)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labelled(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    return pa.table(
        {
            "object_id": [f"g{number}" for number in numbers],
            "image": pa.array([picture(number) for number in numbers], pa.binary()),
            "ra_deg": [number / 10 for number in numbers],
            "T": pa.array([None if number % 7 == 0 else number for number in numbers], pa.int32()),
            "radius": [float("nan") if number % 5 == 0 else number / 3 for number in numbers],
            "class": pa.array([None if number % 11 == 0 else f"c{number % 3}" for number in numbers]),
        }
    )


def tables(num: int = 60, rows: int = 7) -> list[pa.Table]:
    return [labelled(start, min(num, start + rows)) for start in range(0, num, rows)]


def write(folder: Path, **settings: object):
    return write_shards(folder, tables(), val=0.2, test=0.2, **settings)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_every_galaxy_is_in_its_split_with_its_image_and_labels(tmp_path):
    shards = write(tmp_path / "data", shard_rows=20)

    assert shards.label_columns == LABELS
    assert sum(shards.num.values()) == 60
    seen = {}
    for name in ("train", "val", "test"):
        part = shards.split(name)
        assert part.columns == ("T", "radius", "class")
        assert len(part) == shards.num[name] > 0
        assert set(split_of(part.object_id, val=0.2, test=0.2)) == {name}
        for index, object_id in enumerate(part.object_id):
            number = int(object_id[1:])
            seen[number] = name
            assert part.image(index) == picture(number)
            np.testing.assert_equal(part.label("T")[index], np.nan if number % 7 == 0 else number)
            np.testing.assert_equal(part.label("radius")[index], np.nan if number % 5 == 0 else number / 3)
            assert part.label("class")[index] == (None if number % 11 == 0 else f"c{number % 3}")
    assert sorted(seen) == list(range(60))


def test_shards_are_plain_parquet(tmp_path):
    write(tmp_path / "data")
    table = pq.read_table(tmp_path / "data" / "train-00000.parquet")
    assert table.column_names == [
        *("object_id", "ra_deg", "dec_deg", "image", "image_sha256", "pixel_scale_arcsec", "T", "radius", "class")
    ]
    assert [str(table.schema.field(name).type) for name in ("T", "radius", "class")] == ["int64", "double", "string"]
    assert table["radius"].null_count == sum(int(name[1:]) % 5 == 0 for name in table["object_id"].to_pylist())
    assert table["dec_deg"].null_count == table.num_rows
    first = table.slice(0, 1).to_pylist()[0]
    assert first["image_sha256"] == hashlib.sha256(first["image"]).hexdigest()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first, second = write(tmp_path / "a", shard_rows=25), write(tmp_path / "b", shard_rows=25)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.digest == second.digest
    assert "train-00002.parquet" in contents(tmp_path / "a")


def test_large_images_make_more_shards(tmp_path):
    write(tmp_path / "data", shard_bytes=5000)
    assert len(list((tmp_path / "data").glob("train-*.parquet"))) > 3


def test_the_record_says_what_it_is(tmp_path):
    write(tmp_path / "data", source={"run": "r1"}, seed=3)
    record = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert record["format"] == "galaxray-dataset-1"
    assert record["labels"] == LABELS
    assert record["split"] == {"val": 0.2, "test": 0.2, "seed": 3}
    assert record["source"] == {"run": "r1"}
    for shard in record["shards"]:
        assert hashlib.sha256((tmp_path / "data" / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


def test_folds_take_every_galaxy_once_as_a_test(tmp_path):
    shards = write(tmp_path / "data")
    tested = []
    for k in range(3):
        parts = shards.fold(k, 3)
        ids = {name: set(part.object_id) for name, part in parts.items()}
        assert len(ids["train"] | ids["val"] | ids["test"]) == sum(len(part) for part in parts.values()) == 60
        assert set(fold_of(sorted(ids["test"]), 3)) == {k}
        assert set(fold_of(sorted(ids["val"]), 3)) == {(k + 1) % 3}
        tested += sorted(ids["test"])
    assert len(set(tested)) == len(tested) == 60


@pytest.mark.parametrize(("k", "folds"), [(0, 2), (3, 3), (-1, 5)])
def test_folds_that_are_none(tmp_path, k, folds):
    with pytest.raises(ConfigError, match="at least 3 folds"):
        write(tmp_path / "data").fold(k, folds)


def test_a_subset_keeps_order_images_and_labels(tmp_path):
    train = write(tmp_path / "data", shard_rows=20).split("train")
    mask = np.array([name.endswith(("1", "4")) for name in train.object_id])
    few = train.where(mask)
    assert few.object_id.tolist() == train.object_id[mask].tolist()
    np.testing.assert_equal(few.label("T"), train.label("T")[mask])
    assert few.image(len(few) - 1) == picture(int(few.object_id[-1][1:]))
    assert len({few.digest, train.digest, train.where(~mask).digest}) == 3
    assert train.where(mask).digest == few.digest
    with pytest.raises(ValueError, match="a mask of"):
        train.where(mask[1:])


def test_pixels_are_decoded_once(tmp_path, monkeypatch):
    view = View(size=8)
    train = write(tmp_path / "data", shard_rows=20).split("train")
    done: list[int] = []

    pixels = train.pixels(view, tmp_path / "cache", on_rows=done.append)

    assert isinstance(pixels, np.memmap)
    assert pixels.dtype == np.uint8
    assert not pixels.flags.writeable
    for index, object_id in enumerate(train.object_id):
        np.testing.assert_array_equal(pixels[index], view.apply(decode(picture(int(object_id[1:])))))
    assert done[-1] == len(train)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]
    monkeypatch.setattr("galaxray.training.labelled_images.decode", None)  # is not called any more
    np.testing.assert_array_equal(train.pixels(view, tmp_path / "cache"), pixels)


def test_other_views_and_other_galaxies_have_pixels_of_their_own(tmp_path):
    shards = write(tmp_path / "data")
    sizes = [(shards.split(name), size) for name in ("train", "val") for size in (8, 10)]
    shapes = [part.pixels(View(size=size), tmp_path / "cache").shape for part, size in sizes]
    assert shapes == [(len(part), size, size, 3) for part, size in sizes]
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert shards.all.where(np.zeros(60, bool)).pixels(View(size=8), tmp_path / "cache").shape == (0, 8, 8, 3)


def test_an_image_that_cannot_be_decoded_leaves_no_half_made_pixels(tmp_path):
    bad = labelled(0, 3).set_column(1, "image", pa.array([picture(0), b"no image", picture(2)], pa.binary()))
    shards = write_shards(tmp_path / "data", [bad], val=0, test=0)
    with pytest.raises(RunError, match=r"image of g1: .* make the data set again"):
        shards.split("train").pixels(View(size=8), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_room_for_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ConfigError, match=r"decoded images take 0\.0 GB.*make room"):
        write(tmp_path / "data").split("train").pixels(View(size=8), tmp_path / "cache")


def test_labelled_images_travel_to_workers(tmp_path):
    train = write(tmp_path / "data").split("train")
    train.image(0)
    there = pickle.loads(pickle.dumps(train))
    assert there.object_id.tolist() == train.object_id.tolist()
    assert there.image(3) == train.image(3)
    assert there.digest == train.digest


def test_a_typo_in_a_label_or_split_names_the_nearest(tmp_path):
    shards = write(tmp_path / "data")
    with pytest.raises(ConfigError, match="no label column 'raduis'; did you mean 'radius'"):
        shards.all.label("raduis")
    with pytest.raises(ConfigError, match="there are: T, radius, class"):
        shards.all.label("nothing_alike")
    with pytest.raises(ConfigError, match="no split 'valid': train, val, test"):
        shards.split("valid")


def test_in_object_storage(s3_bucket, tmp_path):
    shards = write_shards(f"{s3_bucket}/data", tables(20))
    assert shards.num["train"] > 0
    train = open_shards(f"{s3_bucket}/data").split("train")
    assert train.image(2) == picture(int(train.object_id[2][1:]))
    assert train.pixels(View(size=8), tmp_path / "cache").shape == (len(train), 8, 8, 3)


def begin(folder: Path, pieces: range, **settings: object) -> ShardWriter:
    writer = ShardWriter(open_folder(str(folder)), LABELS, **settings)  # type: ignore[arg-type]
    for number in pieces:
        with writer.piece(number) as piece:
            piece.add(labelled(20 * number, 20 * number + 20))
    return writer


def test_an_interrupted_writer_goes_on(tmp_path):
    begin(tmp_path / "undisturbed", range(3)).finish(3, {})
    begin(tmp_path / "data", range(2))
    with pytest.raises(ConfigError, match="no finished data set"):
        open_shards(tmp_path / "data")

    writer = begin(tmp_path / "data", range(0))
    assert [writer.has(number) for number in range(3)] == [True, True, False]
    begin(tmp_path / "data", range(2, 3)).finish(3, {})

    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_a_failure_in_a_piece_leaves_nothing_of_it(tmp_path):
    writer = begin(tmp_path / "data", range(1))
    with pytest.raises(ConfigError, match="no column 'image'"), writer.piece(1) as piece:
        deque(map(piece.add, [labelled(20, 40), labelled(40, 60).drop_columns("image")]))
    assert not writer.has(1)
    assert {path.name for path in (tmp_path / "data").iterdir() if path.is_file()} <= {
        *("piece-00000.json", "train-00000.parquet", "val-00000.parquet", "test-00000.parquet")
    }


def test_shards_of_an_earlier_try_are_cleared_away(tmp_path):
    begin(tmp_path / "data", range(3), seed=5)
    begin(tmp_path / "data", range(1)).finish(1, {})
    names = [path.name for path in (tmp_path / "data").glob("*-*")]
    assert all("00000.parquet" in name for name in names), names


def test_a_folder_that_was_begun_with_other_settings(tmp_path):
    begin(tmp_path / "data", range(1))
    with pytest.raises(RunMismatchError, match=r"split\.seed was 0, is 1"):
        begin(tmp_path / "data", range(0), seed=1).has(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("image"), "no column 'image'"),
        (lambda table: table.append_column("more", pa.array([1] * 5)), "label column 'more' is not in all tables"),
        (lambda table: table.drop_columns("T"), "label column 'T' is not in all tables"),
        (lambda table: table.set_column(3, "T", pa.array([1.5] * 5)), "column 'T' holds what is no int64"),
        (lambda table: table.set_column(0, "object_id", pa.nulls(5, pa.string())), "5 rows without object_id"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        write_shards(tmp_path / "data", [labelled(0, 5), change(labelled(5, 10))])


def test_labels_that_are_neither_numbers_nor_text(tmp_path):
    with pytest.raises(ConfigError, match=r"label column 'list' holds list<.*>, neither numbers nor text"):
        write_shards(tmp_path / "data", [labelled(0, 2).append_column("list", pa.array([[1], [2]]))])


def test_nothing_to_write_and_something_in_the_way(tmp_path):
    with pytest.raises(ConfigError, match="no images to write"):
        write_shards(tmp_path / "data", [])
    write(tmp_path / "data")
    with pytest.raises(ConfigError, match="holds a data set"):
        write(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "was not written by galaxray"),
        ('{"format": "galaxray-dataset-9"}', "this version reads 'galaxray-dataset-1'"),
        ('{"format": "galaxray-dataset-1"}', "was not written by galaxray"),
        ("[]", "was not written by galaxray"),
    ],
)
def test_a_record_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_shards(tmp_path)


def test_a_shard_that_is_gone_or_damaged(tmp_path):
    shards = write(tmp_path / "data", shard_rows=20)
    path = tmp_path / "data" / "train-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(ConfigError, match=r"train-00001\.parquet is damaged"):
        open_shards(tmp_path / "data").split("train")
    path.unlink()
    with pytest.raises(ConfigError, match=r"train-00001\.parquet is gone"):
        _ = shards.all


def test_a_record_leads_to_no_other_file(tmp_path):
    write(tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    path.write_text(path.read_text().replace("train-00000.parquet", "train-00000.parquet/../../x.parquet"))
    with pytest.raises(ConfigError, match="was not written by galaxray"):
        open_shards(tmp_path / "data")
