from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import shortcut_audit as sa
from shortcut_audit.errors import ResultError, RunFolderError
from shortcut_audit.report.html import render
from shortcut_audit.results.audit_result import FORMAT, AuditResult
from shortcut_audit.results.comparison import compared
from shortcut_audit.results.findings import DominantFrequenciesFinding
from shortcut_audit.results.store import (
    check_folder,
    claim_folder,
    content_digest,
    forget_map_so_far,
    read_arrays,
    read_state,
    result_schema,
    save_map_so_far,
    write_state,
    written_aside,
)
from shortcut_audit.results.tables import TABLES


def test_what_is_saved_comes_back(result: AuditResult, tmp_path: Path) -> None:
    back = sa.load_result(result.save(tmp_path / "run"))
    assert back == result
    assert set(back.arrays) == set(result.arrays)
    for name, array in result.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(back.arrays[name], array)


def test_the_file_matches_the_published_schema_and_the_schema_refuses_others(
    result: AuditResult, tmp_path: Path
) -> None:
    content = json.loads((result.save(tmp_path / "run") / "result.json").read_text())
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    rate = content["findings"][0]["accuracy"]
    assert {"hits", "n", "value", "low", "high"} == set(rate)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "format": FORMAT + 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "surprise": 1}, schema)


def test_saving_twice_gives_the_same_bytes(result: AuditResult, tmp_path: Path) -> None:
    first, second = result.save(tmp_path / "a"), result.save(tmp_path / "b")
    for name in ("result.json", "arrays.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_result_of_format_1_is_still_read(result: AuditResult, tmp_path: Path) -> None:
    """As version 0.1 saved it: no slopes, no energies of bands, and nothing of any truth."""
    old = result.with_arrays({k: v for k, v in result.arrays.items() if k != "class_spectra/band_energy"})
    folder = old.save(tmp_path / "run")
    content = json.loads((folder / "result.json").read_text())
    content["format"] = 1
    del content["result_sha256"]
    spectra = next(f for f in content["findings"] if f["measure"] == "class_spectra")
    del spectra["slope_by_class"]
    content["findings"] = [f for f in content["findings"] if f["measure"] != "truth"]
    (folder / "result.json").write_text(json.dumps(content))
    back = sa.load_result(folder)
    assert back.format == FORMAT
    assert back.class_spectra.slope_by_class == ()
    assert back.truth is None
    assert not back.of_data
    for table in TABLES:
        pd.testing.assert_frame_equal(back.table(table), result.table(table))
    assert len(render(back)) > 1000
    assert sa.load_result(back.save(tmp_path / "again")) == back


def test_a_result_of_format_2_is_still_read(result: AuditResult, tmp_path: Path) -> None:
    """As version 0.2 saved it: the exact search of single orbits, and nothing of others or budgets."""
    folder = result.save(tmp_path / "run")
    content = json.loads((folder / "result.json").read_text())
    content["format"] = 2
    del content["result_sha256"]
    for name in ("search", "budget", "resolution", "confidence", "patch_sides", "candidates", "steps"):
        del content["settings"][name]
    (maps,) = [f for f in content["findings"] if f["measure"] == "dominant_frequencies"]
    newer = ("search", "search_reason", "search_settings", "stopped", "image_passes", "backward_images")
    for name in newer:
        del maps[name]
    for item in maps["by_class"]:
        for name in ("resolution", "resolution_reason", "n_images_enough", "fidelity"):
            del item[name]
    (folder / "result.json").write_text(json.dumps(content))
    back = sa.load_result(folder)
    assert back.format == FORMAT == 7
    found = back.dominant_frequencies
    assert (found.search, found.stopped, found.image_passes) == ("exact", "", None)
    assert {item.resolution for item in found.by_class} == {"orbits"}
    for table in TABLES:
        assert len(back.table(table)) == len(result.table(table))
    assert len(render(back)) > 1000
    assert sa.load_result(back.save(tmp_path / "again")) == back


def test_a_result_of_format_5_is_still_read(result: AuditResult, tmp_path: Path) -> None:
    """As it was before outcomes of single images and steps of examples were kept."""
    newer = [name for name in result.arrays if name.startswith("outcomes/")]
    assert len(newer) == 9
    old = result.with_arrays({k: v for k, v in result.arrays.items() if k not in newer})
    folder = old.save(tmp_path / "run")
    content = json.loads((folder / "result.json").read_text())
    content["format"] = 5
    del content["result_sha256"]
    (shortcuts,) = [f for f in content["findings"] if f["measure"] == "shortcuts"]
    assert all(item.pop("example_steps") for item in shortcuts["by_class"])
    (folder / "result.json").write_text(json.dumps(content))
    back = sa.load_result(folder)
    assert back.format == FORMAT
    assert (back.format_found, result.format_found) == (5, FORMAT)
    told = compared(back, result).differences
    assert any((each.what, each.first) == ("format of the result", "5") for each in told)
    assert back.predictions == result.predictions
    for item, now in zip(back.shortcuts.by_class, result.shortcuts.by_class, strict=True):
        assert item == now.model_copy(update={"example_steps": ()})
    for table in TABLES:
        pd.testing.assert_frame_equal(back.table(table), result.table(table))
    assert len(render(back)) > 1000
    assert sa.load_result(back.save(tmp_path / "again")) == back


@pytest.mark.parametrize("found", [0, -1, 1.5, "2", None, [2]])
def test_a_format_that_never_was_is_refused(found: object, result: AuditResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "run")
    content = json.loads((folder / "result.json").read_text())
    del content["result_sha256"]
    (folder / "result.json").write_text(json.dumps({**content, "format": found}))
    with pytest.raises(ResultError, match="not a result of this tool: format"):
        sa.load_result(folder)


def damage(folder: Path, how: str) -> None:
    result, arrays = folder / "result.json", folder / "arrays.safetensors"
    if how == "no result":
        result.unlink()
    elif how == "half a result":
        result.write_bytes(result.read_bytes()[:500])
    elif how == "not json":
        result.write_bytes(b"\xff\xfe\x00")
    elif how == "a list":
        result.write_text("[]")
    elif how == "newer format":
        result.write_text(result.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    elif how == "impossible rate":
        content = json.loads(result.read_text())
        content["findings"][0]["accuracy"]["hits"] = 10**6
        content["result_sha256"] = content_digest(content)
        result.write_text(json.dumps(content))
    elif how == "no arrays":
        arrays.unlink()
    elif how == "flipped bit":
        content = bytearray(arrays.read_bytes())
        content[-5] ^= 1
        arrays.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no result", "holds no audit"),
        ("half a result", "damaged"),
        ("not json", "damaged"),
        ("a list", "not a result"),
        ("newer format", "format 99"),
        ("impossible rate", "hits among"),
        ("no arrays", "missing"),
        ("flipped bit", "digest differs"),
    ],
)
def test_damaged_results_are_refused_with_a_reason(
    how: str, says: str, result: AuditResult, tmp_path: Path
) -> None:
    folder = result.save(tmp_path / "run")
    damage(folder, how)
    with pytest.raises(ResultError, match=says):
        sa.load_result(folder)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    class StopError(Exception):
        pass

    def write_half() -> None:
        with written_aside(path) as stream:
            stream.write(b"half")
            raise StopError

    with pytest.raises(StopError):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_foreign_folders_and_files_are_not_ours_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not made by"):
        claim_folder(tmp_path)
    with pytest.raises(RunFolderError, match="a file"):
        claim_folder(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    assert claim_folder(tmp_path / "empty") is None
    assert claim_folder(tmp_path / "new" / "deep") == tmp_path / "new"
    assert (tmp_path / "new" / "deep").is_dir()


def test_a_state_file_of_another_tool_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"kind": "other"}')
    assert read_state(tmp_path) is None


