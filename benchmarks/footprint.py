"""Start-up time, and peak memory over the number of images.

python benchmarks/footprint.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

# Run in a process of its own, whose peak memory is then that of one audit.
AUDIT = """
import resource, sys, torch
import shortcut_audit as sa
torch.set_num_threads(2)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 7, stride=8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(), torch.nn.Linear(8, 2))
sa.audit(network, sys.argv[1], images_per_class=int(sys.argv[2]), batch_size=64, mean=(0.5,), std=(1,))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def help_seconds() -> float:
    """Median seconds of `shortcut-audit --help`, as a whole process."""
    command = [sys.executable, "-m", "shortcut_audit", "--help"]
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_mebibytes(data: Path, images_per_class: int) -> float:
    """Peak memory of an audit of so many images."""
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(data), str(images_per_class)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Print both figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        images = generator.integers(0, 256, (4000, 64, 64, 3), dtype=np.uint8)
        np.savez(data, x=images, y=np.arange(4000) % 2, classes=np.array(["a", "b"]))
        few, many = peak_mebibytes(data, 20), peak_mebibytes(data, 400)
    text = (
        f"`shortcut-audit --help`: {help_seconds():.3f} s (median of 7 processes)\n\n"
        f"Peak memory of an audit at 64 px: {few:.0f} MiB with 40 images, {many:.0f} MiB with 800"
        f" (ratio {many / few:.3f}); most of it is torch itself.\n"
    )
    print(text)
    if output is not None:
        output.write_text(f"# Start-up and memory\n\nMachine: {machine()}.\n\n{text}")


if __name__ == "__main__":
    main()
