"""Checkpoints: Zoobot's are recognised, and files that are not to be trusted are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from galaxray import models
from galaxray.config import ClassifierConfig
from galaxray.errors import ConfigError, WeightsError
from galaxray.models.checkpoint import ZOO, load_checkpoint
from galaxray.models.weights import resolve
from galaxray.trees import load_tree

PAIRS = {"smooth-or-featured-xx": ["_smooth", "_featured"], "bar-xx": ["_yes", "_no"]}
AFTER = {"smooth-or-featured-xx": None, "bar-xx": "smooth-or-featured-xx_featured", "ring-yy": None}


class _Code:
    """Unpickled by the usual means, it leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def content(arch: str = "resnet18", in_chans: int = 3, **hparams: Any) -> dict[str, Any]:
    """What ``ZoobotTree`` writes, by hand."""
    encoder = timm.create_model(arch, num_classes=0, in_chans=in_chans)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"head.1.0.weight": torch.randn(4, encoder.num_features), "head.1.0.bias": torch.zeros(4)}
    defaults = {"question_answer_pairs": PAIRS, "dependencies": AFTER, "architecture_name": arch, "dropout_rate": 0.2}
    return {"state_dict": state, "hyper_parameters": defaults | hparams}


def save(folder: Path, what: Any, name: str = "model.ckpt") -> Path:
    torch.save(what, folder / name)
    return folder / name


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_tree_checkpoint(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path, content()))
    assert checkpoint.tree is not None
    assert checkpoint.tree.validate() == ()
    assert checkpoint.tree.labels == (
        *("smooth-or-featured-xx_" + a for a in ("smooth", "featured")),
        "bar-xx_yes",
        "bar-xx_no",
    )
    assert checkpoint.tree.question("bar-xx").asked_after == ("smooth-or-featured-xx_featured",)
    assert checkpoint.model.head.dropout.p == 0.2
    assert not checkpoint.always_stochastic


def test_test_time_dropout_is_always_on(tmp_path: Path) -> None:
    images, rows = np.full((2, 224, 224, 3), 90, np.uint8), np.array([1, 2])

    def predict(passes: int, **hparams: Any) -> np.ndarray:
        path = save(tmp_path, content(**hparams))
        torch.manual_seed(0)
        return models.load_classifier([str(path)], ClassifierConfig(passes=passes), "cpu", "fp32").predict(images, rows)

    always = predict(1, test_time_dropout=True)
    assert not np.allclose(always[0], always[1]), "the same image, but other draws"
    off = predict(1)
    np.testing.assert_allclose(off[0], off[1], rtol=1e-5)


def test_names_of_architectures(tmp_path: Path) -> None:
    for name in (
        "hf_hub:mwalmsley/zoobot-encoder-resnet18",
        "resnet18.a1_in1k",
        "hf_hub:x/zoobot-encoder-greyscale-resnet18",
    ):
        checkpoint = load_checkpoint(save(tmp_path, content(architecture_name=None, name=name)))
        assert checkpoint.model.architecture["arch"] == "resnet18"


def test_options_of_the_encoder(tmp_path: Path) -> None:
    """Those that make a different network count; those that fetch other weights do not."""
    options = {"output_stride": 16, "in_chans": 1, "num_classes": 9, "pretrained": True, "checkpoint_path": "other.pth"}
    found = load_checkpoint(save(tmp_path, content(timm_kwargs=options))).model.architecture
    assert found["encoder_options"] == {"output_stride": 16}
    assert found["in_chans"] == 3


def test_greyscale(tmp_path: Path) -> None:
    path = save(tmp_path, content(in_chans=1))
    model = models.load_classifier([str(path)], ClassifierConfig(), "cpu")
    assert model.view.greyscale
    assert model.predict(np.zeros((2, 224, 224, 3), np.uint8), np.arange(2)).shape == (2, 4, 1)


def test_compiled_encoder(tmp_path: Path) -> None:
    plain = content()
    state = {name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in plain["state_dict"].items()}
    found = load_checkpoint(save(tmp_path, plain | {"state_dict": state})).model
    torch.testing.assert_close(found.encoder.conv1.weight, plain["state_dict"]["encoder.conv1.weight"])


