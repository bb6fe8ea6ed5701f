"""What all tests share: two threads at most, no network, a cache of their own, and tiny encoders."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("LWCL_CRASH_AT", None)

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("lwcl", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("lwcl")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test keeps its cache to itself."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LWCL_CACHE", str(folder))
    return folder
