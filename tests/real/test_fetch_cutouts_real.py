"""A data set of real pictures with the labels of experts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from galaxray.images import View
from galaxray.training.labels import LabelSpec, output_names, select, targets_for
from galaxray.training.shards import open_shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)
def test_efigi(tmp_path, real_data):
    table = pd.read_csv(real_data / "a1_efigi" / "labels_dev.csv").set_index("PGCname")
    flags = ["--catalog", real_data / "a1_efigi" / "labels_dev.csv", "--output", tmp_path / "efigi"]
    flags += ["--labels", "T,Bar_Length,Inclination", "--cutouts.source", "files"]
    command = [sys.executable, "pipelines/fetch_cutouts.py", *map(str, flags), "--compute.num_cpus", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1,800 of 1,800 galaxies are in the data set" in done.stderr

    shards = open_shards(tmp_path / "efigi")
    images = shards.all
    assert shards.label_columns == {"T": "int64", "Bar_Length": "float64", "Inclination": "float64"}
    assert sorted(images.object_id) == sorted(table.index)
    np.testing.assert_array_equal(images.label("T"), table.loc[images.object_id, "T"])
    np.testing.assert_array_equal(images.label("Bar_Length"), table.loc[images.object_id, "Bar_Length"])
    row = table.loc[images.object_id[17]]
    assert images.image(17) == (real_data / "a1_efigi" / row["image"]).read_bytes()

    spec = LabelSpec(rules={"barred": "Bar_Length >= 0.5", "plain": "Bar_Length == 0"})
    disks = select(images, "0 <= T <= 8")
    index = targets_for("classes", disks, spec)
    assert output_names("classes", disks, spec) == ("barred", "plain")
    of_table = table.loc[disks.object_id, "Bar_Length"]
    assert np.bincount(index[index >= 0]).tolist() == [(of_table >= 0.5).sum(), (of_table == 0).sum()]
    test = disks.where(index >= 0)
    assert test.pixels(View(size=64), tmp_path / "cache").shape == (len(test), 64, 64, 3)
