from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from galaxray.errors import ConfigError
from galaxray.storage import LocalFolder, S3Folder, open_folder


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    if request.param == "local":
        return open_folder(str(tmp_path / "run"))
    return open_folder(request.getfixturevalue("s3_bucket") + "/run")


def test_files_come_back_as_written(folder, tmp_path):
    assert not folder.exists("a/b.bin")
    assert folder.list("a") == []
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.bin")

    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two")
    local = tmp_path / "c.bin"
    local.write_bytes(b"three")
    folder.adopt(local, "a/c.bin")

    assert folder.exists("a/b.bin")
    assert folder.list("a") == ["b.bin", "c.bin"]
    assert folder.read("a/b.bin") == b"two"
    assert folder.read("a/c.bin") == b"three"
    assert not local.exists()
    with folder.open("a/c.bin") as file:
        file.seek(2)
        assert file.read() == b"ree"


def test_a_listing_of_several_pages_has_sizes_and_times(folder):
    assert list(folder.entries("a")) == []
    folder.write("a/below/c.bin", b"in a folder below")
    for number in range(3):
        folder.write(f"a/{number:04d}.bin", b"x" * number)
    if isinstance(folder, S3Folder):  # S3 gives a thousand names at a time
        call = folder._s3.call_s3
        folder._s3.call_s3 = lambda method, **where: call(method, **where, MaxKeys=2)
    found = sorted(folder.entries("a"))
    assert [(entry.name, entry.size) for entry in found] == [("0000.bin", 0), ("0001.bin", 1), ("0002.bin", 2)]
    assert all(abs(entry.modified - time.time()) < 60 for entry in found)
    assert folder.list("a") == ["0000.bin", "0001.bin", "0002.bin"]


def test_the_end_of_a_file_is_read_by_itself(folder):
    folder.write("a/b.bin", bytes(range(100)))
    assert folder.tail("a/b.bin", 3) == bytes([97, 98, 99])
    assert folder.tail("a/b.bin", 1000) == bytes(range(100))
    with pytest.raises(FileNotFoundError):
        folder.tail("a/c.bin", 3)


def test_a_local_file_appears_only_when_it_is_whole(tmp_path, monkeypatch):
    folder = LocalFolder(str(tmp_path))
    folder.write("annotations/u.parquet", b"old")
    seen = []

    def look_then_fail(_: int) -> None:
        seen.extend(path.read_bytes() for path in (tmp_path / "annotations").iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", look_then_fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write("annotations/u.parquet", b"new")
    assert seen == [b"old"]
    assert folder.read("annotations/u.parquet") == b"old"
    assert folder.list("annotations") == ["u.parquet"]
    folder.clean()
    assert not (tmp_path / ".staging").exists()


def test_addresses():
    assert isinstance(open_folder("out"), LocalFolder)
    assert open_folder("out").root == str(Path("out").absolute())
    with pytest.raises(ConfigError, match="names no bucket"):
        open_folder("s3://")
    with pytest.raises(ConfigError, match="not ftp://"):
        open_folder("ftp://host/x")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        open_folder(str(tmp_path / "f"))


def test_s3_type(s3_bucket):
    assert isinstance(open_folder(s3_bucket + "/x"), S3Folder)


def test_a_check_leaves_nothing_behind(folder, tmp_path):
    folder.check()
    assert not (tmp_path / "run").exists()
    assert folder.list("") == []


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for output in ("/proc/x/y", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=f"output {output} cannot be written to") as caught:
            open_folder(str(output)).check()
        assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_refused(s3_bucket):
    with pytest.raises(ConfigError, match="no such bucket"):
        open_folder("s3://no-such-bucket-of-galaxray/run").check()


def test_a_refusal_of_s3_is_not_an_absent_file(s3_bucket, monkeypatch):
    folder = open_folder(s3_bucket + "/run")

    def refuse(path: str) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(folder._s3, "info", refuse)
    with pytest.raises(PermissionError):
        folder.exists("run.json")
    with pytest.raises(ConfigError, match="Access Denied"):
        folder.check()


def test_only_what_is_old_enough_is_cleaned(tmp_path):
    staging = tmp_path / ".staging"
    staging.mkdir()
    for name in ("old", "young"):
        (staging / name).write_text("")
    os.utime(staging / "old", (time.time() - 7200,) * 2)
    LocalFolder(str(tmp_path)).clean(older_than_s=3600)
    assert [path.name for path in staging.iterdir()] == ["young"]


def test_a_clock_that_jumps_makes_nothing_old(tmp_path, monkeypatch):
    staging = tmp_path / ".staging"
    staging.mkdir()
    (staging / "young").write_text("")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    LocalFolder(str(tmp_path)).clean(older_than_s=3600)
    assert [path.name for path in staging.iterdir()] == ["young"]
    os.utime(staging / "young", (now - 7200,) * 2)
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    LocalFolder(str(tmp_path)).clean(older_than_s=3600)
    assert not staging.exists()
