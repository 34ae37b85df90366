"""Zoobot checkpoints whose outputs differ between galaxies, and pictures to show them; made and run by zoobot itself.

The encoders are timm's, with random weights. As they come such networks give nearly the same for every picture, and
any comparison on them passes: so branches get their full weight, batch statistics are taken from pictures, and heads
are scaled until their outputs spread as those of a trained network do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from galaxray import synthetic
from galaxray.images import View, decode

__all__ = ["Kind", "make_checkpoint", "make_jpegs", "predict_with_zoobot"]

Kind = Literal["tree", "classifier", "regressor"]

SPREAD = 1.5
"""Standard deviation of each logit over the pictures."""


def make_jpegs(folder: Path, count: int, size: int = 424) -> list[Path]:
    """Write pictures of synthetic galaxies, as a survey would serve them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, galaxy in enumerate(synthetic.catalog(count, seed=7)):
        file = io.BytesIO()
        Image.fromarray(synthetic.image(galaxy.ra_deg, galaxy.dec_deg, size=size)).save(file, "JPEG", quality=90)
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(file.getvalue())
        paths.append(path)
    return paths


def make_checkpoint(kind: Kind, arch: str, path: Path, pictures: Sequence[Path], **options: Any) -> Path:
    """Have zoobot write a checkpoint of a model that tells these pictures apart.

    Parameters
    ----------
    kind : {"tree", "classifier", "regressor"}
    arch : str
        timm architecture.
    path : Path
        Where to write.
    pictures : sequence of Path
        Images from which the statistics come; a dozen or two.
    **options
        For zoobot's class, e.g. ``unit_interval=True``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning
        from zoobot.pytorch.training import finetune
        from zoobot.shared import schemas

        torch.manual_seed(0)
        grey = bool(options.get("greyscale"))
        inputs = _inputs(pictures)[:, : 1 if grey else 3]
        options["encoder"] = encoder = _telling_encoder(arch, inputs)
        if kind == "tree":
            model = finetune.FinetuneableZoobotTree(schema=schemas.decals_dr5_ortho_schema, **options)
            head = model.head[1][0]
        elif kind == "classifier":
            model = finetune.FinetuneableZoobotClassifier(num_classes=4, **options)
            head = model.head.linear
        else:
            model = finetune.FinetuneableZoobotRegressor(**options)
            head = model.head.linear
        _spread(head, encoder(inputs), mean=-2.0 if kind == "tree" else 0.0)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        trainer.strategy.connect(model)
        trainer.save_checkpoint(path, weights_only=True)
    return path


def predict_with_zoobot(
    kind: Kind, arch: str, checkpoint: Path, pictures: Sequence[Path], *, batch_size: int = 64, num_workers: int = 0
) -> np.ndarray:
    """Predict with zoobot's own ``predict_on_catalog``, float (N, A)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
        from zoobot.pytorch.predictions import predict_on_catalog
        from zoobot.pytorch.training import finetune

        cls = {
            "tree": finetune.FinetuneableZoobotTree,
            "classifier": finetune.FinetuneableZoobotClassifier,
            "regressor": finetune.FinetuneableZoobotRegressor,
        }[kind]
        grey = bool(torch.load(checkpoint, weights_only=False)["hyper_parameters"]["greyscale"])
        encoder = timm.create_model(arch, num_classes=0, in_chans=1 if grey else 3)
        model = cls.load_from_checkpoint(checkpoint, map_location="cpu", encoder=encoder, weights_only=False)
        view = minimal_view_config()
        view.greyscale = grey
        columns = {"tree": 34, "classifier": 4, "regressor": 1}[kind]
        table = predict_on_catalog.predict(
            catalog=pd.DataFrame({"id_str": [p.stem for p in pictures], "file_loc": [str(p) for p in pictures]}),
            model=model,
            save_loc=str(checkpoint.with_suffix(".csv")),
            label_cols=[f"output_{i}" for i in range(columns)],
            inference_transform=get_galaxy_transform(view),
            datamodule_kwargs={
                "batch_size": batch_size,
                "num_workers": num_workers,
                "prefetch_factor": 4 if num_workers else None,
            },
            trainer_kwargs={"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
        )
    return table.drop(columns="id_str").to_numpy(dtype=np.float64)


def _inputs(pictures: Sequence[Path]) -> Tensor:
    view = View(size=224, zoom=1.2)
    images = np.stack([view.apply(decode(path.read_bytes())) for path in pictures])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def _telling_encoder(arch: str, inputs: Tensor) -> nn.Module:
    encoder: nn.Module = timm.create_model(arch, num_classes=0, in_chans=inputs.shape[1])
    for name, parameter in encoder.named_parameters():
        if name.endswith("gamma"):  # LayerScale of ConvNeXt begins at 1e-6, and silences every block
            parameter.fill_(0.5)
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain averages
    encoder.train()(inputs)
    return encoder.eval()


@torch.no_grad()
def _spread(head: nn.Linear, features: Tensor, mean: float) -> None:
    """Scale a linear layer so that its outputs have this mean and a standard deviation of `SPREAD`."""
    head.weight.mul_((SPREAD / head(features).std(dim=0))[:, None])
    head.bias.sub_(head(features).mean(dim=0) - mean)
