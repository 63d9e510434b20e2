from __future__ import annotations

import importlib.metadata

import pytest

from shortcut_audit.results.provenance import installed_versions


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
@pytest.mark.parametrize("installed", [True, False])
def test_onnxruntime_is_named_where_it_is_installed(
    name: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package == name and installed:
            return "9.9"
        if package.startswith("onnxruntime"):
            raise importlib.metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    versions = installed_versions()
    assert {k: v for k, v in versions.items() if k.startswith("onnx")} == (
        {name: "9.9"} if installed else {}
    )
    assert versions["torch"] == real("torch")
