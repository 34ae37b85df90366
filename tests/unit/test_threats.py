"""Defences that belong to no single part of the library; ``docs/threats.md`` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from yarl import URL

from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.cutouts.replies import TryError, follow
from galaxray.plan import plan_run
from galaxray.runs import Run

SIGNED = "https://bucket.example/cat.csv?X-Amz-Credential=AKIA1&X-Amz-Date={}&X-Amz-Signature={}"


def plan(folder: Path, address: str) -> Run:
    """Plan a run of a local copy of a catalogue, whose configuration has the address that it came from."""
    catalog = folder / "cat.csv"
    catalog.write_text("id,ra,dec\na,1,2\n")
    config = RunConfig(catalog=address, output=str(folder / "run"))
    return plan_run(config, open_catalog(str(catalog)), {}, versions={})


def test_no_record_of_a_run_holds_a_signature(tmp_path: Path) -> None:
    run = plan(tmp_path, SIGNED.format("20261121", "f00ba4"))
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"f00ba4" not in file.read_bytes(), file
    assert run.record["catalog"]["uri"].startswith("https://bucket.example/cat.csv?X-Amz-Credential=…")


def test_a_run_goes_on_when_its_catalogue_is_signed_anew(tmp_path: Path) -> None:
    before = plan(tmp_path, SIGNED.format("20261121", "f00ba4"))
    assert plan(tmp_path, SIGNED.format("20261122", "c0ffee")).run_id == before.run_id


@pytest.mark.parametrize("location", ["//host:99999999999999999999/", "//host:1e999/", "http://[::1/"])
def test_redirects_to_what_is_no_address(location: str) -> None:
    with pytest.raises(TryError, match="redirected"):
        follow(URL("https://service.example/cutout"), location)
