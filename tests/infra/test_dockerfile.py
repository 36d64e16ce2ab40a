"""The Dockerfile read instead of built: what it copies exists, what it installs is the lock, and nobody is root."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from dockerfile_parse import DockerfileParser

from tests.infra.manifests import ROOT

DOCKERFILE = ROOT / "infra" / "Dockerfile"
IGNORED = ROOT / "infra" / "Dockerfile.dockerignore"


def stages() -> dict[str, list[dict[str, Any]]]:
    """Instructions by stage."""
    parser = DockerfileParser(fileobj=DOCKERFILE.open("rb"))
    found: dict[str, list[dict[str, Any]]] = {}
    for one in parser.structure:
        if one["instruction"] == "FROM":
            current = found.setdefault(one["value"].split(" AS ")[1], [])
        if one["instruction"] not in ("COMMENT",):
            current.append(one)
    return found


def lineage(name: str) -> list[dict[str, Any]]:
    """A stage's instructions after those of the stages that it stands on."""
    known = stages()
    parent = known[name][0]["value"].split(" AS ")[0]
    return [*(lineage(parent) if parent in known else []), *known[name]]


def values(instructions: list[dict[str, Any]], kind: str) -> list[str]:
    return [one["value"] for one in instructions if one["instruction"] == kind]


def test_there_are_two_images_and_the_last_one_needs_no_gpu() -> None:
    assert list(stages())[-2:] == ["cuda", "cpu"]
    bases = [value.split(" AS ")[0] for one in stages().values() for value in values(one, "FROM")]
    assert set(bases) - set(stages()) == {"python:3.11-slim"}
    for target, build in (("cpu", "build-cpu"), ("cuda", "build-cuda")):
        assert f"--from={build} /opt/qrbatch /opt/qrbatch" in values(lineage(target), "COPY")


def test_what_is_copied_exists_and_gets_into_the_build() -> None:
    allowed = [line[1:] for line in IGNORED.read_text().splitlines() if line.startswith("!")]
    copied = [value for one in stages().values() for value in values(one, "COPY") if "--from=" not in value]
    assert copied
    for value in copied:
        for source in value.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in allowed, source
    assert all((ROOT / path).exists() for path in allowed)


def test_what_the_package_needs_to_be_installed_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *packages}
    for name in ("build-cpu", "build-cuda"):
        copied = {word for value in values(stages()[name], "COPY") for word in value.split()[:-1]}
        assert needed <= copied


def test_nobody_is_root() -> None:
    for target in ("cpu", "cuda"):
        user = values(lineage(target), "USER")[-1]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), user  # a number: Kubernetes cannot check a name
        assert user == "10001:10001"


def test_versions_are_those_of_the_lock_and_of_the_package() -> None:
    text = DOCKERFILE.read_text()
    installs = [line for one in stages().values() for line in values(one, "RUN") if "pip install" in line]
    assert len(installs) == 5
    for line in installs:
        assert "-c infra/constraints.txt" in line or "grep '^torch==' infra/constraints.txt" in line, line
    assert not re.search(r"==\d", text)  # no version of a package beside the lock
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in text
    assert set(re.findall(r"qrbatch:(\S+)", text)) == {f"{version}-cpu", f"{version}-cuda"}
    assert "+cpu" not in (ROOT / "infra" / "constraints.txt").read_text()
