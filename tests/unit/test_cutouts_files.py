"""Images from real files and a real S3 server."""

from __future__ import annotations

import gzip
import io
import os
import time
from pathlib import Path
from typing import Any

import faulty_service as images
import numpy as np
import pytest
from cutout_batches import make_batch, quick_config
from faulty_store import FaultyStore
from PIL import Image

from galaxray.batches import Batch
from galaxray.config import CutoutConfig
from galaxray.cutouts import Fetcher, FetchStats
from galaxray.errors import ConfigError
from galaxray.images import View
from galaxray.stages import Decode


def fetch(batch: Batch, **settings: Any) -> Batch:
    with Fetcher(quick_config(source="files", **settings)) as fetcher:
        return fetcher.fetch(batch)


def fetch_paths(*paths: str | None, **settings: Any) -> Batch:
    return fetch(make_batch([0.0] * len(paths), path=list(paths)), **settings)


def fetch_ids(template: str, *ids: str | None, **settings: Any) -> Batch:
    batch = make_batch([0.0] * len(ids))
    batch["object_id"] = np.array([*ids, None], dtype=object)[:-1]
    return fetch(batch, path_template=template, **settings)


def test_files_of_any_kind_and_size(tmp_path: Path) -> None:
    contents = {"a.jpg": images.jpeg(424), "b.jpg": images.png(20), "c": images.fits(30), "d.bmp": b"BM whatever it is"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    batch = fetch_paths(*(str(tmp_path / name) for name in contents))
    assert batch["status"].tolist() == ["ok"] * 4
    assert batch["image_bytes"].tolist() == list(contents.values())
    assert batch["image_url"].tolist() == [str(tmp_path / name) for name in contents]
    assert batch["attempts"].tolist() == [1] * 4


def test_what_files_can_do_wrong(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(images.jpeg(64)[:-400])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "bomb.png").write_bytes(images.png_bomb())
    (tmp_path / "large.jpg").write_bytes(images.jpeg(64) + bytes(2**16))
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to("link.jpg")
    cases = {
        "missing.jpg": ("not_covered", "no such file"),
        "cut.jpg": ("corrupt", "truncated JPEG"),
        "empty.jpg": ("blank", "0 bytes"),
        "bomb.png": ("corrupt", "60000 x 60000"),
        "large.jpg": ("corrupt", "max_bytes"),
        "fifo.jpg": ("corrupt", "not a regular file"),
        "link.jpg": ("not_covered", "no such file"),
        "cut.jpg/below": ("not_covered", "no such file"),
        "n" * 500: ("not_covered", "no such file"),
        "": ("corrupt", "not a regular file"),  # the folder itself
        "nul\0.jpg": ("not_covered", "no path"),
    }
    batch = fetch_paths(*(f"{tmp_path}/{name}" for name in cases), max_bytes=2**16)
    found = list(zip(batch["status"].tolist(), batch["error"].tolist(), strict=True))
    for (status, error), (name, (expected, word)) in zip(found, cases.items(), strict=True):
        assert (name, status) == (name, expected)
        assert word in error


def test_devices_are_not_read() -> None:
    assert fetch_paths("/dev/zero")["error"][0] == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read_may_be_mended(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(images.jpeg(64))
    (tmp_path / "a.jpg").chmod(0)
    assert fetch_paths(str(tmp_path / "a.jpg"))["status"][0] == "unreachable"


def test_rows_without_a_path_and_addresses_of_other_kinds() -> None:
    batch = fetch_paths(None, "", "http://127.0.0.1/a.jpg", "file:///etc/passwd")
    assert batch["status"].tolist() == ["not_covered"] * 4
    assert batch["error"][2] == "source files reads paths and s3://, not http://127.0.0.1/a.jpg"


def test_templates(tmp_path: Path) -> None:
    (tmp_path / "58").mkdir()
    (tmp_path / "58" / "587727178986356823.jpg").write_bytes(images.jpeg(64))
    batch = fetch_ids(f"{tmp_path}/{{object_id:.2}}/{{object_id}}.jpg", "587727178986356823", "1", None)
    assert batch["status"].tolist() == ["ok", "not_covered", "not_covered"]
    assert batch["error"][2] == "no object_id to fill path_template with"


def test_relative_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7.jpg").write_bytes(images.jpeg(64))
    monkeypatch.chdir(tmp_path)
    assert fetch_ids("{object_id}.jpg", "7", "../7")["status"].tolist() == ["ok", "not_covered"]


HOSTILE = ["../../secret", "../secret", "a/../../secret", "/etc/passwd", "..", "s3://bucket/secret", "x\0/../secret"]


@pytest.mark.parametrize("template", ["{root}/images/{object_id}", "{root}/images/x{object_id}", "{object_id}"])
@pytest.mark.parametrize("object_id", HOSTILE)
def test_no_id_leads_out_of_the_templates_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, object_id: str
) -> None:
    (tmp_path / "secret").write_bytes(images.jpeg(64))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x").mkdir()
    (tmp_path / "images" / "a").symlink_to("x")
    monkeypatch.chdir(tmp_path / "images")
    batch = fetch_ids(template.replace("{root}", str(tmp_path)), object_id)
    assert batch["status"][0] in ("not_covered", "corrupt")  # corrupt: the folder itself
    assert batch["image_bytes"][0] is None


def test_the_guard_lets_the_honest_neighbour_through(tmp_path: Path) -> None:
    for name in ("secret", "..secret", "a..b"):
        (tmp_path / name).write_bytes(images.jpeg(64))
    batch = fetch_ids(f"{tmp_path}/../{tmp_path.name}/{{object_id}}", "secret", "..secret", "a..b", "x/../secret")
    assert batch["status"].tolist() == ["ok", "ok", "ok", "not_covered"]


def test_many_files_at_a_time_are_counted(tmp_path: Path) -> None:
    for index in range(50):
        (tmp_path / f"g{index}.jpg").write_bytes(images.jpeg(64))
    with Fetcher(quick_config(source="files", path_template=f"{tmp_path}/{{object_id}}.jpg")) as fetcher:
        batch = fetcher.fetch(make_batch([0.0] * 51))
        stats = fetcher.stats()
    assert batch["status"].tolist() == ["ok"] * 50 + ["not_covered"]
    size = len(images.jpeg(64))
    assert stats == FetchStats(requests=51, bytes=50 * size, answers=stats.answers)
    assert stats.answers == {"read": 50, "failed": 1}


def test_a_catalogue_without_paths_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match=r"path.*path_template"):
        fetch(make_batch([0.0]))


