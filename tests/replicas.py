"""The slow, obvious version of each method, written from the papers' definitions.

Full complex transforms, one image, one mask and one loop at a time; nothing shared with the package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn


def conjugate_pairs(height: int, width: int) -> list[set[tuple[int, int]]]:
    """Every set {(u, v), (-u, -v)} of the full plane, each once."""
    seen: set[tuple[int, int]] = set()
    pairs = []
    for u, v in itertools.product(range(height), range(width)):
        if (u, v) not in seen:
            pair = {(u, v), (-u % height, -v % width)}
            seen |= pair
            pairs.append(pair)
    return pairs


def keep_bins(image: np.ndarray, bins: set[tuple[int, int]]) -> np.ndarray:
    """Image (C, H, W) with only `bins` of its full complex spectrum kept."""
    spectrum = np.fft.fft2(image.astype(np.float64))
    mask = np.zeros(image.shape[-2:])
    for u, v in bins:
        mask[u % mask.shape[0], v % mask.shape[1]] = 1
    filtered = np.fft.ifft2(spectrum * mask)
    # A mask that is not Hermitian would show here.
    assert np.abs(filtered.imag).max() < 1e-9
    return filtered.real


def remove_bins(image: np.ndarray, bins: set[tuple[int, int]]) -> np.ndarray:
    """Image (C, H, W) without `bins` of its full complex spectrum."""
    return image - keep_bins(image, bins)


def logits_of(
    network: nn.Module, image: np.ndarray, mean: np.ndarray | float = 0.0, std: np.ndarray | float = 1.0
) -> np.ndarray:
    """Logits (K,) of one image of pixels, in double precision."""
    mean = np.broadcast_to(np.asarray(mean, dtype=np.float64), (len(image),))
    std = np.broadcast_to(np.asarray(std, dtype=np.float64), (len(image),))
    normalized = (image - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        return network(torch.from_numpy(normalized)[None])[0].numpy()


def cross_entropy_of(logits: np.ndarray, label: int) -> float:
    """-log softmax, term by term."""
    shifted = [math.exp(z - max(logits)) for z in logits]
    return -math.log(shifted[label] / sum(shifted))


def log_odds_of(logits: np.ndarray, label: int) -> float:
    """log p / (1 - p), from the other logits alone."""
    others = [z for k, z in enumerate(logits) if k != label]
    top = max(others)
    return logits[label] - top - math.log(sum(math.exp(z - top) for z in others))


def response_of(name: str, filtered: np.ndarray, clean: np.ndarray, label: int) -> float:
    """One response, by its definition."""
    if name == "cross-entropy":
        return cross_entropy_of(filtered, label) - cross_entropy_of(clean, label)
    if name == "log-odds":
        return log_odds_of(clean, label) - log_odds_of(filtered, label)
    return float(sum((a - b) ** 2 for a, b in zip(filtered, clean, strict=True)))


def importance_of(
    network: nn.Module,
    images: np.ndarray,
    label: int,
    response: str,
    mean: np.ndarray | float = 0.0,
    std: np.ndarray | float = 1.0,
) -> dict[frozenset[tuple[int, int]], float]:
    """Mean response over `images` (n, C, H, W) to removing each conjugate pair."""
    pairs = conjugate_pairs(*images.shape[-2:])
    return {
        frozenset(pair): response_to_removing(pair, network, images, label, response, mean, std)
        for pair in pairs
    }


def response_to_removing(
    bins: set[tuple[int, int]],
    network: nn.Module,
    images: np.ndarray,
    label: int,
    response: str,
    mean: np.ndarray | float = 0.0,
    std: np.ndarray | float = 1.0,
) -> float:
    """Mean response over `images` (n, C, H, W) to removing all `bins` at once."""
    total = 0.0
    for image in images:
        clean = logits_of(network, image, mean, std)
        filtered = logits_of(network, remove_bins(image, bins), mean, std)
        total += response_of(response, filtered, clean, label)
    return total / len(images)


def place_of(height: int, width: int, bin_: tuple[int, int]) -> tuple[int, int]:
    """Signed frequency (u, v) of a pair of bins: that of its member in the half plane v >= 0.

    A Nyquist line bears its positive name; where both members lie in the half plane, u >= 0 speaks.
    """
    members = []
    for u, v in (bin_, (-bin_[0] % height, -bin_[1] % width)):
        members.append((u - height if 2 * u > height else u, v - width if 2 * v > width else v))
    return max(members, key=lambda member: (member[1], member[0]))


def patch_of(height: int, width: int, side: int, bin_: tuple[int, int]) -> frozenset[tuple[int, int]]:
    """The square of `side` bins that a bin lies in, as its number and its mirror image's.

    Squares are counted from DC; what lies half way between two belongs to the one nearer to DC.
    """
    row, column = (
        int(math.copysign(math.ceil(abs(k) / side - 0.5), k)) for k in place_of(height, width, bin_)
    )
    return frozenset({(row, column), (-row, -column)})


def tile_of(
    height: int, width: int, n_rings: int, n_sectors: int, bin_: tuple[int, int]
) -> tuple[int, int]:
    """Ring and sector of a bin: equal widths up to Nyquist, equal angles centred on the axes."""
    u, v = place_of(height, width, bin_)
    radius = math.hypot(u / height, v / width) * min(height, width)
    ring = min(math.floor(radius * n_rings / (min(height, width) / 2) + 1e-9), n_rings - 1)
    turns = math.degrees(math.atan2(u / height, v / width)) * n_sectors / 180
    return ring, math.floor(round(turns + 0.5, 9)) % n_sectors


def adcs_of(amplitude: np.ndarray) -> np.ndarray:
    """ADCS by the double loop over classes of its definition, (C, n)."""
    result = np.zeros(amplitude.shape)
    for c, j in itertools.permutations(range(len(amplitude)), 2):
        result[c] += np.sign(amplitude[c] - amplitude[j])
    return result


def mean_amplitude_of(images: np.ndarray, pair: set[tuple[int, int]]) -> float:
    """Mean over images and channels of |F| at a conjugate pair."""
    u, v = next(iter(pair))
    return float(np.mean([np.abs(np.fft.fft2(image))[:, u, v].mean() for image in images]))


def softmax_descent(
    images: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    rates: list[float],
    weight_decay: float,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Softmax regression on all images at each step, by Nesterov's method (momentum 0.9).

    Gradients from their closed form; decay on the weight only. Returns weight, bias, and the loss
    before each step.
    """
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    n_classes = len(bias)
    target = np.full((len(labels), n_classes), label_smoothing / n_classes)
    target[np.arange(len(labels)), labels] += 1 - label_smoothing
    losses = []
    for rate in rates:
        logits = images @ weight.T + bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance = shifted / shifted.sum(axis=1, keepdims=True)
        losses.append(float(-(target * np.log(chance)).sum(axis=1).mean()))
        slope_w = (chance - target).T @ images / len(labels) + weight_decay * weight
        slope_b = (chance - target).mean(axis=0)
        speed_w, speed_b = 0.9 * speed_w + slope_w, 0.9 * speed_b + slope_b
        weight = weight - rate * (slope_w + 0.9 * speed_w)
        bias = bias - rate * (slope_b + 0.9 * speed_b)
    return weight, bias, losses


