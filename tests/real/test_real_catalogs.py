"""Every real catalogue loads, or is refused with the right message."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table

from galaxray.catalog import Catalog, open_catalog
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError


@dataclass(frozen=True)
class Loads:
    """A catalogue that loads: its rows, its first row, and which columns were taken."""

    path: str
    rows: int
    first: tuple[str, float, float]
    columns: str
    bad: int = 0
    needs: dict[str, bool] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A file that is no catalogue, or lacks a column: what the message says."""

    path: str
    says: str


SITE = "d_catalogs/galaxyzoo_site"
ROWS = "d_catalogs/notebook_rows"
REPLIES = "e_recorded_responses"
NAN = float("nan")

LOADS = [
    Loads(f"{SITE}/bars/hoyle_barlengths.csv", 3150, ("587722981747982465", 198.05199, -1.0951362), "objid ra dec"),
    Loads(
        f"{SITE}/galaxy-builder/galaxy-builder-catalog.csv",
        296,
        ("587741421632356667", 118.684814, 14.607033),
        "dr7objid ra dec",
    ),
    Loads(
        "d_catalogs/gz_decals/panoptes_dev_1500rows.csv",
        1500,
        ("20686062", 200.50069072607045, 0.8672311400435491),
        "id_str ra dec",
    ),
    Loads(
        "d_catalogs/legacysurvey_tractor_sweep/sweep-310m005-320p000.fits",
        6,
        ("312906_0", 314.64677697272776, -3.372793295753713),
        "BRICKID_OBJID RA DEC",
    ),
    Loads(
        "d_catalogs/legacysurvey_tractor_sweep/tractor-3301m002.fits",
        6,
        ("330248_0", 330.2229158449117, -0.37551092503685995),
        "BRICKID_OBJID RA DEC",
    ),
    Loads(
        "d_catalogs/manga/manga_bars_dataset.csv",
        10126,
        ("manga-10001-12701", 133.371090612, 57.5984251446),
        "name objra objdec",
    ),
    Loads(f"{ROWS}/gz1_table2.csv", 10, ("587727178986356823", 0.00170833, -10.37380556), "OBJID RA DEC"),
    Loads(f"{ROWS}/gz2_hart16.csv", 10, ("587732591714893851", 179.042984, 60.522518), "dr7objid ra dec"),
    Loads(f"{ROWS}/gz2_modern_labels.csv", 10, ("587732591714893851", 179.042984, 60.522518), "dr7objid ra dec"),
    Loads(f"{ROWS}/gz3d_manga_targets.csv", 10, ("J075832.13+523552.8", 119.63381, 52.597965), "iauname ra dec"),
    Loads(f"{ROWS}/gz_candels.csv", 10, ("UDS_14439", 34.481978, -5.195885), "id_str ra dec"),
    Loads(f"{ROWS}/sami.csv", 10, ("92683", 217.20616405, 0.62545319), "CATID ra dec"),
    Loads(
        "d_catalogs/sga/SGA2020-missing-galaxies.ecsv",
        264,
        ("GALEXASC J010318.95-044018.0", 15.8297, -4.671559),
        "GALAXY RA DEC",
    ),
    Loads(
        "d_catalogs/sga/SGA2025-vi-properties.csv",
        1167,
        ("ESO 194-IG 035 NED01", 11.291583333333332, -50.04022222222222),
        "objname_ned ra dec",
        bad=722,
    ),
    # Catalogues without positions, for images in files
    Loads(
        f"{ROWS}/gz_decals_concentrations.csv",
        10,
        ("J223253.27-005423.9", NAN, NAN),
        "iauname file_loc",
        needs={"need_coordinates": False, "need_path": True},
    ),
    Loads(f"{ROWS}/gz_desi.csv", 10, ("387274_3520", NAN, NAN), "id_str", needs={"need_coordinates": False}),
    Loads(f"{ROWS}/gz_jwst.csv", 10, ("10000", NAN, NAN), "id_str", needs={"need_coordinates": False}),
    Loads(
        f"{ROWS}/zoobot_desi_predictions.csv",
        10,
        ("388972_4019", NAN, NAN),
        "id_str",
        needs={"need_coordinates": False},
    ),
    Loads(
        f"{ROWS}/zoobot_sga2020_predictions.csv", 10, ("801539", NAN, NAN), "sga_id", needs={"need_coordinates": False}
    ),
    Loads(
        "a1_efigi/labels_dev.csv",
        1800,
        ("PGC0000218", NAN, NAN),
        "PGCname image",
        needs={"need_coordinates": False, "need_path": True},
    ),
    Loads(
        "a2_sdss_gz1/labels_dev.csv",
        253,
        ("587722982822510803", NAN, NAN),
        "OBJID ra dec image",
        needs={"need_coordinates": False, "need_path": True},
    ),
    Loads(
        "a3_gzdecals_rings/labels_dev.csv",
        150,
        ("J000411.19+020924.0", 1.046625, 2.156667),
        "id_str ra_from_name dec_from_name image_jpg256",
        needs={"need_path": True},
        config={"ra_column": "ra_from_name", "dec_column": "dec_from_name", "path_column": "image_jpg256"},
    ),
    Loads(
        "a4_galaxy10_decals/labels_dev.csv",
        50,
        ("row-0", NAN, NAN),
        "image",
        needs={"need_coordinates": False, "need_path": True},
    ),
    # Tables in other places
    Loads(
        "c2_legacysurvey_brick_fpack/survey-bricks.fits.gz", 1, ("0959p805", 95.9504132231405, 80.5), "BRICKNAME RA DEC"
    ),
    Loads(
        "c2_legacysurvey_brick_fpack/survey-bricks-dr6.fits.gz",
        1,
        ("0959p805", 95.9504132231405, 80.5),
        "brickname ra dec",
    ),
    Loads(f"{REPLIES}/skyserver_getjpeg/index_dev.csv", 99, ("row-0", 37.0679866263, 0.9913201952693), "ra dec"),
    Loads(f"{REPLIES}/astroquery/esa_jwst__simbad_M1.vot", 1, ("M   1", 83.6287, 22.0147), "main_id ra dec"),
    Loads(
        f"{REPLIES}/astroquery/ipac_ned__query_object.xml",
        1,
        ("MESSIER 001", 83.63321, 22.01446),
        "Object Name RA(deg) DEC(deg)",
    ),
    Loads(
        f"{REPLIES}/astroquery/sdss__xid_im.txt",
        18,
        ("1237653651835781245", 2.02344282607, 14.8398204075),
        "objid ra dec",
    ),
    Loads(f"{REPLIES}/pyvo/tap/obscore-image.xml", 10, ("row-0", 3.50857212362378, 32.5520448642212), "s_ra s_dec"),
]

