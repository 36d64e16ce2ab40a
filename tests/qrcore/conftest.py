"""Tiny models of every family, built once a session."""

from __future__ import annotations

import pytest

from tests.qrcore.families import FamilyModels


@pytest.fixture(scope="session")
def family_models(tmp_path_factory: pytest.TempPathFactory) -> FamilyModels:
    return FamilyModels(tmp_path_factory.mktemp("families"))