def test_the_pixel_scale_follows_from_the_width_on_the_sky(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(images.jpeg(400))
    batch = make_batch([0.0] * 3, path=[str(tmp_path / "a.jpg")] * 3)
    batch["size_arcsec"] = np.array([100.0, np.nan, 100.0])
    batch["pixel_scale_arcsec"] = np.array([np.nan, np.nan, 0.5])
    assert fetch(batch, pixel_scale_arcsec=0.3)["pixel_scale_arcsec"].tolist() == [0.25, 0.3, 0.5]


def test_files_have_no_scale_that_nobody_gave(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(images.jpeg(400))
    paths = [str(tmp_path / "a.jpg")] * 2
    assert np.isnan(fetch_paths(*paths)["pixel_scale_arcsec"]).all()
    assert fetch_paths(*paths, pixel_scale_arcsec=0.3)["pixel_scale_arcsec"].tolist() == [0.3, 0.3]
    assert fetch_paths(*paths, fov_arcsec=100)["pixel_scale_arcsec"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "WEBP", "PNG", "FITS.gz"])
def test_the_real_width_of_any_file_makes_its_scale(tmp_path: Path, kind: str) -> None:
    content = io.BytesIO()
    if kind == "FITS.gz":
        content.write(gzip.compress(images.fits(100)))
    else:
        Image.open(io.BytesIO(images.jpeg(100))).save(content, kind)
    (tmp_path / "a").write_bytes(content.getvalue())
    batch = make_batch([0.0] * 3, path=[str(tmp_path / "a")] * 3)
    batch["size_arcsec"] = np.array([100.0, np.nan, 100.0])
    batch["pixel_scale_arcsec"] = np.array([np.nan, np.nan, 0.5])
    decoded = Decode([View(size=32)])(fetch(batch))
    assert decoded["status"].tolist() == ["ok"] * 3
    np.testing.assert_array_equal(decoded["pixel_scale_arcsec"], [1.0, np.nan, 0.5])


def test_a_template_that_a_row_cannot_fill_costs_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*args: object) -> None:
        raise OverflowError("a bug")

    monkeypatch.setattr("galaxray.cutouts.files.FileSource._is_inside", break_down)
    batch = fetch_ids(f"{tmp_path}/{{object_id}}", "a")
    assert (batch["status"][0], batch["attempts"][0]) == ("unreachable", 0)
    assert batch["error"][0] == "internal error: OverflowError: a bug"


