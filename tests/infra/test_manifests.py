"""Every manifest against the schemas of the cluster, against each other, and against the lock."""

from __future__ import annotations

import copy
import json
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from jobs.config import RerankConfig
from jobs.settings import validate
from tests.commands import misunderstood
from tests.infra.manifests import KUBERNETES, OVERLAYS, ROOT, built, of_kind, pods, problems, written

LOCK = dict(line.split("==") for line in (ROOT / "infra" / "constraints.txt").read_text().splitlines() if "==" in line)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NIGHTLY = tuple(name for name in OVERLAYS if name not in ("cpu-demo", "ray-cron-job"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_applied_follows_the_schemas_of_the_cluster(overlay: str) -> None:
    manifests = built(overlay)
    assert len(manifests) >= 8
    for manifest in manifests:
        assert problems(manifest) == [], (manifest["kind"], manifest["metadata"]["name"])


def test_what_stands_in_files_follows_them_too() -> None:
    manifests = written()
    assert {manifest["kind"] for manifest in manifests} >= {"RayJob", "RayCronJob", "CronJob", "Job", "NetworkPolicy"}
    for manifest in manifests:
        if manifest["kind"] != "RayCronJob":  # its overlay completes it
            assert problems(manifest) == [], (manifest["kind"], manifest["metadata"]["name"])


def test_the_checks_see_a_misspelt_field_and_a_wrong_type() -> None:
    (job,) = of_kind(written(), "RayJob")
    for path, wrong in (("backofLimit", 1), ("backoffLimit", "two")):
        broken = copy.deepcopy(job)
        broken["spec"][path] = wrong
        assert problems(broken), path
    broken = copy.deepcopy(job)
    broken["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert problems(broken)
    (cron,) = of_kind(written(), "CronJob")
    assert problems(cron | {"spec": cron["spec"] | {"shedule": "x"}})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_ray_and_the_lock_agree(overlay: str) -> None:
    manifests = built(overlay)
    for job in of_kind(manifests, "RayJob") + of_kind(manifests, "RayCronJob"):
        spec = job["spec"].get("jobTemplate", job["spec"])
        assert spec["rayClusterSpec"]["rayVersion"] == LOCK["ray"]
    images = re.findall(r"image: (\S+)", yaml.safe_dump_all(manifests))
    assert images
    assert set(images) <= {f"registry.example.org/qrbatch:{VERSION}-{kind}" for kind in ("cpu", "cuda")}
    assert any(image.endswith("-cuda") for image in images) is overlay.startswith("gpu")


def test_images_in_files_have_the_version_of_the_package() -> None:
    tags = {tag for path in KUBERNETES.rglob("*.yaml") for tag in re.findall(r"qrbatch:(\S+)", path.read_text())}
    assert tags == {f"{VERSION}-cpu", f"{VERSION}-cuda"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_locked_down_and_says_what_it_needs(overlay: str) -> None:
    found = pods(built(overlay))
    assert found
    for name, pod in found:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "serviceAccountName" in spec or spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            secured = container["securityContext"]
            assert secured["readOnlyRootFilesystem"] is True, name
            assert secured["allowPrivilegeEscalation"] is False, name
            assert secured["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in spec["volumes"]}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_read_only_root_leaves_ray_somewhere_to_write(overlay: str) -> None:
    for name, pod in pods(built(overlay)):
        for container in pod["spec"]["containers"]:
            if container["name"] in ("ray-head", "ray-worker"):
                writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
                assert writable == {"/tmp", "/scratch", "/dev/shm"}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_that_are_referred_to_exist(overlay: str) -> None:
    manifests = built(overlay)
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for name, pod in pods(manifests):
        spec = pod["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names, name
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, name
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names, name
    labels = [pod["metadata"]["labels"]["app.kubernetes.io/name"] for _, pod in pods(manifests)]
    (policy,), (budget,) = of_kind(manifests, "NetworkPolicy"), of_kind(manifests, "PodDisruptionBudget")
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] in labels
    assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in labels


def worker_group(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (job,) = of_kind(manifests, "RayJob")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return dict(group)


@pytest.mark.parametrize("overlay", NIGHTLY)
def test_the_pool_that_a_night_starts_with_holds_its_actors(overlay: str) -> None:
    manifests = built(overlay)
    group, config = worker_group(manifests), config_of(manifests)
    cpus, gpus = (int(group["rayStartParams"].get(name, "0")) for name in ("num-cpus", "num-gpus"))
    fitting = min(int(cpus // config.actors.cpus), int(gpus // config.actors.gpus) if config.actors.gpus else 10**6)
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert config.actors.count <= fitting * group["minReplicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits.get("nvidia.com/gpu", "0")) == gpus


@pytest.mark.parametrize("overlay", NIGHTLY)
def test_the_command_of_a_night_is_one_that_qrbatch_takes(overlay: str) -> None:
    manifests = built(overlay)
    (job,) = of_kind(manifests, "RayJob")
    shell, option, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    line = script.split("||")[0]
    assert misunderstood(line) == []
    arguments = shlex.split(line)
    assert arguments[arguments.index("--config") + 1] == "/etc/qrbatch/nightly.yaml"
    assert "{date}" in arguments[arguments.index("--input") + 1]


def config_of(manifests: list[dict[str, Any]]) -> RerankConfig:
    (found,) = [one for one in of_kind(manifests, "ConfigMap") if "nightly.yaml" in one["data"]]
    config = validate(RerankConfig, yaml.safe_load(found["data"]["nightly.yaml"]))
    assert config.cluster.address == "auto"  # without it, a night would start a Ray of its own on the head
    return config


def test_spot_takes_workers_only_and_the_queue_takes_nights_only() -> None:
    (job,) = of_kind(built("gpu-spot-kueue"), "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]
    assert head["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert workers["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert len(workers["spec"]["tolerations"]) == 2
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["annotations"]["qrbatch/queue-name"]
    assert not [label for label in job["metadata"]["labels"] if label.startswith("kueue")]


def test_the_alpha_schedule_has_the_same_cluster_as_the_base() -> None:
    manifests = built("ray-cron-job")
    (cron,), (job,) = of_kind(manifests, "RayCronJob"), of_kind(manifests, "RayJob")
    template = cron["spec"]["jobTemplate"]
    assert template["rayClusterSpec"] == job["spec"]["rayClusterSpec"]
    assert {key: template[key] for key in template if key not in ("entrypoint", "suspend")} == {
        key: value for key, value in job["spec"].items() if key not in ("entrypoint", "suspend")
    }
    assert not of_kind(manifests, "CronJob")


def test_the_policy_for_object_storage_is_as_small_as_the_job() -> None:
    policy = json.loads((ROOT / "infra" / "policies" / "s3.json").read_text())
    actions = {action for one in policy["Statement"] for action in (
        one["Action"] if isinstance(one["Action"], list) else [one["Action"]])}  # fmt: skip
    assert not [action for action in actions if "*" in action or "Delete" in action]
    writable = [one["Resource"] for one in policy["Statement"] if "s3:PutObject" in one["Action"]]
    assert writable == ["arn:aws:s3:::my-bucket/runs/*"]
