"""`run_data_audit`: from a source to a saved result, the same bytes again, and truth read back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.data.pixels import PixelStore
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.synthetic import SyntheticRecipe, write_synthetic
from shortcut_audit.errors import DataError, ResultError, RunFolderError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import DataAuditSettings, data_settings_from
from shortcut_audit.results.store import load_result, read_state
from shortcut_audit.results.truth import find_truth
from shortcut_audit.run import data_audit
from shortcut_audit.run.data_audit import DataRequest, run_data_audit

RECIPE: dict[str, Any] = {
    "kind": "synthetic",
    "name": "known",
    "size": (16, 16),
    "n_by_split": {"test": 40},
    "classes": {
        "a": {"special": ({"orbits": ((5, 3),), "strength": 8.0},)},
        "b": {},
        "c": {},
    },
}


def make_set(folder: Path, **changes: Any) -> str:
    recipe = SyntheticRecipe.model_validate({**RECIPE, **changes})
    write_synthetic(recipe, folder / "set", formats=("npz",))
    return f"{folder / 'set' / 'images.npz'}::test"


def audit(spec: str, run: Path | None = None, progress: Any = None, **values: Any) -> AuditResult:
    known = find_truth(spec)
    size = values.pop("size", None)
    request = DataRequest(
        source=open_source(spec),
        settings=data_settings_from(values),
        command="test",
        size=size,
        truth=known[0] if known else None,
    )
    return run_data_audit(request, run, **({"progress": progress} if progress else {}))


def stable(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    content.pop("timing")
    return content


def test_a_result_says_where_it_comes_from_and_what_was_found(tmp_path: Path) -> None:
    spec = make_set(tmp_path)
    stages: dict[str, tuple[int, int]] = {}
    result = audit(
        spec, tmp_path / "run", progress=lambda stage, done, total: stages.update({stage: (done, total)})
    )
    assert result.of_data
    assert result.class_names == ("a", "b", "c")
    data = result.provenance.data
    assert (data.spec, data.n_available, data.n_used) == (spec, 120, 120)
    assert data.n_search_by_class == (40, 40, 40)
    assert data.preprocessing is not None
    assert data.preprocessing.geometry == "as they are"
    assert result.image_passes == 0
    assert (result.grid.height, result.grid.width, result.grid.n_bands) == (16, 16, 4)
    assert {(item.class_name, item.band) for item in result.invitations.items} == {("a", 3)}
    assert stages == {"reading images": (120, 120), "taking spectra": (120, 120)}
    for name in ("class_spectra/adcs", "invitations/z", "class_spectra/amplitude"):
        assert result.arrays[name].shape == (3, result.grid.n_orbits)
    with pytest.raises(ResultError, match="without a model"):
        _ = result.model
    with pytest.raises(ResultError, match="without a model"):
        _ = result.model_settings
    assert isinstance(result.settings, DataAuditSettings)
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["state"] == "finished"
    assert load_result(tmp_path / "run") == result
    for table, n_rows in (("classes", 3), ("bands", 12), ("orbits", 3 * result.grid.n_orbits)):
        frame = result.table(table)
        assert len(frame) == n_rows
        assert set(frame["class"]) == {"a", "b", "c"}
    bands = result.table("bands").set_index(["class", "band"])
    assert bool(bands.loc[("a", 3), "named"])
    assert bands["named"].sum() == 1
    assert bands.loc[("a", 3), "evidence"] == "orbits"
    for _, own in result.table("bands").groupby("class"):
        assert own["energy_share"].sum() == pytest.approx(1)
    classes = result.table("classes").set_index("class")
    assert classes["bands_named"].to_dict() == {"a": "3", "b": "", "c": ""}
    assert classes.loc["a", "n_images"] == 40


def test_a_second_run_ends_with_the_same_bytes_and_takes_the_place_of_the_first(tmp_path: Path) -> None:
    spec = make_set(tmp_path)
    for name in ("one", "two", "one"):
        audit(spec, tmp_path / name)
    assert stable(tmp_path / "one") == stable(tmp_path / "two")
    arrays = [(tmp_path / name / "arrays.safetensors").read_bytes() for name in ("one", "two")]
    assert arrays[0] == arrays[1]
    audit(spec, tmp_path / "two", images_per_class=10)
    assert load_result(tmp_path / "two").provenance.data.n_used == 30
    assert not (tmp_path / "two" / "report.html").exists()


def test_the_seed_chooses_among_images_and_fewer_are_few(tmp_path: Path) -> None:
    spec = make_set(tmp_path)
    some = [audit(spec, images_per_class=12, seed=seed) for seed in (0, 0, 1)]
    digests = [each.provenance.data.digest for each in some]
    assert digests[0] == digests[1] != digests[2]
    assert any("A class has 12 images" in note for note in some[0].notes)


def test_a_killed_audit_leaves_no_result_and_runs_again_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL once it has begun to write: nothing that passes for a result, and no lock on the folder."""
    spec = make_set(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from shortcut_audit.run import data_audit\n"
        "whole = data_audit.save_result\n"
        "def killed(result, run):\n"
        "    (run / '.result.json.half').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "data_audit.save_result = killed\n"
        "from shortcut_audit.data.sources import open_source\n"
        "from shortcut_audit.results.settings import data_settings_from\n"
        "request = data_audit.DataRequest(\n"
        "    source=open_source(sys.argv[1]), settings=data_settings_from({}), command='test')\n"
        "data_audit.run_data_audit(request, Path(sys.argv[2]))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, spec, str(tmp_path / "run")], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["state"] == "running"
    with pytest.raises(ResultError, match="not finished"):
        load_result(tmp_path / "run")
    for name in ("run", "other"):
        audit(spec, tmp_path / name)
    assert stable(tmp_path / "run") == stable(tmp_path / "other")
    assert (tmp_path / "run" / "arrays.safetensors").read_bytes() == (
        tmp_path / "other" / "arrays.safetensors"
    ).read_bytes()


def test_a_folder_of_somebody_elses_is_refused_before_any_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_set(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(data_audit, "collect_images", lambda *args, **values: pytest.fail("read"))
    with pytest.raises(RunFolderError, match="not made by shortcut-audit"):
        audit(spec, tmp_path / "mine")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_full_disk_ends_in_a_sentence_and_leaves_no_half_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_set(tmp_path)

    def full(*args: Any, **values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        audit(spec, tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(ResultError):
        load_result(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_images_that_cannot_be_read_stop_it_or_are_listed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "files" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "files" / name / f"{number}.png")
    (tmp_path / "files" / "a" / "9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"9\.png"):
        audit(str(tmp_path / "files"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = audit(str(tmp_path / "files"), tmp_path / "run", skip_unreadable=True)
    assert [Path(each.image).name for each in result.skipped] == ["9.png"]
    assert any("1 unreadable" in note for note in result.notes)


def save_sizes(folder: Path, sizes: list[tuple[int, int]]) -> str:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes * 4):
            pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return str(folder)


def test_images_of_two_sizes_are_resized_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_audit, "_USUAL_SIZE", (24, 24))
    result = audit(save_sizes(tmp_path / "files", [(20, 20), (30, 18)]))
    assert (result.grid.height, result.grid.width) == (24, 24)
    made = result.provenance.data.preprocessing
    assert made is not None
    assert (made.geometry, made.source) == ("resize and crop", "nobody")
    assert any("differ in size, and were resized and cropped to 24 x 24" in note for note in result.notes)
    result = audit(str(tmp_path / "files"), size=(16, 20))
    assert (result.grid.height, result.grid.width) == (16, 20)
    assert any("The images were resized and cropped to 16 x 20" in note for note in result.notes)


def test_images_of_one_size_are_taken_as_they_are(tmp_path: Path) -> None:
    result = audit(save_sizes(tmp_path / "files", [(20, 14)]))
    assert (result.grid.height, result.grid.width) == (20, 14)
    assert not any("resized" in note for note in result.notes)


@pytest.mark.parametrize("size", [(1, 1), (3, 20)])
def test_images_too_small_for_bands_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pixels have no"):
        audit(save_sizes(tmp_path / "files", [size]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_and_single_images_are_told_in_a_sentence(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3)).astype(np.uint8)
    np.savez(tmp_path / "one.npz", x=images, y=np.zeros(8, dtype=int), classes=np.array(["a"]))
    with pytest.raises(DataError, match="class"):
        audit(str(tmp_path / "one.npz"), tmp_path / "run")
    np.savez(tmp_path / "few.npz", x=images[:3], y=np.array([0, 0, 1]), classes=np.array(["a", "b"]))
    with pytest.raises(DataError):
        audit(str(tmp_path / "few.npz"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_memory_holds_a_block_of_images_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_set(tmp_path)
    monkeypatch.setattr("shortcut_audit.measures.data_side._FLOATS_PER_BLOCK", 3 * 16 * 16 * 10)
    asked: list[int] = []
    whole = PixelStore.block

    def watched(self: PixelStore, start: int, stop: int) -> Any:
        asked.append(stop - start)
        return whole(self, start, stop)

    monkeypatch.setattr(PixelStore, "block", watched)
    audit(spec)
    assert max(asked) == 10
    # Once for the sums, and again only for what stands out.
    assert sum(asked) <= 3 * 120


def test_an_audit_of_data_can_be_tabled_and_rendered_from_the_folder_alone(tmp_path: Path) -> None:
    audit(make_set(tmp_path), tmp_path / "run")
    page = sa.write_report(sa.load_result(tmp_path / "run"), tmp_path / "run")
    assert page == tmp_path / "run" / "report.html"
    assert "Frequencies of" in page.read_text()
