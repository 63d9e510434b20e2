"""The page of an audit of data: everything it names is on it, and hostile names break nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import save_npz

import shortcut_audit as sa
from shortcut_audit.data.sources import open_source
from shortcut_audit.report.html import render
from shortcut_audit.report.summary import data_headline, invitation_sentence, truth_sentences
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import PatternRecovery, TruthFinding
from shortcut_audit.results.settings import DataAuditSettings
from shortcut_audit.run.data_audit import DataRequest, run_data_audit

NAMES = ["<script>alert(1)</script>", "\"quoted\" & 'so'", "plain", "🦓"]


def striped(strength: float, n: int = 40, size: int = 16) -> list[tuple[np.ndarray, int]]:
    """White noise in four classes; the first one carries a wave on orbit (3, 5)."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size]
    pairs = []
    for label in range(4):
        for _ in range(n):
            image = 128 + 12 * generator.standard_normal((3, size, size))
            if label == 0:
                phase = generator.uniform(0, 2 * np.pi)
                image += strength * np.cos(2 * np.pi * (3 * y + 5 * x) / size + phase)
            pairs.append((np.clip(np.rint(image), 0, 255).astype(np.uint8), label))
    return pairs


def look(path: Path, strength: float) -> AuditResult:
    source = open_source(str(save_npz(path, striped(strength), NAMES)))
    return run_data_audit(DataRequest(source=source, settings=DataAuditSettings(), command="test"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    return look(tmp_path_factory.mktemp("look") / "images.npz", 8.0)


def test_the_page_names_what_the_result_names(found: AuditResult) -> None:
    page = render(found)
    (item,) = found.invitations.items
    assert (item.class_name, item.band, item.orbits) == (NAMES[0], 3, ((3, 5),))
    assert "<script>" not in page
    text = re.sub(r"&#34;|&quot;", '"', page).replace("&#39;", "'").replace("&lt;", "<")
    text = text.replace("&gt;", ">").replace("&amp;", "&")
    assert invitation_sentence(item) in text
    assert data_headline(found) in text
    assert page.count("<article") == 4
    assert "http" not in page.replace("http-equiv", "")
    assert page == render(found)


def test_a_clean_set_says_that_nothing_stands_out(tmp_path: Path) -> None:
    clean = look(tmp_path / "images.npz", 0.0)
    assert clean.invitations.items == ()
    assert "No band stands out in any class" in render(clean)
    assert clean.truth is None
    assert "What is known of this set" not in render(clean)


def test_truth_is_told_in_one_sentence_a_pattern(found: AuditResult) -> None:
    def recovery(**values: object) -> PatternRecovery:
        base = {"pattern": "p", "class_name": NAMES[2], "expected": True, "bands": (2, 3), "n_orbits": 2}
        return PatternRecovery.model_validate({**base, "bands_found": (3,), **values})

    def told(*patterns: PatternRecovery, false: tuple[tuple[str, int], ...] = ()) -> list[str]:
        truth = TruthFinding(name="t", kind="planted", by_pattern=patterns, false_names=false)
        return truth_sentences(found.model_copy(update={"findings": (*found.findings, truth)}))

    assert told(recovery()) == [
        "Planted in “plain”: p, band 2, 3; named: 3.",
        "Nothing was named that was not planted.",
    ]
    decoys = [recovery(class_name=name, expected=False, pattern="d") for name in NAMES]
    assert told(*decoys, false=((NAMES[2], 4),)) == [
        "Planted in all classes: d; no orbit tells a class by it.",
        "Named, and not planted: “plain” band 4.",
    ]
    assert told(recovery(bands_found=None, ranks=(1, 7), n_in_map=1))[0] == (
        "Planted in “plain”: p; 1 of its 2 orbits are in the class's map (ranks 1, 7)."
    )


def test_a_data_result_is_saved_read_and_has_no_model(found: AuditResult, tmp_path: Path) -> None:
    again = sa.load_result(found.save(tmp_path / "run"))
    assert again == found
    assert again.of_data
    for missing in ("model", "model_settings", "shortcuts", "dominant_frequencies"):
        with pytest.raises(sa.AuditError):
            getattr(again, missing)
    assert sa.write_report(again, tmp_path / "run").is_file()
