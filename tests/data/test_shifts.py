"""Shifts: the same bits however images are batched; spectra against their definition, taken slowly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images, save_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import conjugate_pairs
from torch import Tensor

from shortcut_audit.data import shifts as shifts_module
from shortcut_audit.data.corruptions import CORRUPTIONS
from shortcut_audit.data.shift_spectra import ShiftRecord, SpectrumTotals
from shortcut_audit.data.shifts import (
    SPECTRA_ARRAYS,
    SPECTRA_FILE,
    Shift,
    corrupt,
    corruption_spectrum,
    parse_severities,
    parse_shifts,
    write_shifts,
)
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import AuditError, DataError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.store import read_arrays

RANDOM = tuple(name for name, corruption in CORRUPTIONS.items() if corruption.is_random)


def images_of(n: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, 256, (n, *shape), generator=generator)
    return (steps / 255).to(dtype)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small images are faster so, and more so on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


# -- seeds ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_batching_in_any_order_gives_the_same_bits(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(tuple(CORRUPTIONS)))
    channels = 3 if CORRUPTIONS[name].needs_colour else data.draw(st.sampled_from((1, 3)))
    height, width = data.draw(st.sampled_from(((16, 16), (17, 21), (32, 20))))
    severity, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 2**40))
    images = images_of(7, channels, height, width)
    keys = data.draw(st.permutations((0, 1, 2, 10, "cat/1.png", 10**9, "é")))
    whole = corrupt(images, name, severity, seed, keys)
    order = data.draw(st.permutations(range(7)))
    borders = sorted(data.draw(st.lists(st.integers(0, 7), max_size=3)))
    for start, stop in itertools.pairwise((0, *borders, 7)):
        rows = list(order[start:stop])
        part = corrupt(images[rows], name, severity, seed, [keys[row] for row in rows])
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_number_of_threads_and_the_layout_in_memory_leave_no_trace(name: str) -> None:
    images = images_of(3, 3, 65, 64)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n, layout in (
            (1, images),
            (3, images),
            (2, images.contiguous(memory_format=torch.channels_last)),
        ):
            torch.set_num_threads(n)
            found.append(corrupt(layout, name, 3, 1, range(3)))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_hang_on_seed_name_and_index(name: str) -> None:
    image = images_of(1, 3, 24, 24)
    first = corrupt(image, name, 3, 0, [5])
    assert torch.equal(first, corrupt(image, name, 3, 0, ["5"]))
    assert not torch.equal(first, corrupt(image, name, 3, 1, [5]))
    assert not torch.equal(first, corrupt(image, name, 3, 0, [6]))
    assert not torch.equal(first, corrupt(image, name, 3, 0, ["05"]))


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - set(RANDOM)))
def test_what_is_not_random_needs_no_seed(name: str) -> None:
    image = images_of(1, 3, 24, 24)
    assert torch.equal(corrupt(image, name, 3, 0, [5]), corrupt(image, name, 3, 9, [6]))


def test_different_corruptions_draw_different_numbers_and_severities_the_same() -> None:
    image = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64)
    weak, strong = (corrupt(image, "gaussian_noise", s, 0, [0], clip=False) - 0.5 for s in (1, 5))
    assert torch.allclose(weak * 2.5, strong)
    white = strong / strong.std()
    banded = corrupt(image, "band_noise_4", 5, 0, [0], clip=False) - 0.5
    assert abs(float((white * banded / banded.std()).mean())) < 0.15


def test_the_callers_random_numbers_and_images_are_left_alone() -> None:
    images = images_of(2, 3, 16, 16)
    before, states = images.clone(), (torch.get_rng_state(), str(np.random.get_state()))  # noqa: NPY002
    for name in CORRUPTIONS:
        corrupt(images, name, 2, 0, [0, 1])
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_nought_is_the_image_as_it_is(name: str) -> None:
    images = images_of(2, 1, 9, 11)
    assert torch.equal(corrupt(images, name, 0, 3, [0, 1]), images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_floating_type_comes_back_as_itself_with_the_same_corruption(
    name: str, dtype: torch.dtype
) -> None:
    images = images_of(2, 3, 16, 16)
    done = corrupt(images.to(dtype), name, 2, 0, [0, 1], eight_bit=True)
    assert done.dtype == dtype
    expected = corrupt(images.to(dtype).float(), name, 2, 0, [0, 1], eight_bit=True)
    # Where an image lies on the edge of two steps, or of two counts of photons, it may fall either way.
    off = (done.float() - expected).abs() > 0.006
    assert float(off.float().mean()) < 0.01


def test_eight_bit_is_what_a_written_copy_holds() -> None:
    images = images_of(3, 3, 16, 16)
    done = corrupt(images, "gaussian_noise", 5, 0, range(3), eight_bit=True)
    raw = corrupt(images, "gaussian_noise", 5, 0, range(3), clip=False)
    expected = (raw.double().clamp(0, 1) * 255).round()
    assert float(raw.min()) < 0
    assert torch.allclose((done * 255).double(), expected, atol=1e-4)


def test_an_empty_batch_stays_empty() -> None:
    for name in CORRUPTIONS:
        assert corrupt(torch.zeros(0, 3, 8, 8), name, 1, 0, []).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "name", "severity", "indices", "says"),
    [
        (torch.rand(1, 3, 8, 8), "gausian_noise", 1, [0], "no corruption 'gausian_noise'"),
        (torch.rand(1, 3, 8, 8), "jpeg", 6, [0], "no severity 6"),
        (torch.rand(1, 3, 8, 8), "jpeg", -1, [0], "no severity -1"),
        (torch.rand(3, 8, 8), "jpeg", 1, [0], "shape (3, 8, 8)"),
        (torch.rand(1, 4, 8, 8), "jpeg", 1, [0], "shape (1, 4, 8, 8)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "jpeg", 1, [0], "torch.uint8"),
        (torch.rand(2, 3, 8, 8), "jpeg", 1, [0], "2 images came with 1 indices"),
        (torch.rand(1, 3, 1, 8), "jpeg", 1, [0], "1 x 8 pixels are too small"),
        (torch.rand(1, 3, 8, 8) * 255, "jpeg", 1, [0], "must lie in [0,1]"),
        (torch.full((1, 3, 8, 8), torch.nan), "jpeg", 1, [0], "must lie in [0,1]"),
    ],
)
def test_what_cannot_be_corrupted_is_refused_in_a_sentence(
    images: Tensor, name: str, severity: int, indices: list[int], says: str
) -> None:
    with pytest.raises(AuditError) as caught:
        corrupt(images, name, severity, 0, indices)
    assert says in caught.value.problem
    assert caught.value.next_step


# -- names ------------------------------------------------------------------------------------------


def test_severities_and_shifts_are_read_as_written() -> None:
    assert parse_severities("3") == (3,)
    assert parse_severities(" 5, 1-2 ,2") == (1, 2, 5)
    assert parse_severities("0-5") == (0, 1, 2, 3, 4, 5)
    assert parse_shifts("jpeg:1,3,contrast", "2") == (
        Shift("jpeg", 1),
        Shift("jpeg", 3),
        Shift("contrast", 2),
    )
    assert parse_shifts("contrast:4-5, haze : 1") == (
        Shift("contrast", 4),
        Shift("contrast", 5),
        Shift("haze", 1),
    )
    assert parse_shifts("jpeg,jpeg:1-5,jpeg") == tuple(Shift("jpeg", s) for s in range(1, 6))
    assert {s.name for s in parse_shifts("all", "1")} == set(CORRUPTIONS)
    assert {s.name for s in parse_shifts("all", "1", n_channels=1)} == set(CORRUPTIONS) - {"saturate"}
    assert [s.severity for s in parse_shifts("all:2")] == [2] * len(CORRUPTIONS)


@pytest.mark.parametrize("text", ["", "6", "1-9", "5-1", "one", "1;2", "-1", "1-", "1,,2", "²"])
def test_severities_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="names no severities"):
        parse_severities(text)


@pytest.mark.parametrize("text", ["", "fog", "jpeg,", "jpeg:7", "jpeg:1:2", ",jpeg", "JPEG"])
def test_shifts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="no corruption|no severities"):
        parse_shifts(text)


# -- spectra ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5)])
def test_spectra_are_those_of_the_slow_transform(shape: tuple[int, int]) -> None:
    clean = images_of(3, 2, *shape, dtype=torch.float64)
    after = clean.flip(-1) * 0.7 + 0.2
    totals = SpectrumTotals.of(clean, after)
    x, y = (np.fft.fft2(each.numpy()).reshape(-1, *shape) for each in (clean, after))
    for pair in conjugate_pairs(*shape):
        u, v = min(pair)
        orbit = FrequencyGrid(*shape).orbit_of(u, v)
        # The orbit is named by one of its members; the other has the conjugate.
        named = totals.grid.rows[orbit], totals.grid.columns[orbit]
        assert named in pair
        a, b = x[:, named[0], named[1]], y[:, named[0], named[1]]
        assert totals.clean_power[orbit] == pytest.approx(np.mean(np.abs(a) ** 2))
        assert totals.corrupted_power[orbit] == pytest.approx(np.mean(np.abs(b) ** 2))
        assert totals.difference_power[orbit] == pytest.approx(np.mean(np.abs(b - a) ** 2))
        assert totals.transfer[orbit] == pytest.approx(np.sum(b * a.conj()) / np.sum(np.abs(a) ** 2))
        coherence = np.abs(np.sum(b * a.conj())) ** 2 / np.sum(np.abs(a) ** 2) / np.sum(np.abs(b) ** 2)
        assert totals.coherence[orbit] == pytest.approx(coherence)


def test_totals_of_parts_add_up_to_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = images_of(7, 3, 12, 9)
    whole = corruption_spectrum(clean, "shot_noise", 3, seed=4)
    parts = corruption_spectrum(clean[:2], "shot_noise", 3, 4, [0, 1]) + corruption_spectrum(
        clean[2:], "shot_noise", 3, 4, range(2, 7)
    )
    monkeypatch.setattr("shortcut_audit.data.shift_spectra._CACHED_VALUES", 1)
    singly = corruption_spectrum(clean, "shot_noise", 3, seed=4)
    for other in (parts, singly):
        for field in ("clean", "corrupted", "difference", "cross"):
            np.testing.assert_allclose(
                getattr(other, field), getattr(whole, field), rtol=1e-12, atol=1e-9
            )
        assert (other.n_images, other.n_channels_seen) == (7, 21)
        assert (other.n_clipped, other.n_values) == (whole.n_clipped, 7 * 3 * 12 * 9)
    with pytest.raises(ValueError, match="do not add"):
        whole + corruption_spectrum(images_of(1, 3, 8, 8), "jpeg", 1)


def test_bands_add_up_to_mean_squares_and_say_what_is_passed_on() -> None:
    clean = images_of(4, 3, 20, 31, dtype=torch.float64)
    totals = corruption_spectrum(clean, "contrast", 2)
    after = corrupt(clean, "contrast", 2, 0, range(4))
    bands = totals.bands()
    factor = CORRUPTIONS["contrast"].values(2, 20, 31)["factor"]
    assert [band.band for band in bands] == ["dc", "0-2.5", "2.5-5", "5-7.5", "7.5-"]
    assert sum(band.n_orbits for band in bands) == totals.grid.n_orbits
    for field, image in (
        ("clean_power", clean),
        ("corrupted_power", after),
        ("difference_power", after - clean),
    ):
        total = sum(getattr(band, field) for band in bands)
        assert total == pytest.approx(float(image.square().mean()))
    for band in bands[1:]:
        assert band.transfer == pytest.approx(factor)
        assert band.power_ratio == pytest.approx(factor**2)
        assert band.coherence == pytest.approx(1)
    # Cut elsewhere, the whole is the same.
    assert sum(b.clean_power for b in totals.bands(9)) == pytest.approx(float(clean.square().mean()))


def test_coherence_is_the_share_of_a_band_that_is_still_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(400, 1, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 1, 8, 8, generator=generator, dtype=torch.float64)
    # Twice the image and three times as much noise: 4 of 13 parts of the power are the image's.
    for band in SpectrumTotals.of(clean, 2 * clean + 3 * noise).bands()[1:]:
        assert band.coherence == pytest.approx(4 / 13, abs=0.05)
        assert band.transfer == pytest.approx(2, abs=0.15)


def test_what_was_never_there_has_no_ratio() -> None:
    flat = torch.full((2, 1, 8, 8), 0.5)
    (dc, *waves) = SpectrumTotals.of(flat, flat).bands()
    assert dc.power_ratio == pytest.approx(1)
    assert {band.power_ratio for band in waves} == {None}
    assert {band.transfer for band in waves} == {None}
    assert {band.coherence for band in waves} == {None}
    assert np.isnan(SpectrumTotals.of(flat, flat).transfer[1:]).all()


def test_clipped_values_are_counted_beyond_half_a_step() -> None:
    raw = torch.tensor([-0.01, -0.0019, 0.0, 0.5, 1.0, 1.0019, 1.002, 3.0]).reshape(1, 1, 2, 4)
    totals = SpectrumTotals.of(raw.clamp(0, 1), raw.clamp(0, 1), raw)
    assert (totals.n_clipped, totals.n_values) == (3, 8)
    assert totals.clipped_share == pytest.approx(3 / 8)
    clean = images_of(2, 3, 8, 8)
    assert corruption_spectrum(clean, "haze", 5).clipped_share == 0
    brighter = corruption_spectrum(clean, "brightness", 5)
    amount = CORRUPTIONS["brightness"].values(5, 8, 8)["amount"]
    assert brighter.clipped_share == pytest.approx(
        float((clean + amount > 1 + 0.5 / 255).double().mean())
    )


def test_a_spectrum_may_be_that_of_raw_clipped_or_written_images() -> None:
    clean = images_of(3, 3, 16, 16)
    raw = corruption_spectrum(clean, "brightness", 5, clip=False)
    clipped = corruption_spectrum(clean, "brightness", 5)
    written = corruption_spectrum(clean, "brightness", 5, eight_bit=True)
    assert raw.difference_power[1:].max() < 1e-9
    assert clipped.difference_power[1:].max() > 1
    moved = np.abs(written.difference_power - clipped.difference_power)[1:]
    assert 0 < moved.max() < 0.15
    assert raw.clipped_share == clipped.clipped_share == written.clipped_share


# -- written sets -----------------------------------------------------------------------------------


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "set.npz", random_images(5, 3, (3, 16, 16)), ["ant", "bee", "cow"])


@pytest.mark.parametrize("formats", [("png",), ("npz",)])
def test_written_copies_hold_what_corrupt_returns(
    small_set: Path, tmp_path: Path, formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts_module, "_BLOCK_VALUES", 4 * 16 * 16 * 3)
    clean = open_source(str(small_set))
    images = torch.from_numpy(np.stack([clean.read(n) for n in range(15)])).permute(0, 3, 1, 2) / 255
    out = tmp_path / "out"
    record = write_shifts(str(small_set), out, "jpeg,haze:5", "0,2", seed=7, formats=formats)
    assert [s.split for s in record.shifts] == ["jpeg-0", "jpeg-2", "haze-5"]
    arrays, _ = read_arrays(out / SPECTRA_ARRAYS)
    for shift in record.shifts:
        where = out if formats == ("png",) else out / "images.npz"
        source = open_source(f"{where}::{shift.split}")
        assert source.class_names == clean.class_names
        expected = corrupt(images, shift.corruption, shift.severity, 7, range(15), eight_bit=True)
        # Class folders are read class by class; the set is in that order already.
        assert source.labels.tolist() == clean.labels.tolist()
        for index in range(15):
            found = torch.from_numpy(np.array(source.read(index))).permute(2, 0, 1) / 255
            assert torch.allclose(found, expected[index], atol=1e-6)
        totals = corruption_spectrum(
            images, shift.corruption, shift.severity, 7, range(15), eight_bit=True
        )
        np.testing.assert_allclose(
            arrays[f"{shift.split}/difference_power"], totals.difference_power, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            arrays[f"{shift.split}/transfer_real"], totals.transfer.real, rtol=1e-5, atol=1e-6
        )
        assert shift.bands[2].corrupted_power == pytest.approx(totals.bands()[2].corrupted_power)
        assert shift.n_images == 15
    saved = ShiftRecord.model_validate(json.loads((out / SPECTRA_FILE).read_text()))
    assert saved == record
    assert record.shifts[0].parameters == {}
    assert record.shifts[0].bands[1].power_ratio == pytest.approx(1)


def test_the_same_command_writes_the_same_bytes(small_set: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shifts(str(small_set), tmp_path / name, "all", "3", seed=2, formats=("png", "npz"))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 15 * len(CORRUPTIONS) + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_every_split_of_a_set_is_copied_under_its_own_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_train=x[:4], y_train=[0, 1, 0, 1], x_test=x[4:], y_test=[1, 0])
    record = write_shifts(str(tmp_path / "set.npz"), tmp_path / "out", "contrast", "1", formats=("npz",))
    assert {s.split: s.n_images for s in record.shifts} == {"train-contrast-1": 4, "test-contrast-1": 2}
    assert open_source(f"{tmp_path / 'out' / 'images.npz'}::test-contrast-1").labels.tolist() == [1, 0]


def test_classes_without_images_become_no_folders(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=[0, 2, 2, 0], classes=["ant", "bee", "cow"])
    write_shifts(str(tmp_path / "set.npz"), tmp_path / "out", "jpeg", "1", formats=("png",))
    source = open_source(f"{tmp_path / 'out'}::jpeg-1")
    assert source.class_names == ("ant", "cow")
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_grey_sets_go_without_what_needs_colour(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=[0, 1, 0, 1])
    record = write_shifts(str(tmp_path / "set.npz"), tmp_path / "out", "all", "1", formats=("npz",))
    assert {s.corruption for s in record.shifts} == set(CORRUPTIONS) - {"saturate"}
    with pytest.raises(DataError, match="nothing to grey images"):
        write_shifts(str(tmp_path / "set.npz"), tmp_path / "other", "jpeg,saturate", "1")
    assert not (tmp_path / "other").exists()


def test_threads_are_given_back(small_set: Path, tmp_path: Path) -> None:
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        write_shifts(str(small_set), tmp_path / "out", "contrast", "1", formats=("npz",))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


def test_on_real_images_a_blur_takes_high_bands_and_noise_fills_them(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10_lossless.npz") as arrays:
        images = torch.from_numpy(arrays["x_test"][:100]).permute(0, 3, 1, 2) / 255
    blur = corruption_spectrum(images, "gaussian_blur", 5).bands()
    noise = corruption_spectrum(images, "gaussian_noise", 5).bands()
    for low, high in itertools.pairwise(blur[1:4]):
        assert high.transfer < low.transfer
    for low, high in itertools.pairwise(noise[1:]):
        assert high.power_ratio > low.power_ratio
        assert high.coherence < low.coherence
    assert noise[4].power_ratio > 3
    # Off the axes, where the borders of the image do not leak to, the transfer is a Gaussian's.
    grid = FrequencyGrid(32, 32)
    off = (np.abs(grid.u) > 2) & (grid.v > 2) & (grid.radius < 11)
    expected = np.exp(-2 * np.square(np.pi * grid.radius / 32))
    found = corruption_spectrum(images, "gaussian_blur", 5).transfer
    assert np.median(np.abs(found - expected)[off]) < 0.03
