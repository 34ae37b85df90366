"""Which column is what: flags, UCDs, names, and their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxray.catalog.columns import (
    ID_NAMES,
    PATH_NAMES,
    PIXEL_SCALE_NAMES,
    POSITION_NAMES,
    SIZE_NAMES,
    Columns,
    find_columns,
    plain,
)
from galaxray.catalog.table import Field
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError


def find(*fields: str | Field, coordinates: bool = True, path: bool = False, **config: str) -> Columns:
    return find_columns(
        "c.csv",
        [field if isinstance(field, Field) else Field(field) for field in fields],
        CatalogConfig.model_validate(config),
        need_coordinates=coordinates,
        need_path=path,
    )


def names(columns: Columns) -> list[str | None]:
    return [column and column.name for column in (columns.object_id, columns.ra, columns.dec)]


@pytest.mark.parametrize(
    "fields",
    [
        ["object_id", "ra", "dec"],
        ["OBJID", "RA", "DEC"],
        ["id_str", "ra_deg", "dec_deg"],
        ["dr7objid", "RAJ2000", "DEJ2000"],
        ["source_id", "ALPHA_J2000", "DELTA_J2000"],
        ["name", "objra", "objdec"],
        ["CATID", "RA (deg)", "Dec (deg)"],
        ["GALAXY", "Ra", "Decl"],
        ["iauname", "TARGET_RA", "TARGET_DEC"],
        ["subject_id", "RA_ICRS", "DE_ICRS"],
        ["ID", "raMean", "decMean"],
    ],
)
def test_common_names(fields: list[str]) -> None:
    assert names(find("z", "Unnamed: 0", *fields, "mag")) == fields


def test_identifiers_in_order_of_preference() -> None:
    order = ["object_id", "id_str", "objid", "iauname", "dr7objid", "source_id", "name", "subject_id", "id"]
    for position in range(len(order)):
        assert names(find("ra", "dec", *reversed(order[position:])))[0] == order[position]


def test_positions_are_found_as_a_pair() -> None:
    assert names(find("id", "ra", "RAJ2000", "DEJ2000")) == ["id", "RAJ2000", "DEJ2000"]
    assert names(find("id", "RA_IFU", "DEC_IFU", "ra", "dec")) == ["id", "ra", "dec"]


def test_main_ucd_beats_names_and_names_beat_other_ucds() -> None:
    main = [
        Field("designation", ucd="meta.id;meta.main"),
        Field("alpha", ucd="pos.eq.ra;meta.main"),
        Field("delta", ucd="POS.EQ.DEC;META.MAIN"),
    ]
    assert names(find("object_id", "ra", "dec", *main)) == ["designation", "alpha", "delta"]
    plain = [Field("key", ucd="meta.id"), Field("alpha", ucd="pos.eq.ra"), Field("delta", ucd="pos.eq.dec")]
    assert names(find("objid", "ra", "dec", *plain)) == ["objid", "ra", "dec"]
    assert names(find(*plain)) == ["key", "alpha", "delta"]
    old = [Field("n", ucd="ID_MAIN"), Field("a", ucd="POS_EQ_RA_MAIN"), Field("d", ucd="POS_EQ_DEC_MAIN")]
    assert names(find(*old)) == ["n", "a", "d"]


def test_ucd_of_several_columns_tells_nothing() -> None:
    assert find("ra", "dec", Field("a", ucd="meta.id"), Field("b", ucd="meta.id")).object_id is None


def test_flags_win() -> None:
    columns = find("id", "ra", "dec", "x", "y", "n", ra_column="x", dec_column="y", id_column="n")
    assert names(columns) == ["n", "x", "y"]
    assert columns.ra is not None
    assert columns.ra.found_by == "flag"
    assert names(find("RA", "DECL_2", dec_column="decl_2"))[1:] == ["RA", "DECL_2"]
    assert find("ra", "RA", "dec", ra_column="RA").ra.positions == (1,)


def test_junk_index_is_never_an_identifier() -> None:
    assert find("Unnamed: 0", "", "ra", "dec").object_id is None


def test_legacy_survey_objects_are_numbered_within_a_brick() -> None:
    columns = find("RELEASE", "BRICKID", "BRICKNAME", "OBJID", "RA", "DEC")
    assert columns.object_id is not None
    assert columns.object_id.positions == (1, 3)
    assert columns.object_id.name == "BRICKID_OBJID"
    assert names(find("BRICKID", "OBJID", "RA", "DEC", id_column="OBJID"))[0] == "OBJID"


def test_paths_are_looked_for_only_where_needed() -> None:
    assert find("ra", "dec", "file_loc").path is None
    for name in ("file_loc", "path", "filename", "image_path", "png_loc", "image", "file"):
        assert find("ra", "dec", name, path=True).path.name == name
    assert find("ra", "dec", "x", path_column="x").path is not None


def test_pixel_scale_and_size() -> None:
    columns = find("ra", "dec", "pixel_scale", "size_arcsec")
    assert columns.pixel_scale is not None
    assert columns.size is not None
    assert find("ra", "dec", "size").size is None  # in which unit?
    assert find("ra", "dec", "size", size_column="size").size is not None


def test_catalogue_without_positions() -> None:
    with pytest.raises(CatalogError, match="no column for right ascension"):
        find("id", "path", path=True)
    columns = find("id", "path", coordinates=False, path=True)
    assert columns.ra is None
    assert find("id", "ra", coordinates=False).ra is None
    with pytest.raises(CatalogError, match="no column for declination"):
        find("id", "ra", coordinates=False, ra_column="ra")


@pytest.mark.parametrize(
    ("fields", "config", "message"),
    [
        (
            ["id", "ra_from_name", "dec_from_name"],
            {},
            r"c\.csv: no column for right ascension; nearest: ra_from_name; name it with --columns\.ra_column; "
            r"columns found: id, ra_from_name, dec_from_name",
        ),
        (["id", "ra", "declinaton"], {}, r"no column for declination; nearest: declinaton; .*--columns\.dec_column"),
        (["id", "ra", "dec"], {"id_column": "objid"}, r"no column 'objid'; .*--columns\.id_column; columns found: id,"),
        (["ra", "dec", "iau_name"], {"id_column": "iauname"}, r"no column 'iauname'; nearest: iau_name"),
        (["ra", "dec"], {"pixel_scale_column": "scale"}, r"no column 'scale'; name it with --columns\.pixel_scale_col"),
        (["Ra", "rA", "dec"], {"ra_column": "RA"}, "2 columns are called 'RA'"),
    ],
)
def test_missing_columns_are_named(fields: list[str], config: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        find(*fields, **config)


def test_long_lists_of_columns_are_cut() -> None:
    with pytest.raises(CatalogError, match=r"c39 and 60 more$"):
        find(*(f"c{n}" for n in range(100)))


def test_every_name_is_in_the_manual() -> None:
    page = plain((Path(__file__).parents[2] / "docs" / "catalogues.md").read_text())
    positions = [name for pair in POSITION_NAMES for name in pair[:1]]
    for name in (*ID_NAMES, *positions, *PATH_NAMES, *PIXEL_SCALE_NAMES, *SIZE_NAMES):
        assert name in page


def test_path_that_is_needed() -> None:
    with pytest.raises(CatalogError, match="no column for the path of the image"):
        find("ra", "dec", path=True)
