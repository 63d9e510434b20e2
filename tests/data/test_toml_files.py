from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from shortcut_audit.data.toml_files import read_toml, validated
from shortcut_audit.errors import SettingsError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    kind: Literal["a", "b"] = "a"
    parts: tuple[Inner, ...] = ()


def test_a_file_becomes_a_model(tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text('name = "ä"\nparts = [{ size = 3 }]\n', encoding="utf-8")
    assert read_toml(tmp_path / "it.toml", Outer, "plan") == Outer(name="ä", parts=(Inner(size=3),))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"The plan .*it\.toml does not hold: name is missing\."),
        ('name = "x"\nsize = 1', r"does not hold: size is not known\."),
        (
            'name = 3\nkind = "c"',
            r"name: input should be a valid string; kind: input should be 'a' or 'b'",
        ),
        ('name = "x"\nparts = [{ size = 1 }, { }]', r"parts\.1\.size is missing\."),
        ("name = \nkind = 3", r"is not TOML: .*line 1"),
        ("name = 'x'\nname = 'y'", "is not TOML"),
    ],
)
def test_every_fault_is_named_in_one_sentence(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text(content)
    with pytest.raises(SettingsError, match=says) as caught:
        read_toml(tmp_path / "it.toml", Outer, "plan")
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize("how", ["missing", "folder", "latin", "a picture"])
def test_what_is_no_text_file_is_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "it.toml"
    if how == "folder":
        path.mkdir()
    elif how == "latin":
        path.write_bytes('name = "ä"'.encode("latin-1"))
    elif how == "a picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(
        SettingsError, match="cannot be read" if how in {"missing", "folder"} else "not TOML"
    ) as caught:
        read_toml(path, Outer, "plan")
    # What is no text has no line to mend.
    assert caught.value.next_step == {
        "latin": "Name a plan (TOML), or save this one as UTF-8.",
        "a picture": "Name a plan (TOML), or save this one as UTF-8.",
    }.get(how, "Name a plan (TOML).")
    if how == "latin":
        assert "byte 9 of it is no UTF-8 text" in caught.value.problem


def test_content_can_be_validated_without_a_file() -> None:
    assert validated({"name": "x"}, Outer, "It").name == "x"
    with pytest.raises(SettingsError, match="It does not hold: as a whole: input should be"):
        validated([], Outer, "It")  # type: ignore[arg-type]
