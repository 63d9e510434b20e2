"""Images through timm's readers: tar files, Hugging Face and TensorFlow data sets, webdatasets."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shortcut_audit.data.sources import FilesSource, ImageSource
from shortcut_audit.errors import DataError

__all__ = ["from_reader", "from_tar"]


# What timm's readers need beyond timm.
_PACKAGES = {
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
    "wds": "webdataset",
}


def is_installed(package: str) -> bool:
    """Whether `package` can be imported; a folder that is merely called so does not count."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def from_tar(spec: str, path: Path, split: str) -> ImageSource:
    from timm.data.readers.img_extensions import get_img_extensions

    if split:
        raise DataError(
            f"{path} has no split {split!r}: a .tar holds class folders alone.",
            "Leave the split out, or pack each split into a file of its own.",
        )
    endings = get_img_extensions(as_set=True)
    try:
        with tarfile.open(path) as archive:
            members = [Path(member.name) for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}.", "Copy or pack it again.") from error
    images = [member for member in members if member.suffix.lower() in endings]
    nested = any(member.suffix == ".tar" for member in members)
    if not nested and (not images or any(image.parent == Path() for image in images)):
        raise DataError(
            f"{path} has {'images outside class folders' if images else 'no image in it'}.",
            "Pack a folder of class folders: tar -C FOLDER -cf FILE.tar .",
        )
    return from_reader(spec, "", split, root=path)


def from_reader(spec: str, name: str, split: str, root: Path | None = None) -> ImageSource:
    from timm.data.readers import create_reader

    package = _PACKAGES.get(name.partition("/")[0])
    if package is not None and not is_installed(package):
        raise DataError(
            f"{spec} needs the package {package}, which is not installed.", f"pip install {package}"
        )
    folder = None
    if root is None and name.startswith("wds/"):
        folder, name = name.removeprefix("wds/"), "wds/"
    # timm would keep a pickle of its tar index beside the data, and read it back.
    options = {"cache_tarinfo": False} if root is not None else {}
    try:
        reader = create_reader(name, root=str(root or folder or "") or None, split=split, **options)
        n_images = len(reader)
    except ImportError as error:
        raise DataError(
            f"{spec} needs a package that is not installed: {error}.", "Install it with pip."
        ) from error
    except Exception as error:  # each reader, hub and file system raises its own kinds
        raise DataError(
            f"timm cannot open {spec}: {str(error).splitlines()[0] if str(error) else error!r}",
            _what_to_try(spec),
        ) from error
    if not hasattr(reader, "__getitem__"):
        return _spooled_reader(spec, reader, n_images)
    return _indexed_reader(spec, reader, n_images)


def _what_to_try(spec: str) -> str:
    """How to go on where a reader fails, for want of a network or of the right name."""
    kind, _, name = spec.partition("::")[0].partition("/")
    if kind in {"hfds", "hfids"} and not Path(name).exists():
        return (
            "Check the name and the split (NAME::split). Without a network: download it elsewhere with"
            f" `hf download --repo-type dataset {name} --local-dir FOLDER`, and give"
            f" {kind}/FOLDER::split."
        )
    if kind == "tfds":
        return (
            f"Check the name and the split (NAME::split). Without a network: prepare it elsewhere with"
            f" `tfds build {name}`, and put it into ~/tensorflow_datasets."
        )
    return "Check the name and the split (NAME::split)."


def _indexed_reader(spec: str, reader: Any, n_images: int) -> ImageSource:
    samples = getattr(reader, "samples", None)
    if hasattr(reader, "targets"):
        labels = [int(label) for label in reader.targets]
    elif samples is not None and len(samples) == n_images and isinstance(samples[0], tuple):
        labels = [int(sample[1]) for sample in samples]
    elif hasattr(reader, "iter_targets"):
        labels = [int(label) for label in reader.iter_targets()]
    else:
        labels = [_label(reader, index) for index in range(n_images)]
    return FilesSource(
        spec=spec,
        class_names=_reader_classes(reader, labels),
        labels=np.asarray(labels, dtype=np.int64),
        names=[str(name) for name in reader.filenames()],
        open_bytes=_ReaderOpener(reader),
    )


def _label(reader: Any, index: int) -> int:
    opened, label, *_ = reader[index]
    # Readers open a file for the image along with its label.
    if hasattr(opened, "close"):
        opened.close()
    return int(label)


@dataclass(frozen=True)
class _ReaderOpener:
    reader: Any

    def __post_init__(self) -> None:
        weakref.finalize(self, _close_tar, getattr(self.reader, "tar_state", None))

    def __call__(self, index: int) -> bytes:
        opened = self.reader[index][0]
        if isinstance(opened, Image.Image):
            content = io.BytesIO()
            opened.save(content, format="PNG")
            return content.getvalue()
        with opened:
            return bytes(opened.read())


def _close_tar(state: Any) -> None:
    # timm keeps a tar file, and those inside it, open for as long as the process lives.
    for each in [*getattr(state, "children", {}).values(), state]:
        if getattr(each, "tf", None) is not None:
            each.tf.close()


def _spooled_reader(spec: str, reader: Any, n_images: int) -> ImageSource:
    """A streaming reader (webdataset, tfds): read once, in its own order."""
    from shortcut_audit.data.datasets import spool

    pairs: Iterator[Any] = iter(reader)
    source = spool(pairs, spec=spec, class_names=_reader_classes(reader, []) or None)
    # Such readers pass over what they cannot decode, in silence; 0 where the number is unknown.
    if len(source.labels) < n_images:
        raise DataError(
            f"{spec} promises {n_images} images, and timm could read {len(source.labels)} of them.",
            "Mend or remove the damaged ones, or correct the number in _info.json.",
        )
    return source


def _reader_classes(reader: Any, labels: Sequence[int]) -> tuple[str, ...]:
    class_to_index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if class_to_index:
        return tuple(str(n) for n, _ in sorted(class_to_index.items(), key=lambda item: item[1]))
    return tuple(str(label) for label in range(max(labels) + 1)) if labels else ()