def test_s3_without_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_bucket}/private.jpg", images.jpeg(64))
    filesystem.pipe_file(f"{s3_bucket}/public.jpg", images.jpeg(64), ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    batch = fetch_paths(f"{s3_bucket}/public.jpg", f"{s3_bucket}/private.jpg", "s3://a b/c.jpg")
    assert batch["status"].tolist() == ["ok", "unreachable", "not_covered"]
    assert batch["error"][1] == "permission denied (no AWS credentials were found)"


def test_s3(s3_bucket: str) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_bucket}/good.jpg", images.jpeg(64))
    filesystem.pipe_file(f"{s3_bucket}/empty.jpg", b"")
    filesystem.pipe_file(f"{s3_bucket}/large.jpg", images.jpeg(64) + bytes(2**16))
    names = ["good.jpg", "missing.jpg", "empty.jpg", "large.jpg"]
    batch = fetch_paths(*(f"{s3_bucket}/{name}" for name in names), "s3://no-such-bucket/a.jpg", max_bytes=2**16)
    assert batch["status"].tolist() == ["ok", "not_covered", "blank", "corrupt", "not_covered"]
    assert batch["image_bytes"][0] == images.jpeg(64)
    assert "max_bytes" in batch["error"][3]

    batch = fetch_ids(f"{s3_bucket}/{{object_id}}.jpg", "good", "../good", "s3://x/good")
    assert batch["status"].tolist() == ["ok", "not_covered", "not_covered"]


def test_s3_out_of_reach_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    batch = fetch_paths("s3://bucket/a.jpg", max_attempts=1)
    assert batch["status"][0] == "unreachable"


def test_s3_that_does_not_answer_starves_nobody(s3_bucket: str, s3_endpoint: str, monkeypatch, tmp_path: Path) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_bucket}/a.jpg", images.jpeg(64))
    (tmp_path / "a.jpg").write_bytes(images.jpeg(64))
    on_s3, on_disk = [f"{s3_bucket}/a.jpg"] * 200, [str(tmp_path / "a.jpg")] * 50
    with FaultyStore(s3_endpoint, lambda request: "hang") as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        settings = {"timeout_s": 0.5, "max_attempts": 2, "max_backoff_s": 0.5, "max_in_flight": 16}
        with Fetcher(CutoutConfig(source="files", **settings)) as fetcher:
            batch = fetcher.fetch(make_batch([0.0] * 250, path=on_s3 + on_disk))
            assert batch["status"].tolist() == ["unreachable"] * 200 + ["ok"] * 50
            asked = [error for error in batch["error"][:200] if not error.startswith("not asked: the service has not")]
            assert 16 <= len(asked) <= 100
            assert len(store.requests) <= 2 * len(asked)
            store.behaviour = lambda request: "ok"
            until = time.monotonic() + 30
            while fetcher.fetch(make_batch([0.0], path=on_s3[:1]))["status"][0] != "ok":  # when it is probed again
                assert time.monotonic() < until
                time.sleep(0.1)
            assert fetcher.fetch(make_batch([0.0] * 200, path=on_s3))["status"].tolist() == ["ok"] * 200


@pytest.mark.parametrize("fault", ["500", "503", "cut", "reset"])
def test_s3_is_asked_again(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(f"{s3_bucket}/a.jpg", images.jpeg(64))
    with FaultyStore(s3_endpoint, lambda request: fault if request.number == 1 else "ok") as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        assert fetch_paths(f"{s3_bucket}/a.jpg", max_attempts=2)["status"][0] == "ok"
        assert len(store.requests) == 2
        store.behaviour = lambda request: fault
        batch = fetch_paths(f"{s3_bucket}/a.jpg", max_attempts=2)
    assert batch["status"][0] == ("throttled" if fault == "503" else "unreachable")
    assert "internal error" not in batch["error"][0]
