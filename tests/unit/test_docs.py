"""What the documents promise is there: flags, recipes, make targets, files, columns."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from galaxray.dataset_settings import FetchSettings
from galaxray.schema import COLUMNS, Status
from galaxray.settings import AnnotateSettings, flag_names
from training.finetune import FinetuneProgram
from training.train_vae import TrainVAEProgram

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PROGRAMS = (
    "training/",
    "benchmarks/",
    "-m galaxray",
    "pipelines/demo.py",
    "pipelines/status.py",
    "pipelines/export_csv.py",
)
OTHER_PROGRAMS += ("ray start", "ray get-auth-token")
WITH_A_TEST_OF_THEIR_OWN = {"evaluation.md"}  # test_evaluate_program.py


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in WITH_A_TEST_OF_THEIR_OWN], ids=lambda path: path.name
)
def test_flags_of_the_program_exist(document):
    # A command may go on over lines that end in a backslash.
    text = document.read_text().replace("\\\n", " ")
    # What stands before the two dashes are flags of Ray.
    lines = [line.partition(" -- ")[2] if "ray job submit" in line else line for line in text.splitlines()]
    commands = [line for line in lines if not any(program in line for program in OTHER_PROGRAMS)]
    flags = {flag for line in commands for flag in re.findall(r"--([a-z][\w.-]*)", line)}
    programs = (AnnotateSettings, FetchSettings, FinetuneProgram, TrainVAEProgram)
    known = {*(name for program in programs for name in flag_names(program)), "working-dir", "help"}
    assert {flag.rstrip(".").replace("-", "_") for flag in flags} <= {name.replace("-", "_") for name in known}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_recipes_are_valid(recipe):
    settings = tomllib.loads(recipe.read_text())
    AnnotateSettings.model_validate({"catalog": "c.csv", "output": "out", **settings})
    assert recipe.read_text().startswith("# "), "the header says what to expect"


def test_no_two_commands_of_the_readme_share_a_folder():
    """The second would be refused; only a dry run and the run it is for go together."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if "--output " in line and "--dry-run" not in line]
    outputs = [re.findall(r"--output (\S+)", line)[0] for line in lines]
    assert len(outputs) == len(set(outputs)) > 3


def test_readme_tells_every_fixed_column_and_status():
    text = (ROOT / "README.md").read_text()
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []
    assert [status for status in Status if f"`{status.value}`" not in text] == []


def test_tests_that_stand_for_a_defence_exist():
    """A name that begins with ``::`` is of the file named last."""
    folder, known = ROOT / "tests" / "unit", {}
    named = re.findall(r"`((?:tests/\w+/)?test_\w+\.py)?(?:::(test_\w+))?`", (ROOT / "docs" / "threats.md").read_text())
    assert len(named) > 50
    file = ""
    for path, test in named:
        file = path or file
        content = known.setdefault(file, (ROOT / file if "/" in file else folder / file).read_text())
        assert not test or f"\ndef {test}(" in content, f"{file}::{test}"


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(commands) <= targets