def texture_power_of(
    height: int,
    width: int,
    slope: float,
    contrast: float,
    gain_of: Callable[[float, float], float] = lambda radius, angle: 1.0,
) -> np.ndarray:
    """E|X|^2 on the full plane of noise with amplitude gain / radius^slope and the given contrast.

    `contrast` is the standard deviation of pixels; DC is 0. Radius in cycles per shorter side, angle
    in degrees from the horizontal, in (-90, 90].
    """
    power = np.zeros((height, width))
    for row, column in itertools.product(range(height), range(width)):
        u = row - height if row > height / 2 else row
        v = column - width if column > width / 2 else column
        radius = math.hypot(u / height, v / width) * min(height, width)
        angle = math.degrees(math.atan2(u / height, v / width))
        # (u, v) and (-u, -v) are one wave: its direction is that of the member with v >= 0.
        if column != 0 and 2 * column > width:
            angle = math.degrees(math.atan2(-u / height, -v / width))
        if angle <= -90:
            angle += 180
        if radius > 0:
            power[row, column] = (gain_of(radius, angle) / radius**slope) ** 2
    # Parseval: the sum of |X|^2 is HW times the sum of squared pixels.
    return power * contrast**2 * (height * width) ** 2 / power.sum()


def band_power_of(power: np.ndarray, edges: Sequence[tuple[float, float]]) -> list[float]:
    """Sums of a full plane of power over rings [low, high); the last takes the corners at Nyquist."""
    height, width = power.shape
    sums = [0.0] * len(edges)
    for row, column in itertools.product(range(height), range(width)):
        radius = math.hypot(min(row, height - row) / height, min(column, width - column) / width)
        radius *= min(height, width)
        for number, (low, high) in enumerate(edges):
            last = number == len(edges) - 1 and high == min(height, width) / 2
            if radius > 0 and low <= radius and (radius < high or last):
                sums[number] += power[row, column]
    return sums


