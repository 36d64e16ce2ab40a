"""From a configuration to settings that mean the same on every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.config import RerankConfig
from jobs.rerank import pipeline_settings
from jobs.settings import validate
from pipelines.rerank import RerankSettings


def settings_for(model: dict[str, Any], storage: dict[str, Any] | None = None, **environment: str) -> RerankSettings:
    values = {"input": {"uris": ["in"]}, "output": {"uri": "out"}, "model": model, "storage": storage or {}}
    return pipeline_settings(validate(RerankConfig, values), environment)


def test_local_models_and_head_files_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "embedded").mkdir()
    (tmp_path / "heads.json").write_text("{}")
    scorer = settings_for({"id": "model", "heads": "heads.json"}).scorer
    assert (scorer.model, scorer.heads) == (str(tmp_path / "model"), str(tmp_path / "heads.json"))
    for model, heads in (("embedded", None), ("org/name", "3-1,4-0"), ("org/name", "all")):
        scorer = settings_for({"id": model, "heads": heads}).scorer
        assert (scorer.model, scorer.heads) == (model, heads)


def test_the_identity_does_not_depend_on_where_the_command_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_for({"id": "model"}).run.affecting_output
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert settings_for({"id": "model"}, AWS_ENDPOINT_URL="http://s3.test").run.affecting_output == before


def test_the_endpoint_of_the_environment_travels_with_the_settings() -> None:
    def endpoint(storage: dict[str, Any], **environment: str) -> str | None:
        return settings_for({}, storage, **environment).run.storage.endpoint_url

    assert endpoint({}) is None
    assert endpoint({}, AWS_ENDPOINT_URL="http://a") == "http://a"
    assert endpoint({}, AWS_ENDPOINT_URL="http://a", AWS_ENDPOINT_URL_S3="http://s3") == "http://s3"
    assert endpoint({"endpoint_url": "http://mine"}, AWS_ENDPOINT_URL="http://a") == "http://mine"


def test_sharing_of_local_paths_is_a_setting() -> None:
    assert settings_for({}, {"shared": True}).run.storage.shared is True
    assert settings_for({}).run.storage.shared is False