def test_a_map_so_far_is_kept_replaced_and_forgotten(result: AuditResult, tmp_path: Path) -> None:
    finding = result.dominant_frequencies
    arrays = {name: a for name, a in result.arrays.items() if name.startswith("dominant_frequencies/")}
    for step in (1, 2):
        stepped = {name: array * step for name, array in arrays.items()}
        save_map_so_far(tmp_path, finding.model_copy(update={"image_passes": step}), stepped)
        assert {path.name for path in tmp_path.iterdir()} == {
            "map-so-far.json",
            "map-so-far.safetensors",
        }
        back = DominantFrequenciesFinding.model_validate_json((tmp_path / "map-so-far.json").read_text())
        assert back == finding.model_copy(update={"image_passes": step})
        for name, array in read_arrays(tmp_path / "map-so-far.safetensors")[0].items():
            np.testing.assert_array_equal(array, stepped[name])
    # It is no result, and is not read as one.
    with pytest.raises(ResultError, match="holds no audit"):
        sa.load_result(tmp_path)
    forget_map_so_far(tmp_path)
    forget_map_so_far(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_a_result_cannot_be_changed(result: AuditResult) -> None:
    with pytest.raises(ValueError, match="read-only"):
        result.arrays["orbits/u"][0] = 1


def test_a_folder_that_holds_something_else_is_neither_read_nor_overwritten(
    result: AuditResult, tmp_path: Path
) -> None:
    folder = tmp_path / "shapes"
    claim_folder(folder, "cue conflict")
    write_state(folder, {"state": "finished", "of": "cue conflict"})
    with pytest.raises(ResultError, match="holds a cue conflict, and no audit"):
        sa.load_result(folder)
    with pytest.raises(
        RunFolderError, match="holds a cue conflict, and would be overwritten by an audit"
    ):
        result.save(folder)
    claim_folder(folder, "cue conflict")
    audit = result.save(tmp_path / "run")
    write_state(audit, {"state": "finished"})
    with pytest.raises(RunFolderError, match="holds an audit, and would be overwritten by a self-test"):
        check_folder(audit, "self-test")
    check_folder(audit)
