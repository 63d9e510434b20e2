"""Writes small sets in the very layouts in which CIFAR and MNIST are published."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar_images(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def as_python2(batch: dict[str, object]) -> bytes:
    """A pickle as Python 2 and numpy 1 wrote it: protocol 2, every text and array as a byte string.

    Python 3 has no way to write such strings, so the few opcodes are spelt out.
    """

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def encode(value: object) -> bytes:
        if isinstance(value, str):
            return text(value.encode())
        if isinstance(value, bool) or value is None:
            raise TypeError(value)
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(encode, value)) + b"e"
        if isinstance(value, np.ndarray):
            empty = (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
            )
            dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
            dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"(" + b"".join(encode(int(n)) for n in value.shape) + b"t"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
        raise TypeError(type(value))

    items = b"".join(encode(key) + encode(value) for key, value in batch.items())
    return b"\x80\x02}(" + items + b"u."


def write_cifar10(root: Path, n: int = 10, *, python2: bool = True, protocol: int = 2) -> Path:
    """`cifar-10-batches-py` in `root`: five batches and a test batch of `n` images each."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def save(name: str, content: dict[str, object]) -> None:
        raw = as_python2(content) if python2 else pickle.dumps(content, protocol=protocol)
        (folder / name).write_bytes(raw)

    for number, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        save(
            name,
            {
                "batch_label": name,
                "labels": [int(k) % 10 for k in range(number, number + n)],
                "data": cifar_images(n, seed=number).reshape(n, -1),
                "filenames": [f"{name}_{k}.png" for k in range(n)],
            },
        )
    save("batches.meta", {"label_names": list(TEN), "num_cases_per_batch": n, "num_vis": 3072})
    return folder


def write_cifar100(root: Path, n: int = 100) -> Path:
    """`cifar-100-python` in `root`: `n` images in each split."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        batch = {
            "data": cifar_images(n, seed=number).reshape(n, -1),
            "fine_labels": [k % 100 for k in range(n)],
            "coarse_labels": [k % 20 for k in range(n)],
        }
        (folder / name).write_bytes(as_python2(batch))
    names = {"fine_label_names": [f"fine{k:02d}" for k in range(100)], "coarse_label_names": ["x"] * 20}
    (folder / "meta").write_bytes(as_python2(names))  # type: ignore[arg-type]
    return folder


def write_cifar_binary(root: Path, n_classes: int, n: int = 10) -> Path:
    """The binary version: rows of label bytes and values."""
    folder = root / ("cifar-10-batches-bin" if n_classes == 10 else "cifar-100-binary")
    folder.mkdir(parents=True)
    batches = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(batches if n_classes == 10 else ["train", "test"]):
        labels = np.arange(n)[:, None] % n_classes
        columns = [labels] if n_classes == 10 else [labels % 20, labels]
        rows = np.hstack([*columns, cifar_images(n, seed=number).reshape(n, -1)]).astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    listed = "\n".join(TEN if n_classes == 10 else [f"fine{k:02d}" for k in range(100)]) + "\n\n"
    (folder / ("batches.meta.txt" if n_classes == 10 else "fine_label_names.txt")).write_text(listed)
    return folder


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array of bytes in the format of MNIST."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, name: str = "MNIST", n: int = 20, *, packed: bool = True) -> Path:
    """`NAME/raw` in `root`, packed with gzip as it is published, or not."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for seed, part in enumerate(("train", "t10k")):
        images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            raw = idx(array)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(raw) if packed else raw)
    return folder
