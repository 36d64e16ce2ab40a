"""A small part of ``make chaos`` on every test run, and protocols that are broken on purpose, which it must catch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.points import DRIVER_POINTS
from tests.chaos.scenarios import BAD_DAY, Ground, Scenario, ground, play

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def stub_ground(s3_environment: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("chaos"), s3_environment, real=False, stub=True, rows=16) as made:
        yield made


@pytest.mark.parametrize("point", ["after PUT before reply", pytest.param("before manifest", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_ends_as_one_that_is_not(stub_ground: Ground, point: str) -> None:
    outcome = play(stub_ground, Scenario(f"killed {point}", point, kills=1, real=False))
    assert outcome.kills == 1
    assert outcome.whole, outcome
    assert (outcome.commands, outcome.error_rows) == (2 if point in DRIVER_POINTS else 1, 2)


def test_a_bad_network_changes_nothing(stub_ground: Ground) -> None:
    outcome = play(stub_ground, Scenario("bad day", rates=BAD_DAY, real=False, seed=1))
    assert outcome.faults > 10
    assert outcome.whole, outcome


@pytest.mark.slow
def test_of_two_drivers_at_the_manifest_one_commits(stub_ground: Ground) -> None:
    outcome = play(stub_ground, Scenario("paused", paused=True, real=False))
    assert outcome.whole, outcome
    assert outcome.exit_codes == (0, 0)


@pytest.mark.slow
def test_a_create_that_overwrites_is_caught(stub_ground: Ground) -> None:
    outcome = play(stub_ground, Scenario("overwrites", paused=True, real=False, broken="non-atomic create"))
    assert not outcome.whole


@pytest.mark.slow
def test_a_conflict_taken_as_done_is_caught(stub_ground: Ground) -> None:
    rates = {"conflict": 0.5}
    outcome = play(stub_ground, Scenario("hasty", rates=rates, real=False, broken="409 taken as done", seed=2))
    assert not outcome.whole
    fine = play(stub_ground, Scenario("not hasty", rates=rates, real=False, seed=2))
    assert fine.whole, fine


@pytest.mark.slow
def test_a_marker_before_its_data_is_caught(stub_ground: Ground) -> None:
    scenario = Scenario("marker first", "before PUT", kills=1, real=False, broken="marker before data")
    outcome = play(stub_ground, scenario)
    assert outcome.kills == 1
    assert not outcome.whole
