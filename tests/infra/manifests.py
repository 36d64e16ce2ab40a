"""The manifests of ``infra/kubernetes`` as a cluster would get them, and the schemas that it would check them with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
KUBERNETES = ROOT / "infra" / "kubernetes"
OVERLAYS = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
SCHEMAS = Path(os.environ.get("QRBATCH_SCHEMAS", ROOT.parent / "shared" / "schemas")) / "kuberay-1.7.0"
#: What core kinds are checked for.
KUBERNETES_VERSION = "1.33"
Manifest = dict[str, Any]


@cache
def _built(overlay: str) -> str:
    program = shutil.which("kustomize") or shutil.which("kubectl")
    if program is None:
        pytest.skip("neither kustomize nor kubectl on PATH: overlays cannot be built")
    command = [program, "build"] if program.endswith("kustomize") else [program, "kustomize"]
    run = subprocess.run(
        [*command, str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def built(overlay: str) -> list[Manifest]:
    """What ``kubectl apply -k`` sends for an overlay."""
    return list(yaml.safe_load_all(_built(overlay)))


def written() -> list[Manifest]:
    """Every manifest as it stands in a file: kinds of clusters, not kustomizations, configurations or patches."""
    found = []
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        documents = [one for one in yaml.safe_load_all(path.read_text()) if isinstance(one, dict)]
        found += [one for one in documents if "kind" in one and "kustomize" not in one["apiVersion"]]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


@cache
def _custom_schema(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"no {path}: KubeRay's CustomResourceDefinitions are not beside the repository")
    definition = yaml.safe_load(path.read_text())
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema: dict[str, Any] = _closed(version["schema"]["openAPIV3Schema"])
    return schema


def _closed(schema: Any) -> Any:
    """The same schema, refusing what it does not name: a cluster drops unknown fields without a word."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    opened = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not opened:
        closed["additionalProperties"] = False
    return closed


def problems(manifest: Manifest) -> list[str]:
    """What the cluster's own schemas have against a manifest."""
    return _problems(json.dumps(manifest, sort_keys=True))


@cache  # overlays share most of their manifests, and the schemas of core kinds are slow to load
def _problems(written_manifest: str) -> list[str]:
    manifest = json.loads(written_manifest)
    if manifest["apiVersion"].startswith("ray.io/"):
        validator = jsonschema.Draft202012Validator(_custom_schema(manifest["kind"]))
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def pods(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Every pod template with a name for messages."""
    found: list[tuple[str, Manifest]] = []

    def search(name: str, node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
                found.append((name, node))
            for key, value in node.items():
                search(f"{name}.{key}", value)
        elif isinstance(node, list):
            for place, value in enumerate(node):
                search(f"{name}[{place}]", value)

    for manifest in manifests:
        search(f"{manifest['kind']}/{manifest['metadata']['name']}", manifest)
    return found