@pytest.mark.parametrize(
    "arch", ["convnext_pico", "efficientnet_b2", "resnet34", "maxvit_tiny_rw_224", "vit_tiny_patch16_224"]
)
def test_architecture_is_recognised_by_its_weights(arch: str, tmp_path: Path) -> None:
    path = save(tmp_path, content(arch, architecture_name=None))
    assert load_checkpoint(path).model.architecture["arch"] == arch


def test_zoo_is_told_apart_by_its_weights() -> None:
    """No two architectures of the zoo have the same parameters: a match is the right one."""
    for family in ZOO.values():
        small = [arch for arch in family if timm.is_model(arch)][:6]
        with torch.device("meta"):
            states = [timm.create_model(arch, num_classes=0).state_dict() for arch in small]
        shapes = {str({name: tuple(tensor.shape) for name, tensor in state.items()}) for state in states}
        assert len(shapes) == len(small) > 1


def test_other_architectures_must_be_named(tmp_path: Path) -> None:
    path = save(tmp_path, content("mobilenetv3_small_050", architecture_name=None))
    with pytest.raises(WeightsError, match=r"give it as classifier\.arch"):
        load_checkpoint(path)
    with pytest.raises(ConfigError, match="no architecture 'mobilnet'"):
        load_checkpoint(path, "mobilnet")
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        load_checkpoint(path, "resnet18")


def test_arch_is_taken_from_the_configuration(tmp_path: Path) -> None:
    what = content("regnetx_002", architecture_name=None)
    assert load_checkpoint(save(tmp_path, what), "regnetx_002").model.architecture["arch"] == "regnetx_002"


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("where", ["hyper_parameters", "callbacks", "state_dict"])
def test_code_is_refused(where: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    what = content()
    what[where] = {**what.get(where, {}), "x": _Code(proof)}
    path = save(tmp_path, what)
    with pytest.raises(WeightsError, match=r"asks for posix\.mkdir") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file was harmless: nothing is tested"


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, content(extra=Path("/etc")))
    with pytest.raises(WeightsError, match=r"asks for pathlib"):
        load_checkpoint(path)


