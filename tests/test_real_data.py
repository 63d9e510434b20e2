"""The audit on real images and a really trained network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from replicas import cross_entropy_of, log_odds_of, logits_of, remove_bins
from torch import nn

import shortcut_audit as sa
from shortcut_audit.cli.main import main
from shortcut_audit.data.sources import open_source
from shortcut_audit.measures.dominant_frequencies import DominantFrequencies
from shortcut_audit.measures.interface import Shard
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

EXAMPLE = Path(__file__).parent.parent / "examples" / "resnet_cifar.py"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def command(*words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)


def cifar_words(shared_data: Path, out: Path, *more: str) -> list[str]:
    weights = shared_data / "checkpoints" / "resnet20-12fca82f.th"
    words = ["audit", "--model", f"{EXAMPLE}:resnet20", "--checkpoint", str(weights)]
    return [*words, "--data", f"{shared_data / 'cifar10_lossless.npz'}::test", "--out", str(out), *more]


def test_resnet20_on_cifar10_from_the_command_line(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command(*cifar_words(shared_data, run, "--classes", "ship"), monkeypatch=monkeypatch)
    said = capfd.readouterr().out
    assert "91.0% of 500 images" in said
    assert "514 orbits" in said
    assert str(run / "report.html") in said
    result = sa.load_result(run)
    assert (result.predictions.accuracy.hits, result.predictions.accuracy.n) == (455, 500)
    assert result.grid.n_orbits == 514
    assert result.provenance.data.n_used == 500
    assert (run / "report.html").stat().st_size < 1_500_000
    command(
        "export",
        str(run),
        "--table",
        "orbits",
        "--output",
        str(tmp_path / "o.csv"),
        monkeypatch=monkeypatch,
    )
    assert len(pd.read_csv(tmp_path / "o.csv")) == 514


def test_resnet20_agrees_with_the_slow_replica_on_real_images(
    shared_data: Path, resnet20: nn.Module
) -> None:
    source = open_source(f"{shared_data / 'cifar10_lossless.npz'}::test")
    check_against_replica(resnet20, source, resnet20.pretrained_cfg, n_orbits=12, tolerance=1e-4)


@pytest.mark.slow
def test_timm_resnet18_at_224_agrees_with_the_slow_replica_on_real_images(shared_data: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet18", pretrained=False, num_classes=10)
    source = open_source(f"{shared_data / 'imagenette224.npz'}::test")
    check_against_replica(network, source, network.pretrained_cfg, n_orbits=6, tolerance=1e-4)


def check_against_replica(
    network: nn.Module, source: Any, config: dict[str, Any], n_orbits: int, tolerance: float
) -> None:
    """One shard as an audit runs it, in single precision, against full transforms in double."""
    request = AuditRequest(
        model=LoadedModel(network, "test", "test", config),
        source=source,
        settings=settings_from({"images_per_class": 4, "batch_size": 5, "search": "exact"}),
        command="test",
    )
    with prepared_audit(request, None) as prepared:
        subject = prepared.subject
        rows = subject.outline.search_rows[3]
        first = subject.grid.n_orbits // 3
        orbits = (first, first + n_orbits)
        shard = Shard("dominant_frequencies", "search", 3, rows, orbits, 0)
        block = subject.block(rows)
        totals = DominantFrequencies().run(shard, subject, block, {}, lambda n: None)
        images = subject.images.store.block(*rows).astype(np.float64)
        grid = subject.grid
    replica = network.double().eval()
    for fold, image in enumerate(images):
        clean = logits_of(replica, image, MEAN, STD)
        for column, orbit in enumerate(range(*orbits)):
            bins = {(int(grid.u[orbit]), int(grid.v[orbit])), (-int(grid.u[orbit]), -int(grid.v[orbit]))}
            left = logits_of(replica, remove_bins(image, bins), MEAN, STD)
            expected = [
                log_odds_of(clean, 3) - log_odds_of(left, 3),
                cross_entropy_of(left, 3) - cross_entropy_of(clean, 3),
                float(((left - clean) ** 2).sum()),
            ]
            np.testing.assert_allclose(
                totals["sums"][fold, :, column], expected, atol=tolerance, rtol=1e-3
            )
    network.float()


@pytest.mark.slow
def test_a_dry_run_at_224_counts_every_pass_and_writes_nothing(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--model",
        "timm:resnet18",
        "--no-pretrained",
        "--data",
        f"{shared_data / 'imagenette224.npz'}::test",
    ]
    words += [
        "--out",
        str(tmp_path / "run"),
        "--dry-run",
        "--search",
        "exact",
        "--images-per-class",
        "10",
        "--batch-size",
        "16",
    ]
    command("audit", *words, monkeypatch=monkeypatch)
    said = capfd.readouterr().out
    # 10 classes x 5 search images x (25,090 orbits, and a clean pass for each of 4 slices of orbits);
    # 100 predictions; 50 judgement images x (their own map, 3 others, and none).
    kept = 50 * 5
    # Six rungs: all transplanted, four of them removed. Three with foreign, with no and with random
    # orbits in their place, two removed besides, two with random orbits removed; two rings with
    # foreign ones, with none, removed.
    deciding = 6 + 4 + 3 * 3 + 2 + 2 + 2 * 3
    # Four rungs kept of own images and of others, once at random; eight rings and the corners, and
    # eight pairs of neighbours; two colours.
    telling = 2 * 4 + 1 + 9 + 8 + 2
    # An example of each class in three forms, and over seven growing shares of its ranking.
    examples = 10 * (3 + 7)
    judged = kept + 50 * (deciding + telling) + examples
    assert f"{10 * 5 * 25094:,} image passes" in said
    assert f"{10 * 5 * 25094 + 100 + judged:,} image passes" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_whole_audit_of_resnet20_gives_the_published_picture(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 25 images a class, maps of cross-entropy are noise, and those of sensitivity are not."""
    run = tmp_path / "run"
    command(*cifar_words(shared_data, run, "--search", "exact"), monkeypatch=monkeypatch)
    result = sa.load_result(run)
    by_response: dict[str, list[float]] = {}
    for item in result.dominant_frequencies.by_class:
        for response, found in item.reliability.items():
            assert found.half_correlation is not None
            by_response.setdefault(response, []).append(found.half_correlation)
    assert np.median(by_response["cross-entropy"]) < 0.25
    assert np.median(by_response["squared-logit-change"]) > 0.6
    assert np.median(by_response["log-odds"]) > np.median(by_response["cross-entropy"])
    content = json.loads((run / "result.json").read_text())
    assert content["provenance"]["model"]["n_outputs"] == 10
    n_search = sum(result.provenance.data.n_search_by_class)
    assert result.dominant_frequencies.image_passes == n_search * 515
    # Beside the search: every image once for the accuracy, and the judgement, where each image is seen
    # as it is and with each of ten maps at least.
    assert result.image_passes >= n_search * 515 + 500 + (500 - n_search) * 11
