"""What making, masking and looking at images costs, against the slow obvious version in one run.

python benchmarks/data_module.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine

from shortcut_audit.data.frequency_mask import FrequencyMask
from shortcut_audit.data.recipes import find_recipe
from shortcut_audit.data.synthetic import Synthesis, read_synthetic, write_synthetic
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import band_mask

RECIPE = """
[set]
kind = "synthetic"
name = "ten-thousand"
bands = 4
gains = [{{ band = 2, gain = 3.0 }}]
n_by_split = {{ train = {train}, test = {test} }}
[set.classes.a]
special = [{{ band = 2, n_orbits = 6, strength = 9.0 }}]
[set.classes.b]
[set.classes.c]
[set.classes.d]
"""


def median_seconds(action: Callable[[], object], rounds: int) -> float:
    """Median over `rounds`."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def command_seconds(*arguments: str) -> float:
    """One `shortcut-audit` command as a whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "shortcut_audit", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def slow_textures(made: Synthesis, n: int) -> None:
    """Textures one by one, a full complex plane at a time, orbit by orbit in Python."""
    grid, generator = made.grid, np.random.default_rng(0)
    for _ in range(n):
        image = np.zeros((grid.height, grid.width, 3))
        for channel in range(3):
            plane = np.zeros((grid.height, grid.width), dtype=complex)
            for orbit in range(1, grid.n_orbits):
                value = generator.rayleigh() * np.exp(2j * np.pi * generator.random())
                u, v = int(grid.u[orbit]), int(grid.v[orbit])
                plane[u, v] = value * made.amplitude[0, orbit]
                plane[-u, -v] = np.conj(plane[u, v])
            image[:, :, channel] = np.fft.ifft2(plane).real
        np.clip(np.rint(255 * (image + 0.5)), 0, 255).astype(np.uint8)


def slow_masking(images: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A mask over the full plane, one image and channel at a time, as published scripts do."""
    return np.stack(
        [
            [np.fft.ifft2(np.fft.fft2(channel.astype(np.complex128)) * keep).real for channel in image]
            for image in images
        ]
    )


def synthetic_rows(folder: Path, rounds: int) -> list[str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(train=2000, test=500))
    whole = statistics.median(
        command_seconds("synth", str(recipe), "--out", str(folder / "set"), "--replace")
        for _ in range(rounds)
    )
    made = read_synthetic(find_recipe(str(recipe)))
    inside = median_seconds(lambda: write_synthetic(made, folder / "inner", replace=True), rounds)
    slow = median_seconds(lambda: slow_textures(Synthesis(made, 0), 40), 3) / 40 * 10_000
    look = statistics.median(
        command_seconds(
            "data", f"{folder / 'set'}::train", "--images-per-class", "2500",
            "--out", str(folder / f"run{number}"),
        )
        for number in range(rounds)
    )  # fmt: skip
    return [
        f"| 10,000 synthetic images of 32 x 32 x 3, PNG and npz, whole command | {whole:.1f} s | |",
        f"| the same, inside the process | {inside:.1f} s | {slow / inside:.0f} x the slow version |",
        f"| a look at 8,000 of them (PNG files), whole command | {look:.1f} s | |",
    ]


def mask_rows(size: int, n: int, rounds: int) -> str:
    """Masking of batches of `n` images of `size` pixels."""
    grid = FrequencyGrid(size, size)
    images = torch.rand(n, 3, size, size)
    module = FrequencyMask(band_mask(grid, 1), (size, size))
    keep = (grid.radius < size / 8)[grid.orbit_of_bin]
    full = np.zeros((size, size))
    full[:, : keep.shape[1]] = keep

    def bare() -> object:
        return torch.fft.irfft2(torch.fft.rfft2(images), s=(size, size))

    def ours() -> object:
        return module(images)

    def slow() -> object:
        return slow_masking(images.numpy(), full)

    times = {each: median_seconds(each, rounds) for each in (bare, ours, slow)}
    return (
        f"| FrequencyMask, {size} px, batches of {n} | {n / times[ours]:,.0f} images/s |"
        f" {times[bare] / times[ours]:.2f} of the bare transforms, {times[slow] / times[ours]:.1f} x the"
        " slow version |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file to write.")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *synthetic_rows(Path(folder), arguments.rounds),
            *(mask_rows(size, n, arguments.rounds) for size, n in ((32, 512), (224, 32))),
        ]
    text = "\n".join(
        [
            "# Making, masking and looking at images",
            "",
            f"Medians of {arguments.rounds} rounds. {machine()}.",
            "",
            "| what | | ratio in this run |",
            "|---|---|---|",
            *rows,
            "",
            "The slow versions go image by image and orbit by orbit (textures), or through full complex",
            "planes image by image (masks).",
            "",
        ]
    )
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
