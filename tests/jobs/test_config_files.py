"""``qrbatch config`` and what stands behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from jobs.cli import app
from jobs.config import RerankConfig
from jobs.config_files import example, resolve, schema, shown
from jobs.job_configs import JOB_CONFIGS, config_of
from jobs.settings import expand, fact, field_names, flatten, leaves, parse_yaml, read_config_file, validate
from qrcore.errors import ConfigError
from tests.jobs.test_cli import invoke

GOOD: dict[str, Any] = {"input": {"uris": ["in"]}, "output": {"uri": "out"}}


def test_every_job_that_takes_a_configuration_is_known() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    around = {"config", "doctor", "submit", "heads", "plan", "status", "verify", "clean", "rollback"}
    with_config = {
        name
        for name, command in commands.items()
        if name not in around and any("--config" in parameter.opts for parameter in command.params)
    }
    assert with_config == set(JOB_CONFIGS)


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_the_example_is_a_configuration_and_so_is_what_it_comments_out(job: str) -> None:
    kind, text = config_of(job), example(job, config_of(job))
    written = validate(kind, parse_yaml(text), {})
    uncommented = re.sub(r"^( *)# ([\w-]+:.*)$", r"\1\2", text, flags=re.MULTILINE)
    everything = validate(kind, parse_yaml(re.sub(r"^ *# .*$", "", uncommented, flags=re.MULTILINE)), {})
    assert everything == written
    for name, field in leaves(kind).items():
        assert field.description
        assert field.description in text, name


def test_yes_and_no_are_words_and_true_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("yes: yes\nno: 'no'\non: true\nnumber: 1e-3\nnothing: null\nday: 2026-10-01\n")
    read = read_config_file(str(tmp_path / "run.yaml"))
    assert list(read)[:3] == ["yes", "no", "on"] and read["yes"] == "yes" and read["on"] is True
    assert read["nothing"] is None


def test_init_writes_a_new_file_only(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    assert invoke("config", "init", "rerank", "--output", str(file)).exit_code == 0
    assert validate(RerankConfig, parse_yaml(file.read_text()), {}).name == "rerank"
    again = invoke("config", "init", "rerank", "--output", str(file))
    assert again.exit_code == 2
    assert "expected a new file" in again.output
    assert invoke("config", "init", "rerank").output == file.read_text()


def test_origins_are_those_of_the_last_source_that_gave_a_value() -> None:
    sources = [
        ("file", {**GOOD, "actors": {"count": 3}}),
        ("--set", {"actors": {"count": 4}, "output": {"uri": "${B}"}}),
    ]
    found = {one.name: (one.value, one.origin) for one in resolve(RerankConfig, sources, {"B": "s3://b"})}
    assert found["actors.count"] == (4, "--set")
    assert found["input.uris"] == (["in"], "file")
    assert found["output.uri"] == ("s3://b", "--set, environment")
    assert found["actors.cpus"] == (1.0, "default")
    assert set(found) == set(flatten(validate(RerankConfig, GOOD)))


def test_what_show_prints_is_the_same_configuration() -> None:
    text = shown(resolve(RerankConfig, [("file", {**GOOD, "scoring": {"null_query": "a: #b"}})], {}))
    config = validate(RerankConfig, parse_yaml(text), {})
    assert config.scoring.null_query == "a: #b"
    assert config.input.uris == ("in",)
    assert all("  # " in line for line in text.splitlines() if not line.endswith(":"))


def test_show_refuses_what_a_run_would_refuse(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("inptu: {uris: [a]}\noutput: {uri: out}\n")
    result = invoke("config", "show", "rerank", "--config", str(file))
    assert result.exit_code == 2
    assert "did you mean 'input'?" in result.output
    assert "Traceback" not in result.output
    unknown = invoke("config", "show", "rernk")
    assert (unknown.exit_code, "did you mean 'rerank'?" in unknown.output) == (2, True)


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_the_schema_takes_what_the_job_takes(job: str) -> None:
    described = json.loads(schema(job, config_of(job)))
    jsonschema.Draft202012Validator.check_schema(described)
    good = parse_yaml(example(job, config_of(job)))
    jsonschema.validate(good, described)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "nmae": "x"}, described)


def test_variables_stand_in_addresses_and_nowhere_else() -> None:
    values = {
        "name": "${HOME}",
        "input": {"uris": ["${BUCKET}/a", "b"]},
        "output": {"uri": "${BUCKET}/${DAY}"},
        "qrels": "${BUCKET}/qrels.parquet",
        "storage": {"endpoint_url": "${ENDPOINT}"},
        "scoring": {"null_query": "${BUCKET}"},
    }
    environment = {"BUCKET": "s3://b", "DAY": "1", "ENDPOINT": "http://h"}
    assert expand(RerankConfig, values, environment) == {
        "name": "${HOME}",
        "input": {"uris": ["s3://b/a", "b"]},
        "output": {"uri": "s3://b/1"},
        "qrels": "s3://b/qrels.parquet",
        "storage": {"endpoint_url": "http://h"},
        "scoring": {"null_query": "${BUCKET}"},
    }
    with pytest.raises(ConfigError, match=r"output\.uri: expected the environment to have NOWHERE"):
        expand(RerankConfig, {"output": {"uri": "${NOWHERE}"}}, {})


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_every_address_is_marked_as_one(job: str) -> None:
    kind = config_of(job)
    for name, field in leaves(kind).items():
        looks_like_one = re.search(r"(^|[._])(uris?|url|qrels|answers|texts|questions|lists)$", name)
        assert bool(looks_like_one) <= bool(fact(field, "uri")), name
    assert len(field_names(kind)) > 10


def test_completion_knows_commands_and_options() -> None:
    import os
    import subprocess
    import sys

    program = Path(sys.executable).parent / "qrbatch"
    for words, expected in (("qrbatch conf", "config"), ("qrbatch rerank --mo", "--model")):
        environment = {"_QRBATCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        run = subprocess.run(
            [str(program)], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert expected in run.stdout.split(), (words, run.stdout, run.stderr)
