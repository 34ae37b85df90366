"""The 99 recorded SkyServer pictures, asked for over HTTP as the real service would be."""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cutout_batches import make_batch, quick_config
from skyserver_replay import make_server

from galaxray.cutouts import Fetcher

DATA = Path(os.environ.get("GALAXRAY_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
FOLDER = DATA / "e_recorded_responses" / "skyserver_getjpeg"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the recorded replies of the shared data")


@pytest.fixture(scope="module")
def skyserver() -> Iterator[str]:
    with make_server(FOLDER) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def index() -> list[dict[str, str]]:
    with (FOLDER / "index_dev.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_recorded_position_gives_its_own_picture(skyserver: str, index: list[dict[str, str]]) -> None:
    batch = make_batch([float(row["ra"]) for row in index])
    batch["dec_deg"] = np.array([float(row["dec"]) for row in index])
    with Fetcher(quick_config(skyserver, source="sdss", size_pixels=200, timeout_s=30)) as fetcher:
        found = fetcher.fetch(batch)
    assert found["error"].tolist() == [None] * 99
    assert [len(body) for body in found["image_bytes"]] == [int(row["bytes"]) for row in index]
    assert found["image_bytes"].tolist() == [(FOLDER / row["file"]).read_bytes() for row in index]


def test_a_position_outside_of_the_footprint(skyserver: str) -> None:
    with Fetcher(quick_config(skyserver, source="sdss", size_pixels=200, timeout_s=30)) as fetcher:
        found = fetcher.fetch(make_batch([200.0]))
    assert found["status"].tolist() == ["not_covered"]
    assert "outside the SDSS footprint" in found["error"][0]


def test_pictures_of_another_size_than_asked_for_are_refused(skyserver: str, index: list[dict[str, str]]) -> None:
    batch = make_batch([float(index[0]["ra"])])
    batch["dec_deg"] = np.array([float(index[0]["dec"])])
    with Fetcher(quick_config(skyserver, source="sdss", size_pixels=256, timeout_s=30)) as fetcher:
        found = fetcher.fetch(batch)
    assert found["status"].tolist() == ["corrupt"]
    assert found["error"].tolist() == ["200 x 200 pixels instead of 256 x 256 pixels"]
