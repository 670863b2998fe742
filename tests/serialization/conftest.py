"""A place to save to."""

import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "object.safetensors"
