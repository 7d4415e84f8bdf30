"""Tests in this folder use only their own hub, mirror and cache."""

import datasets
import huggingface_hub
import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Tests in this process use only their own hub, mirror and cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("JBN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JBN_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()


@pytest.fixture
def mirror(tmp_path):
    return tmp_path / "mirror"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "images"
