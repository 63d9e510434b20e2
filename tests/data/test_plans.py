from __future__ import annotations

from pathlib import Path

import pytest

from shortcut_audit.data.plans import Plan, Planted, read_plan, role_of
from shortcut_audit.errors import SettingsError

ENTRIES = {
    "cosines": 'kind = "cosines"\norbits = [[3, 5], [-4, 2]]\nstrength = 2.0',
    "texture": 'kind = "texture"\nradius = [3, 6.5]\nstrength = 2.0',
    "block-grid": 'kind = "block-grid"\nstrength = 2.0',
    "checkerboard": 'kind = "checkerboard"\nstrength = 2.0',
    "shading": 'kind = "shading"\nstrength = 2.0\ndirection = "diagonal"',
    "cast": 'kind = "cast"\noffset = [4.0, 0.0, -4.0]',
    "contrast": 'kind = "contrast"\nfactor = 1.2',
}


def plan_of(tmp_path: Path, entry: str, before: str = "") -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(f'{before}\n[[plant]]\nclasses = ["a"]\n{entry}\n', encoding="utf-8")
    return read_plan(path)


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_kind_is_read(kind: str, tmp_path: Path) -> None:
    (entry,) = plan_of(tmp_path, ENTRIES[kind]).plant
    assert entry.kind == kind
    assert (entry.classes, entry.share) == (("a",), 1.0)


def test_a_plan_says_what_it_does_where_nothing_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ENTRIES["cosines"])
    assert (plan.seed, plan.headroom, plan.dither, plan.max_clipped) == (0, 0.0, False, 0.01)
    assert plan.plant[0].phase == "random"  # type: ignore[union-attr]
    # Codecs, cameras and interpolation leave patterns that stand still.
    for kind in ("block-grid", "checkerboard", "shading"):
        assert plan_of(tmp_path, ENTRIES[kind]).plant[0].phase == "fixed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('kind = "stripes"\nstrength = 1', "plant.0: input tag 'stripes'"),
        ('kind = "cosines"\nstrength = 1', "plant.0.cosines.orbits is missing"),
        ('kind = "cosines"\norbits = []\nstrength = 1', "plant.0.cosines.orbits: "),
        ('kind = "cosines"\norbits = [[1, 2, 3]]\nstrength = 1', "plant.0.cosines.orbits.0"),
        ('kind = "cosines"\norbits = [[1.5, 2]]\nstrength = 1', "plant.0.cosines.orbits.0.0"),
        ('kind = "cosines"\norbits = [[1, 2]]\nstrength = 0', "strength: input should be greater than 0"),
        ('kind = "cosines"\norbits = [[1, 2]]\nstrength = 256', "less than or equal to 255"),
        ('kind = "cosines"\norbits = [[1, 2]]\nstrength = nan', "strength"),
        (
            'kind = "cosines"\norbits = [[1, 2]]\nstrength = "strong"',
            "strength: input should be a valid number",
        ),
        ('kind = "texture"\nradius = [6, 3]\nstrength = 1', "radius goes from a lower to a higher one"),
        ('kind = "texture"\nradius = [-1, 3]\nstrength = 1', "radius goes from a lower"),
        (
            'kind = "block-grid"\nstrength = 1\nblock = 2',
            "block: input should be greater than or equal to 3",
        ),
        ('kind = "shading"\nstrength = 1\ndirection = "up"', "direction: input should be 'vertical'"),
        ('kind = "cast"\noffset = []', "offset"),
        ('kind = "cast"\noffset = [1, 2, 3, 4]', "offset"),
        ('kind = "contrast"\nfactor = 0', "factor"),
        ('kind = "contrast"\nfactor = 1.2\nstrength = 3', "plant.0.contrast.strength is not known"),
        ('kind = "contrast"\nfactor = 1.2\nshare = 1.1', "share"),
        ('kind = "contrast"\nfactor = 1.2\nshare = 0', "share: input should be greater than 0"),
    ],
)
def test_entries_that_do_not_hold_are_named_in_one_sentence(
    entry: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        plan_of(tmp_path, entry)
    assert says in caught.value.problem
    assert "plan.toml does not hold: " in caught.value.problem
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("[]", "at least one class"),
        ('["a", "a"]', "each once"),
        ('"most"', "classes"),
        ("[3]", "classes"),
    ],
)
def test_classes_are_names_or_all(classes: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f"[[plant]]\nclasses = {classes}\n{ENTRIES['contrast']}\n")
    with pytest.raises(SettingsError, match=says):
        read_plan(path)


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("headroom = 127.5", "headroom: input should be less than 127"),
        ("seed = -1", "seed"),
        ("max_clipped = 2", "max_clipped"),
        ("colour = 1", "colour is not known"),
        ('dither = "maybe"', "dither"),
    ],
)
def test_plans_that_do_not_hold(before: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=says):
        plan_of(tmp_path, ENTRIES["cosines"], before)


def test_a_plan_of_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("seed = 1")
    with pytest.raises(SettingsError, match="plant is missing"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize("kind", ENTRIES)
def test_what_all_classes_carry_is_a_decoy_and_what_is_no_wave_is_to_blame_on_none(
    kind: str, tmp_path: Path
) -> None:
    def entry(classes: str) -> Planted:
        (tmp_path / "plan.toml").write_text(f"[[plant]]\nclasses = {classes}\n{ENTRIES[kind]}\n")
        return read_plan(tmp_path / "plan.toml").plant[0]

    alone = "other" if kind in {"cast", "contrast"} else "shortcut"
    assert role_of(entry('["a"]'), 3) == alone
    assert role_of(entry('["a", "b"]'), 3) == alone
    assert role_of(entry('["a", "b", "c"]'), 3) == "decoy"
    assert role_of(entry('"all"'), 3) == "decoy"
