"""What is said and recorded of a run's models before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galaxray.config import RunConfig
from galaxray.errors import ConfigError
from galaxray.models.classifier import ClassifierNet
from galaxray.models.weights import save_model
from galaxray.modelset import describe_models, model_stages, settle_precision


def run_config(**settings) -> RunConfig:
    return RunConfig(catalog="c.csv", output="out", **settings)


def test_precision_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has_bf16, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has_bf16: {"avx512_bf16": has}, raising=False)
        assert settle_precision(run_config(), "cpu").compute.precision == precision
        # a GPU that is not here
        assert settle_precision(run_config(), "cuda").compute.precision == "bf16"
        chosen = run_config(compute={"precision": "fp32"})
        assert settle_precision(chosen, "cuda") is chosen
    download = run_config(stages=("fetch",))
    assert settle_precision(download, "cpu") is download


def test_line_of_the_segmenter_says_what_is_segmented(tmp_path: Path) -> None:
    card = {"view": {"size": 64}, "labels": ["E", "S"]}
    classes = str(save_model(tmp_path / "classes", ClassifierNet("mobilenetv3_small_050", 2, "classes"), card))

    def line(**settings) -> str:
        return describe_models(run_config(**settings)).lines[-1]

    assert "(face-on-featured)" in line()
    assert "every galaxy: no votes" in line(stages=("fetch", "segment"))
    assert "every galaxy: no votes" in line(classifier={"weights": (classes,)})
    assert "(all)" in line(stages=("fetch", "segment"), segmenter={"where": "all"})


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As on a node whose driver is broken: Ray counts a GPU that torch does not find."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert model_stages(run_config(), ["embed"], "cpu", 1)
    assert not caplog.text
    assert model_stages(run_config(), ["embed"], "auto", 1)
    assert "torch finds no GPU here: the models run on the CPU" in caplog.text
    with pytest.raises(ConfigError, match="torch finds no GPU here"):
        model_stages(run_config(), ["embed"], "cuda", 1)
