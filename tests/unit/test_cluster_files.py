"""cluster.yaml and the KubeRay manifests, by Ray's own schema and by the fields of KubeRay 1.6's API."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError, validate
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from galaxray.config import RunConfig
from galaxray.settings import read_settings
from pipelines.node_types import most_resources, read_cluster_config
from pipelines.resources import Resources, allot

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = [ROOT / "configs/kuberay/raycluster.yaml", ROOT / "configs/kuberay/rayjob.yaml"]
HEAD_ALONE = Resources(num_cpus=0, num_gpus=0, num_nodes=0)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def only(required: str, optional: str = "", **kinds: Any) -> dict[str, Any]:
    """JSON schema of an object with these fields and no others."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {name: kinds.get(name, {}) for name in names},
        "additionalProperties": False,
    }


def each(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


TEXT, COUNT, YES_OR_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(Gi)?$"}}
CONTAINER = only(
    "name image resources",
    "ports env",
    resources=only("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    ports=each(only("name containerPort", containerPort=COUNT)),
)
POD = only(
    "containers",
    "restartPolicy serviceAccountName tolerations nodeSelector",
    containers=each(CONTAINER),
    restartPolicy={"enum": ["Never", "Always", "OnFailure"]},
    tolerations=each(only("key operator effect", "value", operator={"enum": ["Equal", "Exists"]}, value=TEXT)),
    nodeSelector=TEXTS,
)
TEMPLATE = only("spec", "metadata", spec=POD)
WORKERS = only(
    "groupName minReplicas maxReplicas rayStartParams template",
    "replicas idleTimeoutSeconds numOfHosts suspend labels resources",
    **dict.fromkeys(("minReplicas", "maxReplicas", "replicas", "idleTimeoutSeconds"), COUNT),
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = only(
    "headGroupSpec workerGroupSpecs rayVersion",
    "authOptions enableInTreeAutoscaling autoscalerOptions",
    rayVersion=TEXT,
    authOptions=only("mode", mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=only(
        "",
        "version upscalingMode idleTimeoutSeconds image env resources",
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT,
    ),
    headGroupSpec=only("rayStartParams template", "serviceType", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=each(WORKERS),
)
JOB = only(
    "entrypoint rayClusterSpec",
    "runtimeEnvYAML submissionMode backoffLimit entrypointNumCpus shutdownAfterJobFinishes ttlSecondsAfterFinished",
    rayClusterSpec=CLUSTER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    entrypointNumCpus={"type": "number"},
    shutdownAfterJobFinishes=YES_OR_NO,
    **dict.fromkeys(("backoffLimit", "ttlSecondsAfterFinished"), COUNT),
)
"""The fields of ``ray.io/v1`` and of pods that may stand in our manifests, by KubeRay's API reference."""


def check_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is no manifest; the RayCluster's specification in it."""
    kind = {"RayCluster": CLUSTER, "RayJob": JOB}[manifest["kind"]]
    validate(
        manifest,
        only(
            "apiVersion kind metadata spec",
            apiVersion={"const": "ray.io/v1"},
            metadata=only("name", name=TEXT),
            spec=kind,
        ),
    )
    spec: dict[str, Any] = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return spec


def check_aws(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


def change(tree: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    """Give a key, ``a.b.0.c``, another name."""
    tree = copy.deepcopy(tree)
    *above, key = path.split(".")
    below: Any = tree
    for step in above:
        below = below[int(step) if step.isdigit() else step]
    below[name] = below.pop(key)
    return tree


def test_ray_takes_the_cluster_on_aws():
    check_aws(load(ROOT / "cluster.yaml"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("idle_timeout_minutes", "idle_timeout"),
        ("available_node_types.gpu.max_workers", "max_worker"),
        ("available_node_types.gpu.idle_timeout_s", "idle_timeout_minutes"),
        ("provider.security_group.IpPermissions", "ip_permissions"),
        ("setup_commands", "setup_command"),
    ],
)
def test_ray_refuses_a_misspelt_cluster(path, name):
    with pytest.raises((ValidationError, ValueError)):
        check_aws(change(load(ROOT / "cluster.yaml"), path, name))


def test_the_cluster_on_aws_is_what_its_comments_say():
    config = load(ROOT / "cluster.yaml")
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert all(types[name]["min_workers"] == 0 for name in ("cpu", "gpu"))
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    (opening,) = config["provider"]["security_group"]["IpPermissions"]
    assert opening["FromPort"] == opening["ToPort"] == 22
    assert all("/32" in each["CidrIp"] for each in opening["IpRanges"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    # What is installed is what the Makefile installs.
    assert config["file_mounts"]["/home/ubuntu/requirements.lock"] == "requirements.lock"
    uv = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())[1]
    assert any(f"uv=={uv}" in command for command in config["setup_commands"])


def test_pools_are_planned_for_the_whole_cluster_on_aws():
    recipe = read_settings(["--config", str(ROOT / "configs/desi_dr10_autoscaling.toml"), "--catalog", "c", *OUTPUT])
    config = recipe.run_config()
    most = most_resources(HEAD_ALONE, read_cluster_config(ROOT / "cluster.yaml"), config.compute)
    assert (most.num_cpus, most.num_gpus, most.num_nodes) == (160, 8, 16)
    pools = allot(config, **vars(most))
    assert pools["models"].max_actors == 8
    assert pools["decode"].max_actors > 100
    assert pools["fetch"].max_actors == 16


OUTPUT = ["--output", "s3://bucket/run"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kuberay_manifests(path):
    manifest = load(path)
    spec = check_manifest(manifest)
    lock = (ROOT / "requirements.lock").read_text()
    assert f"ray=={spec['rayVersion']}\n" in lock
    assert spec["authOptions"]["mode"] == "token"
    # Ray's autoscaler reads a manifest by this function, and checks what it gets.
    found = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "g", "namespace": "default"}, "spec": spec})
    types = found["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["cpu"]["resources"]["CPU"] == 16
    assert types["gpu"]["resources"] | {"memory": 0} == {"CPU": 4, "GPU": 1, "memory": 0}
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"], types["gpu"]["idle_timeout_s"]) == (0, 8, 120)
    assert found["idle_timeout_minutes"] == 5
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_both_manifests_describe_one_cluster():
    cluster, job = (check_manifest(load(path)) for path in MANIFESTS)
    assert cluster == job


def test_the_job_on_kubernetes_is_a_command_that_the_program_takes():
    manifest = load(MANIFESTS[1])
    python, program, *flags = shlex.split(manifest["spec"]["entrypoint"])
    assert (python, program) == ("python", "pipelines/annotate_catalog.py")
    flags[flags.index("--config") + 1] = str(ROOT / flags[flags.index("--config") + 1])
    compute = read_settings(flags).run_config().compute
    groups = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [
        (group["maxReplicas"], group["template"]["spec"]["containers"][0]["resources"]["limits"]) for group in groups
    ]
    assert compute.max_cpus == sum(most * int(limit["cpu"]) for most, limit in limits)
    assert compute.max_gpus == sum(most * int(limit.get("nvidia.com/gpu", 0)) for most, limit in limits)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("spec.entrypoint", "entryPoint"),
        ("spec.rayClusterSpec.enableInTreeAutoscaling", "enableAutoscaling"),
        ("spec.rayClusterSpec.authOptions.mode", "kind"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", "maxReplica"),
        ("spec.rayClusterSpec.workerGroupSpecs.1.template.spec.tolerations", "toleration"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.image", "imageName"),
    ],
)
def test_a_misspelt_manifest_is_refused(path, name):
    with pytest.raises(ValidationError):
        check_manifest(change(load(MANIFESTS[1]), path, name))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_to_expect(path):
    config = read_settings(["--config", str(path), "--catalog", "c", *OUTPUT]).run_config()
    assert isinstance(config, RunConfig)
    header = path.read_text().partition("\n[")[0]
    assert f"configs/{path.name}" in header
    assert "xpect" in header