def cosine_of(height: int, width: int, u: int, v: int, phase: float = 0.0) -> np.ndarray:
    """A plane wave of amplitude 1, pixel by pixel, (H, W)."""
    wave = np.zeros((height, width))
    for y, x in itertools.product(range(height), range(width)):
        wave[y, x] = math.cos(2 * math.pi * (u * y / height + v * x / width) + phase)
    return wave


def block_lines_of(height: int, width: int, block: int, top: int = 0, left: int = 0) -> np.ndarray:
    """-1 before and +1 behind every border of blocks that start at (top, left), both axes added."""
    lines = np.zeros((height, width))
    for y, x in itertools.product(range(height), range(width)):
        for place in ((y - top) % block, (x - left) % block):
            lines[y, x] += (place == 0) - (place == block - 1)
    return lines


def transplant_bins(receiver: np.ndarray, donor: np.ndarray, bins: set[tuple[int, int]]) -> np.ndarray:
    """Image (C, H, W) `receiver` with the coefficients of `donor` at `bins` in place of its own.

    Full complex transforms; every bin is exchanged by itself, in every channel by itself.
    """
    mixed = np.fft.fft2(receiver.astype(np.float64))
    given = np.fft.fft2(donor.astype(np.float64))
    height, width = receiver.shape[-2:]
    for channel, (u, v) in itertools.product(range(len(receiver)), bins):
        mixed[channel, u % height, v % width] = given[channel, u % height, v % width]
    whole = np.fft.ifft2(mixed)
    # Bins without their conjugates would show here.
    assert np.abs(whole.imag).max() < 1e-9
    return whole.real


def radius_of(height: int, width: int, bin_: tuple[int, int]) -> float:
    """Cycles per shorter side of a bin of the full plane, by its smallest frequencies."""
    u, v = bin_[0] % height, bin_[1] % width
    u, v = min(u, height - u), min(v, width - v)
    return math.hypot(u / height, v / width) * min(height, width)


def ring_bins(height: int, width: int, number: int, n_rings: int) -> set[tuple[int, int]]:
    """Bins of one of `n_rings` rings of equal width up to Nyquist, from 1; one more has the corners."""
    nyquist = min(height, width) / 2
    found = set()
    for bin_ in itertools.product(range(height), range(width)):
        radius = radius_of(height, width, bin_)
        # A radius on a border belongs to the ring above it, Nyquist's own to the last ring.
        ring = min(math.floor(radius / nyquist * n_rings + 1e-9), n_rings - 1) + 1
        if radius > nyquist + 1e-9:
            ring = n_rings + 1
        if bin_ != (0, 0) and ring == number:
            found.add(bin_)
    return found


def light_orbits_of(
    ranked: Sequence[int], energy_share: Sequence[float], together: float, at_most: int
) -> list[int]:
    """Walk down a ranking, taking what is no more than half of what is left of `together`."""
    taken: list[int] = []
    for orbit in ranked:
        spent = math.fsum(energy_share[other] for other in taken)
        if len(taken) < at_most and energy_share[orbit] <= (together - spent) / 2:
            taken.append(orbit)
    return taken or [min(ranked, key=lambda orbit: energy_share[orbit])]
