from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.cluster import ROOT, python_path
from pipelines.demo import CATALOG, clear


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_earlier_demo_is_replaced(tmp_path):
    demo = tmp_path / "a" / "demo"
    assert clear(demo)
    (demo / CATALOG).write_text("")
    (demo / "run").mkdir()
    assert clear(demo)
    assert contents(demo) == []


@pytest.mark.parametrize("names", [["galaxies.csv"], [CATALOG, "run", "thesis.tex"]])
def test_a_folder_with_other_files_is_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("")
    assert not clear(tmp_path)
    assert contents(tmp_path) == sorted(names)


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    assert not clear(tmp_path / "file")


def test_workers_keep_the_users_python_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/a", "/b"]))
    assert python_path() == os.pathsep.join([str(ROOT), "/a", "/b"])
    monkeypatch.setenv("PYTHONPATH", python_path())
    assert python_path() == os.pathsep.join([str(ROOT), "/a", "/b"])
    monkeypatch.delenv("PYTHONPATH")
    assert python_path() == str(ROOT)
