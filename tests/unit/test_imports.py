"""What may import what; the direction between modules is checked by import-linter (see pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_library_is_light_to_import():
    assert not {"ray", "torch", "timm", "zoobot"} & modules_after("import galaxray")


def test_planning_and_stages_need_neither_ray_nor_torch():
    loaded = modules_after("import galaxray.stages, galaxray.plan, galaxray.settings, galaxray.modelset")
    assert not {"ray", "torch", "timm", "zoobot"} & loaded


def test_the_direction_of_imports():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