NO_RA = "no column for right ascension"
REFUSED = [
    Refused(f"{SITE}/gz2/gz2_hart16.txt", "line 1, taken for the header, has 2 columns and line 2 has 1"),
    Refused(f"{ROWS}/SOURCES.csv", f"{NO_RA}; name it with --columns.ra_column; columns found: table, repo,"),
    Refused(f"{ROWS}/gz_decals_concentrations.csv", NO_RA),
    Refused(f"{ROWS}/gz_desi.csv", NO_RA),
    Refused(f"{ROWS}/gz_jwst.csv", NO_RA),
    Refused(f"{ROWS}/zoobot_desi_predictions.csv", NO_RA),
    Refused(f"{ROWS}/zoobot_sga2020_predictions.csv", NO_RA),
    Refused("a3_gzdecals_rings/labels_dev.csv", f"{NO_RA}; nearest: ra_from_name, panoptes_ra"),
    Refused("c1_legacysurvey_cutout_service/example_a.fits", "no table in this FITS file: 0 PRIMARY image 3x424x424"),
    Refused("c1_legacysurvey_cutout_service/example_a.jpeg", "no catalogue but a PNG image"),
    Refused("c1_legacysurvey_cutout_service/example_incomplete.fits", "no table in this FITS file"),
    Refused("c2_legacysurvey_brick_fpack/legacysurvey-0959p805-image-z.fits.fz", "0 PRIMARY empty, 1 image 3600x3600"),
    Refused("c3_hst_hsc_jwst/galsim_hst_stamps/test_catalog.fits", f"{NO_RA}; name it with"),
    Refused("c3_hst_hsc_jwst/galsim_hst_stamps/test_images.fits", "3 image 30x30"),
    Refused("c4_sdss_misc_fits/FRB180924_DESr.fits", "no table in this FITS file: 0 SCI image 228x229"),
    Refused("c4_sdss_misc_fits/frame-r-001000-1-0100.fits.bz2", f"{NO_RA}; name it with --columns.ra_column; "),
    Refused(f"{REPLIES}/astroquery/esa_jwst__simbad_TEST.vot", "a table with 9 columns but no rows"),
    Refused(f"{REPLIES}/astroquery/ipac_ned__error.xml", "the service that wrote it says: No note found."),
    Refused(f"{REPLIES}/astroquery/mast__panstarrs.json", "no catalogue but JSON"),
    Refused(f"{REPLIES}/astroquery/sdss__emptyfile.fits", "no table in this FITS file: 0 PRIMARY empty"),
    Refused(f"{REPLIES}/astroquery/simbad__simbad_basic_columns.xml", NO_RA),
    Refused(f"{REPLIES}/astroquery/ukidss__error.html", "no catalogue but an HTML page"),
    Refused(f"{REPLIES}/pyvo/tap/capabilities.xml", "no catalogue but XML other than VOTable"),
    Refused(f"{REPLIES}/simbad_legacy_script/m1.data", "begin the lines of a preamble with #"),
    Refused("d_catalogs", "a folder without Parquet files"),
]


