"""Real pictures through the whole program."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from skyserver_replay import make_server

ROOT = Path(__file__).resolve().parents[2]


def annotate(output: Path, *flags: object) -> pd.DataFrame:
    command = [sys.executable, "pipelines/annotate_catalog.py", "--output", str(output), *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (output / "report.html").is_file()
    return pd.read_parquet(output / "annotations").sort_values("row_index", ignore_index=True)


@pytest.mark.timeout(300)
def test_recorded_skyserver_pictures_over_http(tmp_path, real_data):
    folder = real_data / "e_recorded_responses" / "skyserver_getjpeg"
    positions = pd.read_csv(folder / "index_dev.csv")
    server = make_server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        flags = ["--cutouts.source", "sdss", "--cutouts.base_url", f"http://127.0.0.1:{server.server_port}"]
        flags += ["--cutouts.size_pixels", 200, "--cutouts.requests_per_s", "none"]
        table = annotate(tmp_path / "run", "--catalog", folder / "index_dev.csv", *flags)
    finally:
        server.shutdown()
        server.server_close()
    assert len(table) == len(positions) == 99
    assert (table["status"] == "ok").all()
    assert (table["image_width"] == 200).all()
    assert table["embedding"].notna().all()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("folder", "identifier", "path", "rows", "width"),
    [
        ("a2_sdss_gz1", "OBJID", "image", 253, 423),  # 18 digits, never through a float
        ("a3_gzdecals_rings", "id_str", "image_jpg256", 150, 256),
    ],
)
def test_pictures_of_a_folder(tmp_path, real_data, folder, identifier, path, rows, width):
    labels = real_data / folder / "labels_dev.csv"
    table = annotate(tmp_path / "run", "--catalog", labels, "--cutouts.source", "files", "--columns.path_column", path)
    assert table["object_id"].tolist() == pd.read_csv(labels, dtype=str)[identifier].tolist()
    assert len(table) == rows
    assert (table["status"] == "ok").all()
    assert (table["image_width"] == width).all()
    assert table["pixel_scale_arcsec"].isna().all()  # nobody said
    assert table["embedding"].notna().all()
