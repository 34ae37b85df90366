from __future__ import annotations

import pytest

from galaxray.config import RunConfig
from galaxray.errors import ConfigError
from galaxray.settings import read_settings

NEEDED = ["--catalog", "a.csv", "--output", "out"]


def test_defaults():
    settings = read_settings(NEEDED)
    assert settings.run_config() == RunConfig(catalog="a.csv", output="out")
    assert not settings.dry_run


def test_dotted_flags_lists_and_both_spellings():
    settings = read_settings(
        [
            *NEEDED,
            *("--stages", "fetch,classify"),
            *("--cutouts.layer", "ls-dr9"),
            "--dry-run",
            "--max-failed-fraction=0.1",
            *("--classifier.weights", "a.ckpt", "--classifier.weights", "b.ckpt"),
        ]
    )
    assert settings.stages == ("fetch", "classify")
    assert settings.cutouts.layer == "ls-dr9"
    assert settings.dry_run
    assert settings.max_failed_fraction == 0.1
    assert settings.classifier.weights == ("a.ckpt", "b.ckpt")


@pytest.mark.parametrize("flag", ["--no-dry-run", "--no-dry_run", "--no_dry_run"])
def test_what_is_on_can_be_turned_off(flag):
    assert not read_settings([*NEEDED, "--dry-run", flag]).dry_run


def test_stages_are_put_in_the_order_in_which_they_run():
    assert read_settings([*NEEDED, "--stages", "segment,classify,fetch"]).stages == ("fetch", "classify", "segment")


def test_images_are_fetched_for_any_stage():
    assert read_settings([*NEEDED, "--stages", "classify"]).stages == ("fetch", "classify")


def test_no_limit_for_a_service_of_ones_own():
    assert read_settings([*NEEDED, "--cutouts.requests_per_s", "none"]).cutouts.requests_per_s is None


def test_flags_win_over_the_recipe(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('catalog = "r.csv"\nlimit = 5\n[cutouts]\nlayer = "ls-dr8"\nsize_pixels = 128\n')
    settings = read_settings(["--config", str(recipe), "--output", "out", "--cutouts.layer", "ls-dr9"])
    assert (settings.catalog, settings.limit) == ("r.csv", 5)
    assert (settings.cutouts.layer, settings.cutouts.size_pixels) == ("ls-dr9", 128)


def test_the_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("LIMIT", "3")
    monkeypatch.setenv("CATALOG", "other.csv")
    assert read_settings(NEEDED).limit is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--catalog", "a.csv"], "--output is missing"),
        ([*NEEDED, "--layer", "x"], "no flag --layer; did you mean --cutouts.layer?"),
        ([*NEEDED, "--cutouts.layr", "x"], "did you mean --cutouts.layer?"),
        ([*NEEDED, "--dry-rum"], "did you mean --dry_run?"),
        (["a.csv"], "belongs to no flag"),
        ([*NEEDED, "--limit", "many"], "limit = 'many': input should be a valid integer"),
        ([*NEEDED, "--limit", "0"], "limit = '0': input should be greater than 0"),
        ([*NEEDED, "--stages", "fetch,clasify"], "stages = 'clasify'"),
        ([*NEEDED, "--cutouts.source", "sds"], "'legacysurvey', 'sdss', 'hips' or 'files'"),
        ([*NEEDED, "--config", "none.toml"], "there is no such file"),
        ([*NEEDED, "--config", ""], "--config is empty"),
        (["--catalog", "", "--output", "out"], "catalog = '': string should have at least 1 character"),
        (["--catalog", "a.csv", "--output", ""], "output = ''"),
        ([*NEEDED, "--stages", "fetch,fetch"], "a stage is named twice"),
        ([*NEEDED, "--compute.stall_timeout_s", "inf"], "compute.stall_timeout_s = 'inf'"),
        ([*NEEDED, "--compute.stall_timeout_s", "0.5"], "compute.stall_timeout_s = '0.5'"),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(arguments, message):
    with pytest.raises(ConfigError) as caught:
        read_settings(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cutouts]\nlayerr = 'x'\n", "no setting 'cutouts.layerr'; did you mean cutouts.layer?"),
        ("[cutouts\n", "no TOML recipe"),
        ("limit = 'x'\n", "limit = 'x'"),
    ],
)
def test_a_mistake_in_a_recipe(tmp_path, text, message):
    recipe = tmp_path / "r.toml"
    recipe.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings([*NEEDED, "--config", str(recipe)])
    assert message in str(caught.value)


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for section, field in RunConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for name in [f"{section}.{key}" for key in inner] if inner else [section]:
            assert f"--{name}" in text


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    text = capsys.readouterr().out
    for jargon in ("``", "tuple[", "default: None", "float", " str]"):
        assert jargon not in text, jargon
    assert "--cutouts.requests_per_s {NUMBER,none}" in text


def test_several_weights_are_given_by_commas_or_by_repeating_the_flag():
    flag = "--classifier.weights"
    for flags in ([flag, "a.ckpt,b.ckpt"], [flag, "a.ckpt", flag, "b.ckpt"]):
        assert read_settings([*NEEDED, *flags]).classifier.weights == ("a.ckpt", "b.ckpt")
