from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cutout_batches import make_batch, quick_config
from faulty_service import FaultyService, jpeg

from galaxray.batches import Batch
from galaxray.cutouts import Fetcher
from galaxray.errors import ConfigError


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


def fetch(service: FaultyService, folder: Path, ra: list[float], **settings: object) -> tuple[Batch, int]:
    with Fetcher(quick_config(service.url, cache=str(folder), **settings)) as fetcher:
        return fetcher.fetch(make_batch(ra)), fetcher.stats().cached


def stored(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{kind}/*/*"))


def test_a_second_run_asks_nobody(service: FaultyService, tmp_path: Path) -> None:
    first, _ = fetch(service, tmp_path, [1.0, 2.0])
    second, cached = fetch(service, tmp_path, [1.0, 2.0])
    assert (len(service.asks), cached) == (2, 2)
    assert second["image_bytes"].tolist() == first["image_bytes"].tolist()
    assert second["image_sha256"].tolist() == first["image_sha256"].tolist()
    assert (second["attempts"].tolist(), second["status"].tolist()) == ([0, 0], ["ok", "ok"])
    assert [path.name for path in stored(tmp_path, "objects")] == sorted(first["image_sha256"])


def test_another_request_is_another_answer(service: FaultyService, tmp_path: Path) -> None:
    fetch(service, tmp_path, [1.0])
    fetch(service, tmp_path, [1.0], layer="ls-dr9")
    assert len(service.asks) == 2


def test_equal_images_are_kept_once(service: FaultyService, tmp_path: Path) -> None:
    service.behaviour = lambda ask: "png"
    fetch(service, tmp_path, [1.0, 2.0, 3.0])
    assert (len(stored(tmp_path, "objects")), len(stored(tmp_path, "requests"))) == (1, 3)


@pytest.mark.parametrize("behaviour", ["code:404", "code:500", "429", "html", "empty", "cut-length", "wrong-size"])
def test_only_good_answers_are_kept(service: FaultyService, tmp_path: Path, behaviour: str) -> None:
    service.behaviour = lambda ask: behaviour
    fetch(service, tmp_path, [1.0])
    assert stored(tmp_path, "*") == []
    service.behaviour = lambda ask: "ok"
    assert fetch(service, tmp_path, [1.0])[0]["status"][0] == "ok"


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8\xff", b"something else", jpeg(64)])
@pytest.mark.parametrize("kind", ["objects", "requests"])
def test_a_damaged_folder_is_noticed_and_mended(
    service: FaultyService, tmp_path: Path, kind: str, damage: bytes
) -> None:
    first, _ = fetch(service, tmp_path, [1.0])
    stored(tmp_path, kind)[0].write_bytes(damage)
    second, cached = fetch(service, tmp_path, [1.0])
    assert (cached, second["image_bytes"][0]) == (0, first["image_bytes"][0])
    assert fetch(service, tmp_path, [1.0])[1] == 1


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/dev/zero", "/dev/stdin", "", "\0"])
def test_a_request_cannot_be_pointed_at_another_file(service: FaultyService, tmp_path: Path, name: str) -> None:
    fetch(service, tmp_path, [1.0])
    stored(tmp_path, "requests")[0].write_text(name)
    batch, cached = fetch(service, tmp_path, [1.0])
    assert (cached, batch["status"][0]) == (0, "ok")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["objects", "requests"])
def test_what_is_no_regular_file_is_passed_over(service: FaultyService, tmp_path: Path, kind: str) -> None:
    fetch(service, tmp_path, [1.0])
    path = stored(tmp_path, kind)[0]
    for make in (os.mkfifo, os.mkdir, lambda place: place.symlink_to("/dev/zero")):
        path.unlink() if not path.is_dir() else path.rmdir()
        make(path)
        batch, cached = fetch(service, tmp_path, [1.0])
        assert (cached, batch["status"][0]) == (0, "ok")


def test_what_today_would_be_refused_is_not_taken_from_yesterday(service: FaultyService, tmp_path: Path) -> None:
    fetch(service, tmp_path, [1.0])
    request = stored(tmp_path, "requests")[0]
    page = b"<html>"
    name = hashlib.sha256(page).hexdigest()
    (tmp_path / "objects" / name[:2]).mkdir(exist_ok=True)
    (tmp_path / "objects" / name[:2] / name).write_bytes(page)
    request.write_text(name)
    assert fetch(service, tmp_path, [1.0])[0]["image_bytes"][0].startswith(b"\xff\xd8")


def test_fetchers_that_share_a_folder_leave_no_scraps(service: FaultyService, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(service, tmp_path, [1.0, 2.0, 3.0] * 5)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in stored(tmp_path, "objects"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert (len(stored(tmp_path, "objects")), len(stored(tmp_path, "requests"))) == (3, 3)


@pytest.mark.parametrize("place", ["a-file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_fails_no_row(
    service: FaultyService, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a-file").touch()
    batch, _ = fetch(service, tmp_path / place, [1.0, 2.0])
    assert batch["status"].tolist() == ["ok", "ok"]
    assert "cannot be written" in caplog.text


def test_a_cache_in_s3_is_refused(service: FaultyService) -> None:
    with pytest.raises(ConfigError, match="local folder"):
        Fetcher(quick_config(service.url, cache="s3://bucket/cache"))
