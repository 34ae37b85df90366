"""The dashboard: JSON of Grafana's shape, and no metric in it that we do not export."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "configs/grafana/galaxray.json").read_text())
ENDINGS = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}


def exported() -> set[str]:
    """Names under which Prometheus sees what pipelines/metrics.py makes."""
    source = (ROOT / "pipelines/metrics.py").read_text()
    made = re.findall(r'(Counter|Gauge|Histogram)\(\s*"(\w+)"', source)
    assert len(made) > 10
    return {f"ray_{name}{ending}" for kind, name in made for ending in ENDINGS[kind]}


def expressions() -> list[str]:
    variables = [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]] + variables


def test_every_metric_that_is_drawn_is_one_that_we_export():
    drawn = {name for expression in expressions() for name in re.findall(r"\bray_\w+", expression)}
    assert drawn <= exported()
    unused = {name.removesuffix("_bucket") for name in exported() - drawn if not name.endswith(("_sum", "_count"))}
    assert unused == set()


def test_every_panel_asks_for_the_chosen_run_and_has_its_place():
    places = set()
    for panel in DASHBOARD["panels"]:
        assert {"id", "type", "title", "gridPos", "targets", "datasource", "fieldConfig"} <= panel.keys()
        place = panel["gridPos"]
        places |= {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count("ray_galaxray") == expression.count('run_id="$run"'), expression
            for opening, closing in ("()", "{}", "[]"):
                assert expression.count(opening) == expression.count(closing), expression
    panels = DASHBOARD["panels"]
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels), "panels overlap"
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {"title", "uid", "schemaVersion", "time", "refresh"} <= DASHBOARD.keys()


def test_every_metric_is_in_the_documentation():
    text = (ROOT / "docs/watching.md").read_text()
    for name in exported():
        if not name.endswith(("_sum", "_count")):
            assert name.removesuffix("_bucket") in text, name
