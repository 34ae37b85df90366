"""What one sees of a run on a cluster: metrics at Ray's own endpoints, a log for machines, the status of its folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from faulty_service import FaultyService
from programs import end_of, read, start
from ray_cluster import ray_cluster

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = json.loads((ROOT / "configs/grafana/galaxray.json").read_text())
ROWS = 256

ENDPOINTS = """
import json, ray
ray.init(log_to_driver=False)
print(json.dumps([[node["NodeManagerAddress"], node["MetricsExportPort"]] for node in ray.nodes()]))
"""

Tags = frozenset[tuple[str, str]]


class Scraper:
    """Reads the endpoints of all nodes, and keeps the last value of every series."""

    def __init__(self, endpoints: list[list[object]]) -> None:
        self._endpoints = endpoints
        self.last: dict[str, dict[Tags, float]] = defaultdict(dict)

    def scrape(self) -> None:
        for host, port in self._endpoints:
            try:
                text = urlopen(f"http://{host}:{port}/metrics", timeout=10).read().decode()
            except (URLError, OSError):
                continue
            for name, tags, value in re.findall(r"^(ray_galaxray_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
                self.last[name][frozenset(re.findall(r'(\w+)="([^"]*)"', tags))] = float(value)

    def by(self, name: str, tag: str) -> dict[str, float]:
        """Sums of a metric by a tag."""
        sums: dict[str, float] = defaultdict(float)
        for tags, value in self.last[name].items():
            sums[dict(tags)[tag]] += value
        return dict(sums)


def write_catalog(path: Path) -> Path:
    lines = [f"g{row},{row * 0.01:.4f},{row * 0.002:.4f}" for row in range(ROWS)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return path


def status_of(output: Path) -> dict[str, object]:
    """What another terminal shows."""
    program = [sys.executable, "pipelines/status.py", str(output), "--json"]
    return json.loads(subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.timeout(600)
def test_every_metric_is_there_and_agrees_with_the_table(tmp_path):
    with FaultyService() as service, ray_cluster({"RAY_metrics_report_interval_ms": "1000"}) as cluster:
        service.behaviour = lambda ask: "code:404" if float(ask.query["ra"]) < 0.095 else "ok"
        environment = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
        found = subprocess.run([sys.executable, "-c", ENDPOINTS], capture_output=True, text=True, check=True)
        scraper = Scraper(json.loads(found.stdout.splitlines()[-1]))
        flags = ["--catalog", write_catalog(tmp_path / "c.csv"), "--output", tmp_path / "run", "--stages", "fetch"]
        flags += ["--cutouts.base_url", service.url, "--cutouts.size_pixels", "64", "--cutouts.requests_per_s", "15"]
        process = start(*flags, "--compute.rows_per_unit", "32", "--log", "json", **environment)
        until = time.monotonic() + 300
        looks: list[dict[str, object]] = []
        while process.poll() is None and time.monotonic() < until:
            scraper.scrape()
            if not looks and any((tmp_path / "run").glob("annotations/*.parquet")):
                looks.append(status_of(tmp_path / "run"))
            time.sleep(1)
        lines = [json.loads(line) for line in end_of(process).splitlines()]
        scraper.scrape()
        asked = len(service.asks)

    table = read(tmp_path / "run")
    host = service.url.removeprefix("http://")
    run_id = json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["start", "finish", "rate"]
    assert {line["run_id"] for line in lines} == {run_id}
    assert lines[-2]["by_status"] == {"ok": ROWS - 10, "not_covered": 10}
    assert looks[0]["run_id"] == run_id
    assert looks[0]["is_at_work"]
    assert 0 < looks[0]["rows_done"] < ROWS
    assert status_of(tmp_path / "run")["advice"] == "nothing: the run is finished"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["requests"], summary["retries"]) == ({"200": ROWS - 10, "404": 10}, 0)

    assert {dict(tags)["run_id"] for series in scraper.last.values() for tags in series} == {run_id}

    # Ray exports now and then: what the last second brought may be missing, but nothing may be invented.
    assert 0 < scraper.by("ray_galaxray_rows_done_total", "run_id")[run_id] <= ROWS
    assert 0 < scraper.by("ray_galaxray_units_written_total", "run_id")[run_id] <= ROWS / 32
    statuses = table["status"].value_counts().to_dict()
    for status, count in scraper.by("ray_galaxray_rows", "status").items():
        assert count <= statuses.get(status, 0), status
    assert scraper.by("ray_galaxray_rows", "status")["not_covered"] == statuses["not_covered"] == 10
    codes = scraper.by("ray_galaxray_requests_total", "code")
    assert set(codes) == {"200", "404"}
    assert codes["404"] == 10
    assert 100 < sum(codes.values()) <= asked
    assert set(scraper.by("ray_galaxray_requests_total", "host")) == {host}
    assert scraper.by("ray_galaxray_catalog_rows", "run_id") == {run_id: ROWS}
    assert scraper.by("ray_galaxray_limiter_cap", "host") == {host: 15}
    assert 0 < max(scraper.last["ray_galaxray_limiter_rate"].values()) <= 15
    assert scraper.by("ray_galaxray_bytes_total", "host")[host] > 0
    stages = scraper.by("ray_galaxray_stage_seconds_count", "stage")
    assert set(stages) == {"fetch", "decode", "write"}
    assert set(scraper.by("ray_galaxray_units_in_work", "stage")) >= {"fetch", "decode"}

    # And what the dashboard draws is there (but for what did not happen: retries).
    drawn = set(re.findall(r"ray_galaxray_\w+", json.dumps(GRAFANA)))
    assert drawn - set(scraper.last) <= {"ray_galaxray_retries_total"}
