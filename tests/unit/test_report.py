"""The report: what it shows, what it survives, and that nothing written by others comes alive in it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sample_run import base_batch, encode, write_records, write_sample_run, write_tables

from galaxray import posterior, synthetic
from galaxray.batches import text_array
from galaxray.report import plots, write_report
from galaxray.report import sample as report_sample
from galaxray.report.classes import group, questions_of
from galaxray.report.pictures import picture
from galaxray.report.sample import read_sample
from galaxray.schema import to_table
from galaxray.storage import LocalFolder
from galaxray.trees import load_tree

VOID = {"meta", "img", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag, **attributes):
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.tags)


def render(folder: Path) -> Page:
    address = write_report(folder)
    assert address == str(folder / "report.html")
    return Page(Path(address).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, write_sample_run(folder, num_rows=150, num_pictures=75)


@pytest.fixture(scope="module")
def page(finished) -> Page:
    return render(finished[0])


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(finished[0], tmp_path / "out")
    return tmp_path / "out"


def batch_of(finished, *wanted: str) -> dict[str, np.ndarray]:
    """The columns of the sample run without those of models, but for the ones wanted."""
    return {name: values for name, values in finished[1].items() if name in base_batch([]) or name in wanted}


def rewrite(tmp_path, batch, num_pictures=20, summary=True) -> Path:
    folder = tmp_path / "again"
    jpeg = encode(np.full((64, 64, 3), 90, np.uint8), "JPEG")
    pictures = [
        jpeg if row < num_pictures and batch["status"][row] == "ok" else None for row in range(len(batch["status"]))
    ]
    write_tables(folder, batch, pictures, 64)
    if summary:
        write_records(folder, batch)
    return folder


def test_a_whole_run(finished, page):
    for text in (
        "150 galaxies of nearby.fits",
        "Smooth, round",
        "Spiral, barred",
        "Disk, edge-on",
        "builtin:classifier",
    ):
        assert text in page.text
    for text in ("not covered", "404 from the service", "--retry-failed", "classify", "start-up", "pd.read_parquet"):
        assert text in page.text
    assert page.count("div", **{"class": "plot"}) == 4
    assert page.count("figure", **{"class": "card"}) > 20
    assert page.count("path", **{"class": "spiral"}) > 3
    assert page.count("path", **{"class": "bar"}) > 3
    assert page.count("i", **{"class": "interval"}) > 50
    assert (finished[0] / "report.html").stat().st_size < 10e6


def test_counts_are_those_of_the_table(finished, page):
    ok = int((finished[1]["status"] == "ok").sum())
    assert f"annotated: {ok}" in page.text
    assert re.search(rf"{150 - ok}\s*not annotated", page.text)


def test_one_file_that_asks_for_nothing(finished, page):
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "xlink:href") or (name == "href" and tag != "a"):
                assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
    assert "@import" not in (finished[0] / "report.html").read_text()
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_secrets_stay_out(finished, run, page):
    assert "me:secret" not in (finished[0] / "report.html").read_text()
    summary = json.loads((run / "summary.json").read_text())
    summary["errors"] = {"403 from https://b.s3.org/x?X-Amz-Signature=abcdef&size=1": 3}
    (run / "summary.json").write_text(json.dumps(summary))
    html = Path(write_report(run)).read_text()
    assert "abcdef" not in html
    assert "size=1" in html


def test_what_others_wrote_is_text(finished, tmp_path):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{'
    batch = batch_of(finished)
    n = len(batch["status"])
    batch |= {
        "object_id": text_array([evil] * n),
        "error": text_array([None if status == "ok" else evil for status in batch["status"]]),
        "image_url": text_array(["javascript:alert(1)"] * n),
        "label": text_array([evil] * n),
        "confidence": np.full(n, 0.5, np.float32),
        f"{evil}_probability": np.full(n, 0.5, np.float32),
    }
    batch["embedding"] = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    page = render(rewrite(tmp_path, batch))
    assert page.count("script") == 0
    assert page.text.count("<script>alert(1)</script>") > 10
    assert not [attributes for tag, attributes in page.tags if tag == "a" and "javascript" in attributes["href"]]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_classes(finished, tmp_path):
    batch = batch_of(finished)
    n = len(batch["status"])
    spiral = np.random.default_rng(0).random(n).astype(np.float32)
    labels = text_array(["spiral" if p > 0.5 else "elliptical" for p in spiral])
    batch |= {"label": labels, "confidence": np.maximum(spiral, 1 - spiral)}
    batch |= {"spiral_probability": spiral, "elliptical_probability": 1 - spiral}
    page = render(rewrite(tmp_path, batch))
    assert "confidence of the label" in page.text
    assert "elliptical" in page.text
    assert page.count("i", **{"class": "interval"}) == 0
    assert "QUESTION" not in page.text


def test_regression(finished, tmp_path):
    batch = batch_of(finished)
    batch["redshift"] = np.linspace(0, 0.3, len(batch["status"]), dtype=np.float32)
    page = render(rewrite(tmp_path, batch))
    assert page.text.count("redshift") > 5


def test_only_fetched(finished, tmp_path):
    batch = {
        name: values for name, values in batch_of(finished).items() if "width" not in name and "height" not in name
    }
    page = render(rewrite(tmp_path, batch, num_pictures=0))
    assert "Sky" in page.text
    assert page.count("figure") == 0


def test_no_row_is_ok(finished, tmp_path):
    batch = dict(finished[1])
    n = len(batch["status"])
    batch |= {"status": text_array(["unreachable"] * n), "error": text_array(["no answer"] * n)}
    page = render(rewrite(tmp_path, batch))
    assert "No row could be annotated" in page.text
    assert "no answer" in page.text


def test_no_position_is_good(finished, tmp_path):
    batch = batch_of(finished)
    n = len(batch["status"])
    batch |= {
        "ra_deg": np.full(n, np.nan),
        "dec_deg": np.full(n, np.nan),
        "status": text_array(["bad_coordinates"] * n),
    }
    batch["object_id"] = text_array([None] * n)
    assert "bad coordinates" in render(rewrite(tmp_path, batch)).text


def test_without_summary_and_run(finished, tmp_path):
    page = render(rewrite(tmp_path, dict(finished[1]), summary=False))
    assert "150 galaxies" in page.text
    assert "Time" not in page.text


def test_empty_folder(tmp_path):
    assert "0 galaxies" in render(tmp_path / "nothing").text


def test_table_without_rows(finished, tmp_path):
    none = {name: values[:0] for name, values in finished[1].items()}
    (tmp_path / "annotations").mkdir()
    pq.write_table(to_table(none), tmp_path / "annotations/unit-00000000.parquet")
    assert "0 galaxies" in render(tmp_path).text


def test_a_resumed_run_says_whose_times_they_are(run):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(
        json.dumps(summary | {"rows_done_now": 10, "rows_per_s": None, "startup_s": None})
    )
    assert "it did 10 of the rows" in render(run).text


def test_broken_picture_is_left_out(run):
    units = sorted((run / "thumbnails").iterdir())
    for unit in units:
        table = pq.read_table(unit)
        pq.write_table(table.set_column(1, "jpeg", [[b"<svg onload=alert(1)>"] * table.num_rows]), unit)
    assert render(run).count("figure") == 0


def test_sample_is_bounded(run, monkeypatch):
    for name, bound in {
        "MAX_UNITS": 2,
        "MAX_ROWS": 20,
        "MAX_EMBEDDINGS": 7,
        "MAX_PICTURES": 9,
        "MAX_FAILURES": 5,
    }.items():
        monkeypatch.setattr(report_sample, name, bound)
    sample = read_sample(LocalFolder(str(run)))
    assert not sample.complete
    assert len(sample.rows["status"]) <= 20
    assert sample.rows["row_index"].max() > 128  # the last unit is among those read
    assert len(sample.embedding) == len(sample.embedded) <= 7
    assert len(sample.pictures["jpeg"]) <= 9
    assert len(sample.failures["status"]) <= 5
    text = render(run).text
    assert "spread evenly over the 150" in text
    assert "150 galaxies" in text


def test_sample_keeps_rows_together(finished):
    folder, batch = finished
    sample = read_sample(LocalFolder(str(folder)))
    assert sample.complete
    np.testing.assert_array_equal(sample.rows["row_index"], np.arange(150))
    np.testing.assert_array_equal(sample.embedding, batch["embedding"][sample.embedded])
    ok = batch["status"] == "ok"
    np.testing.assert_array_equal(sample.embedded, np.flatnonzero(ok))
    np.testing.assert_array_equal(sample.failures["row_index"], np.flatnonzero(~ok))
    index = sample.pictures["row_index"]
    np.testing.assert_array_equal(sample.pictures["object_id"], batch["object_id"][index])
    galaxy = synthetic.catalog(150)[index[3]]
    assert sample.pictures["jpeg"][3] == encode(
        synthetic.image(galaxy.ra_deg, galaxy.dec_deg, 128, galaxy.size_arcsec / 128), "JPEG"
    )


def test_report_of_a_run_in_object_storage(finished, s3_bucket):
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.put(str(finished[0]), f"{s3_bucket}/run", recursive=True)
    assert write_report(f"{s3_bucket}/run") == f"{s3_bucket}/run/report.html"
    html = s3fs.S3FileSystem(skip_instance_cache=True).cat_file(f"{s3_bucket}/run/report.html").decode()
    assert "150 galaxies" in Page(html).text


def predictions(tree_name, **chosen):
    """Columns of one galaxy of whom the volunteers are sure: chosen answers by question, 0.9 of the votes each."""
    tree = load_tree(tree_name)
    alpha = np.ones((1, len(tree), 1))
    for stem, answer in chosen.items():
        question = tree.question(stem.replace("_", "-"))
        alpha[0, question.start + question.answers.index(answer)] = 9 * (len(question.answers) - 1)
    return posterior.columns(alpha, tree)


@pytest.mark.parametrize(
    ("tree", "chosen", "expected"),
    [
        ("gz_decals_5", {"smooth_or_featured": "smooth", "how_rounded": "round", "merging": "none"}, "Smooth, round"),
        ("gz_decals_5", {"smooth_or_featured": "artifact", "merging": "none"}, "Star or artifact"),
        (
            "gz_decals_5",
            {"smooth_or_featured": "smooth", "how_rounded": "round", "merging": "merger"},
            "Merger or major disturbance",
        ),
        ("gz2", {"smooth_or_featured": "featured-or-disk", "disk_edge_on": "yes"}, "Disk, edge-on"),
        (
            "gz2",
            {
                "smooth_or_featured": "featured-or-disk",
                "disk_edge_on": "no",
                "has_spiral_arms": "yes",
                "bar": "yes",
            },
            "Spiral, barred",
        ),
        ("gz_hubble", {"smooth_or_featured": "features", "clumpy_appearance": "yes"}, "Clumpy"),
        ("gz_jwst_cosmos", {"smooth_or_featured": "smooth", "merging": "none"}, "Smooth"),
        ("gz_rings", {"ring": "yes"}, "ring: yes"),
    ],
)
def test_classes_of_trees(tree, chosen, expected):
    rows = predictions(tree, **chosen)
    assert tuple(question.name for question in questions_of(rows)) == tuple(q.name for q in load_tree(tree).questions)
    grouping = group(rows)
    assert grouping.names[grouping.member[0]] == expected
    assert 0.4 < grouping.strength[0] <= 1


def test_contours_and_scale_bar_are_where_they_belong():
    mask = np.zeros((100, 100), np.uint8)
    mask[10:20, 40:60] = 255  # rows 10...20 of the central 1/2 of the cutout
    rows = {
        "object_id": text_array(["a"]),
        "jpeg": text_array([encode(np.zeros((80, 120, 3), np.uint8), "JPEG")]),
        "bar_mask": text_array([encode(mask, "PNG")]),
        "spiral_mask": text_array([None]),
        "pixel_scale_arcsec": np.array([0.25]),
        "image_width": np.array([480.0]),
    }
    drawn = picture(rows, 0, (), segmenter_zoom=2.0)
    assert (drawn.width, drawn.height, drawn.spiral) == (120, 80, "")
    x, y = np.array([pair.split(",") for pair in re.findall(r"[\d.]+,[\d.]+", drawn.bar)], float).T
    # the view shows 40 of the 80 px: x from 40 to 80, y from 20 to 60, 0.4 px for a pixel of the mask
    assert (x.min(), x.max()) == pytest.approx((56, 64), abs=0.3)
    assert (y.min(), y.max()) == pytest.approx((24, 28), abs=0.3)
    # 480 px of 0.25 arcsec are 120 px wide: 1 arcsec each; 30 arcsec is the longest bar within 40 %
    assert (drawn.scale_text, drawn.scale_length) == ("30″", 30)


def test_small_field_gets_a_closer_look():
    rng = np.random.default_rng(0)
    status = text_array(["ok", "throttled"] * 20)
    field = {"ra_deg": (359 + 2 * rng.random(40)) % 360, "dec_deg": 30 + rng.random(40), "status": status}
    whole = field | {"ra_deg": 360 * rng.random(40)}
    none = {name: values[:0] for name, values in field.items()}
    assert "RA [deg]" in plots.sky(field, none)
    assert "RA [deg]" not in plots.sky(whole, none)
    assert "throttled" in plots.sky(whole, none)
    assert plots.sky(none, none) is None
