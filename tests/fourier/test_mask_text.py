from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.mask_text import Loader, parse_mask
from shortcut_audit.fourier.masks import (
    BoolArray,
    band_mask,
    orbit_mask,
    radial_mask,
    sector_mask,
    square_mask,
)

GRID = FrequencyGrid(32, 24)
ALL = np.ones(GRID.n_orbits, dtype=bool)
DC = np.arange(GRID.n_orbits) == 0
LOW, HIGH = band_mask(GRID, 1), band_mask(GRID, 4)
MEANINGS = {
    "band:1/4": LOW,
    "BAND: 4 / 4": HIGH,
    "band:2-3/6": band_mask(GRID, 2, 6) | band_mask(GRID, 3, 6),
    "band:1-4/4": ALL & ~DC,
    "radius:4-8": radial_mask(GRID, 4, 8),
    "radius:4..8": radial_mask(GRID, 4, 8),
    "radius:.5-8.25": radial_mask(GRID, 0.5, 8.25),
    "radius:4-": radial_mask(GRID, 4),
    "radius:-4": radial_mask(GRID, 0, 4),
    "angle:30-60": sector_mask(GRID, 30, 60),
    "angle:-30-30": sector_mask(GRID, -30, 30),
    "angle:-60--30": sector_mask(GRID, -60, -30),
    "angle:80--80": sector_mask(GRID, 80, -80),
    "angle:80-100": sector_mask(GRID, 80, 100),
    "square:0.3": square_mask(GRID, 0.3),
    "orbits:(5,9)": orbit_mask(GRID, [(5, 9)]),
    "orbits:(5,9),(-11,4)": orbit_mask(GRID, [(5, 9), (-11, 4)]),
    "orbits: ( 5 , -9 ) , (-11, 4), band:1/4": orbit_mask(GRID, [(5, -9), (-11, 4)]) | LOW,
    "orbits:(5,9),(band:1/4)": orbit_mask(GRID, [(5, 9)]) | LOW,
    "dc": DC,
    "all": ALL,
    "!dc": ALL & ~DC,
    "!!dc": DC,
    "!band:1/4": ~LOW,
    "band:1/4+band:4/4": LOW | HIGH,
    "band:1/4,band:4/4": LOW | HIGH,
    "band:1/4 + band:1/4": LOW,
    "dc + band:1/4 & angle:0-45": DC | (LOW & sector_mask(GRID, 0, 45)),
    "(dc + band:1/4) & angle:0-45": (DC | LOW) & sector_mask(GRID, 0, 45),
    "!(band:1/4 + dc) & !angle:0-45": ~(LOW | DC) & ~sector_mask(GRID, 0, 45),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_text_means_what_it_says(text: str) -> None:
    np.testing.assert_array_equal(parse_mask(text, GRID), MEANINGS[text])


words = st.sampled_from(["band:1/4", "radius:2-9", "angle:-20-50", "square:0.4", "orbits:(3,-4)", "dc"])


@given(words, words, words)
def test_words_combine_as_sets_do(a: str, b: str, c: str) -> None:
    def mask(text: str) -> BoolArray:
        return parse_mask(f"{text} + orbits:(16,12)", GRID)

    one, other, third = (parse_mask(word, GRID) for word in (a, b, c))
    extra = orbit_mask(GRID, [(16, 12)])
    np.testing.assert_array_equal(mask(f"{a} & {b} + {c}"), one & other | third | extra)
    np.testing.assert_array_equal(mask(f"{a} & ({b}, {c})"), one & (other | third) | extra)
    np.testing.assert_array_equal(mask(f"!({a} + {b})"), ~one & ~other | extra)
    np.testing.assert_array_equal(mask(f"!{a} & !{b}"), mask(f"!({a} + {b})"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends where a mask should be"),
        ("  ", "ends where a mask should be"),
        ("band:1/4 +", "ends where a mask should be"),
        ("band:1/4 + + dc", "wants a mask before '\\+ dc'"),
        ("lala", "holds 'lala', which is no mask"),
        ("rings:3", "holds 'rings:', and there are angle, band, orbits, radius, square, dc and all"),
        ("file:a.npy", "holds 'file:'"),
        ("5", "wants a mask before '5'"),
        ("(band:1/4", "has an open bracket"),
        ("band:1/4)", "ends before '\\)'"),
        ("dc band:1/4", "ends before 'band:1/4'"),
        ("(" * 60 + "dc" + ")" * 60, "more than 50 brackets"),
        ("(" * 5000, "more than 50 brackets"),
        ("band:2", "no band of a number of bands"),
        ("band:1.5/4", "no band of a number of bands"),
        ("band:3-1/4", "reversed"),
        ("band:5/4", "no band 5 of 4"),
        ("band:0/4", "no band 0 of 4"),
        ("band:2-5/4", "no band 5 of 4"),
        ("band:1/0", "no band 1 of 0"),
        ("radius:8-4", "8 to 4 are no band"),
        ("radius:30-40", "leave the plane"),
        ("radius:8-40", "leave the end open: radius:8-"),
        ("radius:", "no range of radii"),
        ("radius:-", "no range of radii"),
        ("radius:4", "no range of radii"),
        ("radius:four-8", "no range of radii"),
        ("radius:1e3-", "no range of radii"),
        ("angle:30", "no range of directions"),
        ("angle:30-", "no range of directions"),
        ("angle:30-30", "empty"),
        ("angle:0-200", "leave the plane"),
        ("square:", "no cut-off"),
        ("square:-0.1", "no cut-off"),
        ("square:1.5", "leaves the plane"),
        ("orbits:5,9", "names no orbit"),
        ("orbits:(5,9,1)", "names no orbit"),
        ("orbits:(5.5,9)", "names no orbit"),
        ("orbits:(17,0)", "outside the plane"),
        ("radius:0.1-0.2", "'radius:0.1-0.2' holds no orbit of 32 x 24 images"),
        ("band:1/4 + radius:0.1-0.2", "'radius:0.1-0.2' holds no orbit"),
        ("band:1/200", "holds no orbit"),
        ("band:1/4 & band:2/4", "'band:1/4 & band:2/4' holds no orbit"),
        ("!all", "holds no orbit"),
        ("dc & band:1/4", "holds no orbit"),
    ],
)
def test_what_is_no_mask_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse_mask(text, GRID)
    assert caught.value.next_step
    assert "\n" not in str(caught.value)


def test_noise_is_refused_and_never_a_traceback() -> None:
    generator = np.random.default_rng(0)
    signs = np.array(list("band:radius0123456789/-.,+&!()'\" x@dcangle"))
    for _ in range(3000):
        text = "".join(generator.choice(signs, generator.integers(1, 25)))
        try:
            parse_mask(text, GRID, {"file": lambda argument, grid: ALL})
        except SettingsError as error:
            assert error.problem.endswith(".")
            assert "\n" not in str(error)


# Words with loaders -------------------------------------------------------------------------------

ARGUMENTS = {
    "map:run/a:cat": ["run/a:cat"],
    "map:run/a:tench, Tinca tinca@0.05": ["run/a:tench, Tinca tinca@0.05"],
    "map:a+b:cat&dog + band:1/4": ["a+b:cat&dog"],
    "map:a:cat+map:b:dog": ["a:cat", "b:dog"],
    "map:a:cat & !dc": ["a:cat"],
    "map:a:cat,all": ["a:cat"],
    "map:a:cat,alligator": ["a:cat,alligator"],
    "map:a:cat, (band:1/4)": ["a:cat"],
    "map:a (1):cat (tabby)": ["a (1):cat (tabby)"],
    "(map:a (1):cat) & all": ["a (1):cat"],
    "(map:a:cat + map:b:dog) & all": ["a:cat", "b:dog"],
    'map:"a:cat + band:1/4"': ["a:cat + band:1/4"],
    "map:'a:cat' + band:1/4": ["a:cat"],
    "orbits:list (1), of.txt, dc": ["list (1), of.txt"],
    "MAP:a:Cat": ["a:Cat"],
}


@pytest.mark.parametrize("text", ARGUMENTS)
def test_names_and_paths_may_hold_signs(text: str) -> None:
    seen = []

    def load(argument: str, grid: FrequencyGrid) -> BoolArray:
        seen.append(argument)
        return orbit_mask(grid, [(1, 1)])

    loaders: dict[str, Loader] = {"map": load, "orbits": load}
    parse_mask(text, GRID, loaders)
    assert seen == ARGUMENTS[text]


def test_pairs_of_orbits_are_no_file_and_an_open_quote_is_told() -> None:
    loaders: dict[str, Loader] = {"orbits": lambda argument, grid: ALL}
    assert parse_mask("orbits:(1,2)", GRID, loaders).sum() == 1
    assert parse_mask("orbits:list.txt", GRID, loaders).all()
    with pytest.raises(SettingsError, match="open quotation mark"):
        parse_mask("orbits:'list.txt", GRID, loaders)


def test_a_loader_that_finds_nothing_is_told() -> None:
    loaders: dict[str, Loader] = {"file": lambda argument, grid: ~ALL}
    with pytest.raises(SettingsError, match="'file:empty.npy' holds no orbit"):
        parse_mask("file:empty.npy + band:1/4", GRID, loaders)
