"""The cluster that the program starts for itself is closed to others on the machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTRUDER = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="error")
print("inside:", ray.get(ray.remote(lambda: 1).remote()))
"""
OWNER = f"""
import json, os, subprocess, sys
from galaxray.config import ComputeConfig
from pipelines.cluster import connect

with connect(ComputeConfig(num_cpus=1)):
    import ray
    from ray._private.worker import _global_node as node

    outcomes = []
    for token in (None, "0" * 64, os.environ["RAY_AUTH_TOKEN"]):
        environment = {{name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}}
        environment["RAY_AUTH_MODE"] = "token" if token else "disabled"
        environment |= {{"RAY_AUTH_TOKEN": token}} if token else {{}}
        try:
            tried = subprocess.run([sys.executable, "-c", {INTRUDER!r}, node.gcs_address], env=environment,
                                   capture_output=True, text=True, timeout=90)
            outcomes.append(tried.stdout)
        except subprocess.TimeoutExpired:
            outcomes.append("no answer")
    folder = os.path.dirname(node.get_temp_dir_path())
    mode, dashboard = os.stat(folder).st_mode, node.webui_url or ""
    print(json.dumps({{"folder": folder, "mode": mode, "dashboard": dashboard, "outcomes": outcomes}}))
"""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_nobody_else_gets_in():
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", OWNER], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    without, wrong, right = found["outcomes"]
    assert "inside" not in without + wrong
    assert "inside: 1" in right, "the way in is shut for everybody: nothing is tested"
    assert stat.S_IMODE(found["mode"]) == 0o700
    assert found["dashboard"] == ""
    assert not Path(found["folder"]).exists(), "the folder is left behind"