def test_allowances_do_not_stay(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()  # torch itself allows some
    load_checkpoint(save(tmp_path, content()))
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_numpy_in_the_hyper_parameters(tmp_path: Path) -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    path = save(tmp_path, content(class_weights=weights, scale=np.float64(0.5)))
    assert load_checkpoint(path).model.head.linear.out_features == 4


def test_damaged(tmp_path: Path) -> None:
    whole = save(tmp_path, content()).read_bytes()
    path = tmp_path / "damaged.ckpt"

    def refused(data: bytes, reason: str) -> None:
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=reason) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    for data in (b"", b"hello", whole[: len(whole) // 2], pickle.dumps({"state_dict": {}})):
        refused(data, "no PyTorch checkpoint, or is truncated")
    for what in (
        {"weights": 1},
        [1, 2],
        {"state_dict": {}, "hyper_parameters": {}},
        {"state_dict": 3, "hyper_parameters": 4},
    ):
        refused(save(tmp_path, what, "other.ckpt").read_bytes(), "not a checkpoint")


def test_reads_without_zoobot_and_without_network(tmp_path: Path) -> None:
    """In a fresh process: no import of zoobot or Lightning, and no socket."""
    path = save(tmp_path, content(architecture_name=None, name="hf_hub:mwalmsley/zoobot-encoder-resnet18"))
    program = f"""
import socket, sys
def refuse(*_): raise SystemExit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from galaxray import models
from galaxray.config import ClassifierConfig
models.load_classifier([{str(path)!r}], ClassifierConfig(), "cpu")
foreign = ("zoobot", "lightning", "pytorch_lightning", "galaxy_datasets")
print([name for name in sys.modules if name.startswith(foreign)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_named_tree(tmp_path: Path) -> None:
    tree = load_tree("gz_rings")
    pairs = {q.name: [f"_{a}" for a in q.answers] for q in tree.questions}
    what = content(question_answer_pairs=pairs, dependencies=dict.fromkeys(pairs))
    what["state_dict"]["head.1.0.weight"], what["state_dict"]["head.1.0.bias"] = torch.zeros(2, 512), torch.zeros(2)
    assert load_checkpoint(save(tmp_path, what)).tree == tree


def test_hub_is_asked_only_by_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="does not exist"):
        resolve("mwalmsley/zoobot-encoder-convnext_nano")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"hf_hub:a/b cannot be had from the Hugging Face hub") as caught:
        resolve("hf_hub:a/b")
    assert "\n" not in str(caught.value)


def regressor(label_col: str) -> dict[str, Any]:
    """What ``FinetuneableZoobotRegressor`` writes, by hand."""
    plain = content()
    state = {name: tensor for name, tensor in plain["state_dict"].items() if name.startswith("encoder.")}
    state |= {"head.linear.weight": torch.randn(1, 512), "head.linear.bias": torch.zeros(1)}
    return {"state_dict": state, "hyper_parameters": {"architecture_name": "resnet18", "label_col": label_col}}


def test_zoobots_default_target_needs_a_name(tmp_path: Path) -> None:
    """``label`` is the default ``label_col`` of zoobot, and a text column of the table."""
    path = str(save(tmp_path, regressor("label")))
    with pytest.raises(ConfigError, match=r"calls its target 'label'.*--classifier\.labels"):
        models.load_classifier([path], ClassifierConfig(), "cpu")
    renamed = models.load_classifier([path], ClassifierConfig(labels=("stellar_mass",)), "cpu")
    assert (renamed.task, renamed.labels) == ("regression", ("stellar_mass",))
    path = str(save(tmp_path, regressor("redshift")))
    assert models.load_classifier([path], ClassifierConfig(), "cpu").labels == ("redshift",)


def test_checkpoints_that_do_not_fit_together(tmp_path: Path) -> None:
    def refused(what: dict[str, Any], reason: str) -> None:
        with pytest.raises(WeightsError, match=reason) as caught:
            load_checkpoint(save(tmp_path, what))
        assert "\n" not in str(caught.value)

    refused(content(timm_kwargs={"nonsense": 3}), "does not fit together as a model.*nonsense")
    refused(content(dropout_rate="much"), "does not fit together as a model")
    flat = content()
    flat["state_dict"] = {name: tensor for name, tensor in flat["state_dict"].items() if tensor.ndim != 4}
    refused(flat, "holds no convolution")
    nameless = content()
    del nameless["hyper_parameters"]["question_answer_pairs"]
    refused(nameless, "no schema of questions and answers")
    refused(content(schema=7), "no schema of questions and answers")
    for name in ("hf-hub:evil/x", "local-dir:/etc"):
        with pytest.raises(ConfigError, match="no architecture"):
            load_checkpoint(save(tmp_path, content()), name)


def test_a_tree_without_a_way_to_a_question_is_refused(tmp_path: Path) -> None:
    path = str(save(tmp_path, content(dependencies={"smooth-or-featured-xx": None, "bar-xx": "disk-xx_yes"})))
    with pytest.raises(WeightsError, match="disk-xx_yes, which is not an answer"):
        models.load_classifier([path], ClassifierConfig(), "cpu")


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    whole = save(tmp_path, content())
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
        packed.writestr("archive/data/99", bytes(10**8))
    assert bomb.stat().st_size < 10**8
    with pytest.raises(WeightsError, match="larger than the file"):
        load_checkpoint(bomb)


def test_a_pickle_that_asks_for_more_memory_than_there_is(tmp_path: Path) -> None:
    """By a class that is harmless and allowed: ``bytearray(2**60)``."""
    path = save(tmp_path, {"scale": bytearray(1)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            greedy = b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + (2**60).to_bytes(8, "little") + b"\x85R."
            archive.writestr(name, greedy if name.endswith("data.pkl") else member)
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_outputs_without_number_are_refused(tmp_path: Path) -> None:
    what = content()
    what["state_dict"]["head.1.0.bias"] = torch.zeros(1).expand(10**12)  # takes four bytes in the file
    with pytest.raises(WeightsError, match="1000000000000 outputs"):
        load_checkpoint(save(tmp_path, what))
