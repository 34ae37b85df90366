"""What ``ray job submit --working-dir .`` sends to a cluster, by Ray's own function."""

from __future__ import annotations

from pathlib import Path

from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

ROOT = Path(__file__).resolve().parents[2]
MADE = {"__pycache__", ".ruff_cache", ".mypy_cache"}


def test_what_runs_on_a_cluster_is_sent_there():
    excludes = get_excludes_from_ignore_files(ROOT, include_gitignore=True)

    def is_sent(path: Path) -> bool:
        return not any(exclude(path) for exclude in excludes)

    folders = [ROOT / name for name in ("galaxray", "pipelines", "training", "configs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not MADE & {*path.parts}]
    assert ROOT / "galaxray/trees/data/gz_decals_5.json" in files
    assert [str(path) for path in files if not is_sent(path)] == []
    assert not any(is_sent(ROOT / name) for name in ("data/x.csv", "docs/images/a.jpg", ".venv/x", "tests/unit/t.py"))
