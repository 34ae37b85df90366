"""What a cluster may grow to: the node types of its autoscaler, or what the user says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxray.config import ComputeConfig
from pipelines.resources import Resources

__all__ = ["NodeType", "find_node_types", "most_resources", "read_cluster_config"]

BOOTSTRAP = "ray_bootstrap_config.yaml"
"""``ray up`` puts the cluster's configuration under this name into the home folder of the head."""

UNLIMITED = 1000
"""Nodes to plan with where their number is not limited."""


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A kind of worker node that an autoscaler may add."""

    num_cpus: float
    num_gpus: float
    max_nodes: int


def most_resources(now: Resources, types: Sequence[NodeType] | None, config: ComputeConfig) -> Resources:
    """What a cluster has at its largest.

    Parameters
    ----------
    now : Resources
        What it has.
    types : sequence of NodeType or None
        What its autoscaler may add or has added; None if it does not grow, or if that is not known.
    config : ComputeConfig
        ``max_cpus`` and ``max_gpus`` win over both.
    """
    types = [kind for kind in types or () if kind.max_nodes and (kind.num_cpus or kind.num_gpus)]
    sizes = [kind.num_cpus for kind in types if kind.num_cpus] + [now.node_cpus or 0.0]
    num_cpus = max(now.num_cpus, sum(kind.max_nodes * kind.num_cpus for kind in types))
    num_gpus = max(now.num_gpus, sum(kind.max_nodes * kind.num_gpus for kind in types))
    return Resources(
        num_cpus=num_cpus if config.max_cpus is None else float(config.max_cpus),
        num_gpus=num_gpus if config.max_gpus is None else float(config.max_gpus),
        num_nodes=max(now.num_nodes, sum(kind.max_nodes for kind in types)),
        node_cpus=min((size for size in sizes if size), default=None),
    )


def find_node_types() -> list[NodeType] | None:
    """Node types of the autoscaler of the cluster that this program is connected to; None if they are not known.

    A provider of clusters may have told them to Ray. ``ray up`` leaves its configuration on the head, where jobs run.
    With KubeRay, and anywhere else, the user has to say (``--compute.max_cpus``, ``--compute.max_gpus``).
    """
    import ray
    from ray._private.state import state

    told = state.get_cluster_config()
    if told is not None and told.node_group_configs:
        return [
            NodeType(
                num_cpus=group.resources.get("CPU", 0),
                num_gpus=group.resources.get("GPU", 0),
                max_nodes=UNLIMITED if group.max_count == -1 else group.max_count,
            )
            for group in told.node_group_configs
        ]
    here = ray.get_runtime_context().get_node_id()
    is_head = any(
        node["NodeID"] == here and "node:__internal_head__" in node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
    )
    path = Path.home() / BOOTSTRAP
    return read_cluster_config(path) if is_head and path.is_file() else None


def read_cluster_config(path: Path) -> list[NodeType]:
    """Worker node types in the configuration file of a Ray cluster.

    Parameters
    ----------
    path : Path
        ``cluster.yaml``, or what ``ray up`` made of it.
    """
    import yaml  # Ray brings it

    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    limit = config.get("max_workers", UNLIMITED)
    return [
        NodeType(
            num_cpus=kind.get("resources", {}).get("CPU", 0),
            num_gpus=kind.get("resources", {}).get("GPU", 0),
            max_nodes=min(kind.get("max_workers", limit), limit),
        )
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    ]