def read(catalog: Catalog) -> dict[str, list[Any]]:
    return pa.Table.from_batches(catalog.slices(rows=1000)).to_pydict()


@pytest.mark.parametrize("case", LOADS, ids=lambda case: case.path)
def test_catalogue_loads(case: Loads, real_data: Path) -> None:
    catalog = open_catalog(str(real_data / case.path), CatalogConfig(**case.config), **case.needs)
    rows = read(catalog)
    assert len(rows["row_index"]) == case.rows
    assert catalog.num_rows in (None, case.rows)
    assert rows["object_id"][0] == case.first[0]
    np.testing.assert_allclose([rows["ra_deg"][0], rows["dec_deg"][0]], case.first[1:], atol=5e-9)
    found = (catalog.columns.object_id, catalog.columns.ra, catalog.columns.dec, catalog.columns.path)
    assert " ".join(column.name for column in found if column) == case.columns
    assert sum(status != "ok" for status in rows["status"]) == case.bad
    assert all((status == "ok") == (error is None) for status, error in zip(rows["status"], rows["error"], strict=True))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.path)
def test_file_is_refused(case: Refused, real_data: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        read(open_catalog(str(real_data / case.path)))
    assert case.says in str(caught.value)
    assert case.path in str(caught.value)


def test_no_catalogue_is_left_out(real_data: Path) -> None:
    listed = {case.path for case in [*LOADS, *REFUSED]}
    files = {str(path.relative_to(real_data)) for path in (real_data / "d_catalogs").rglob("*") if path.is_file()}
    trees = {name for name in files if name.startswith(f"{SITE}/gz_trees/")}
    for name in trees:
        json.loads((real_data / name).read_text())
        with pytest.raises(CatalogError, match="no catalogue but JSON"):
            open_catalog(str(real_data / name))
    assert files - trees <= listed


def test_galaxy_zoo_1_equals_astropy(real_data: Path) -> None:
    path = real_data / f"{ROWS}/gz1_table2.csv"
    rows = read(open_catalog(str(path)))
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    from astropy.coordinates import SkyCoord

    sky = SkyCoord([row["RA"] for row in table], [row["DEC"] for row in table], unit=("hourangle", "deg"))
    np.testing.assert_allclose(rows["ra_deg"], sky.ra.deg, rtol=4e-16)
    np.testing.assert_allclose(rows["dec_deg"], sky.dec.deg, rtol=4e-16)
    assert rows["object_id"] == [row["OBJID"] for row in table]


def test_tractor_equals_astropy(real_data: Path) -> None:
    for name in ("sweep-310m005-320p000.fits", "tractor-3301m002.fits"):
        path = real_data / "d_catalogs/legacysurvey_tractor_sweep" / name
        rows = read(open_catalog(str(path), CatalogConfig(id_column="REF_ID")))
        table = fits.getdata(path, 1)
        assert rows["ra_deg"] == table["RA"].tolist()
        assert rows["dec_deg"] == table["DEC"].tolist()
        assert rows["object_id"] == [str(value) for value in table["REF_ID"].tolist()]


def test_ecsv_equals_astropy(real_data: Path) -> None:
    path = real_data / "d_catalogs/sga/SGA2020-missing-galaxies.ecsv"
    table = Table.read(path)
    rows = read(open_catalog(str(path), CatalogConfig(size_column="DIAM")))
    assert rows["object_id"] == table["GALAXY"].tolist()
    assert rows["ra_deg"] == table["RA"].tolist()
    np.testing.assert_allclose(rows["size_arcsec"], np.asarray(table["DIAM"]) * 60, rtol=1e-6)


def test_hidden_sentinels(real_data: Path) -> None:
    """A position of -99 means "do not update" in this table."""
    rows = read(open_catalog(str(real_data / "d_catalogs/sga/SGA2025-vi-properties.csv")))
    errors = {error for error in rows["error"] if error}
    assert errors == {"ra is missing ('-99.'); dec is missing ('-99.')"}
