"""What is worth knowing about encoded images before they are used, from their headers alone."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from shortcut_audit.data.sources import FilesSource, ImageSource, UnreadableImageError

__all__ = ["survey"]

_ORIENTATION = 0x0112
_EXAMPLES = 3

# What is counted, and the sentence on it after the number of images, for one and for several.
_REMARKS: dict[str, tuple[str, str]] = {
    "unreadable": ("cannot be read", "cannot be read"),
    "turned": (
        "has an EXIF rotation, which timm and torchvision do not apply, and neither does this tool",
        "have an EXIF rotation, which timm and torchvision do not apply, and neither does this tool",
    ),
    "transparent": (
        "has transparency, which is dropped: what colour lies beneath it counts",
        "have transparency, which is dropped: what colour lies beneath it counts",
    ),
    "animated": (
        "has several frames, of which the first is used",
        "have several frames, of which the first is used",
    ),
    "deep colour": (
        "has 16 bits a channel, of which Pillow keeps the upper 8",
        "have 16 bits a channel, of which Pillow keeps the upper 8",
    ),
    "deep": (
        "has no 8 bits a channel of grey or colour, and will be refused",
        "have no 8 bits a channel of grey or colour, and will be refused",
    ),
    "palette": (
        "has a palette, and dithering to few colours leaves fine patterns",
        "have palettes, and dithering to few colours leaves fine patterns",
    ),
    "cmyk": (
        "is in CMYK, converted by Pillow's plain formula without a colour profile",
        "are in CMYK, converted by Pillow's plain formula without a colour profile",
    ),
    "large": (
        "has more pixels than Pillow takes without a warning",
        "have more pixels than Pillow takes without a warning",
    ),
}


def survey(source: ImageSource, indices: Iterable[int]) -> tuple[str, ...]:
    """Notes on images `indices` of `source`, each a sentence without a full stop at its end.

    Classes that differ in case alone, files passed over, and of encoded images: EXIF rotation,
    transparency, several frames, 16 bits, palettes, CMYK, mixed sizes, colours and file formats.
    Nothing is decoded; arrays and data sets of the user's own are not looked at.
    """
    notes = list(_notes_on_classes(source.class_names))
    if not isinstance(source, FilesSource):
        return tuple(notes)
    notes += _notes_on_files(source)
    found: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    colours: Counter[str] = Counter()
    for index in indices:
        try:
            picture = source.peek(index)
        except UnreadableImageError:
            found["unreadable"] += 1
            continue
        if not isinstance(picture, Image.Image):
            continue
        found.update(_remarkable(picture))
        sizes[picture.height, picture.width] += 1
        formats[picture.format or "unknown"] += 1
        colours["grey" if picture.mode in {"1", "L", "LA", "I;16", "I"} else "in colour"] += 1
    notes += [
        f"{found[kind]:,} image{'' if found[kind] == 1 else 's'} {remark[found[kind] != 1]}"
        for kind, remark in _REMARKS.items()
        if found[kind]
    ]
    notes += _notes_on_mixtures(sizes, formats, colours)
    return tuple(notes)


def _notes_on_classes(class_names: Sequence[str]) -> Iterator[str]:
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in class_names:
        alike[name.casefold()].append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(repr(name) for name in names)
            yield f"classes {listed} differ in case alone; they count as {len(names)} classes"


def _notes_on_files(source: FilesSource) -> Iterator[str]:
    n_others = sum(source.passed_over.values())
    if n_others:
        kinds = ", ".join(f"{ending} {count:,}" for ending, count in source.passed_over.items())
        yield (
            f"{n_others:,} file{' is' if n_others == 1 else 's are'} left out, of kinds that neither timm"
            f" nor torchvision reads from folders ({kinds})"
        )


def _remarkable(picture: Image.Image) -> Iterator[str]:
    """What there is to say of one image, of which the header was read."""
    # Pillow turns TIFF by itself while it decodes, for everybody.
    if picture.format != "TIFF" and _orientation(picture) in range(2, 9):
        yield "turned"
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        yield "transparent"
    if getattr(picture, "is_animated", False):
        yield "animated"
    if picture.mode == "P":
        yield "palette"
    if picture.mode == "CMYK":
        yield "cmyk"
    if picture.mode in {"I", "F", "LAB"} or picture.mode.startswith("I;"):
        yield "deep"
    elif any(";16" in str(part) for tile in getattr(picture, "tile", ()) for part in tile):
        yield "deep colour"
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        yield "large"


def _orientation(picture: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = picture.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    except Exception:  # damaged EXIF data fails in every way there is, and is of no consequence
        return 1


def _notes_on_mixtures(
    sizes: Counter[tuple[int, int]], formats: Counter[str], colours: Counter[str]
) -> Iterator[str]:
    if len(sizes) > 1:
        small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
        yield (
            f"images have {len(sizes):,} sizes, from {small[0]} x {small[1]} to {large[0]} x {large[1]};"
            " resizing moves the frequencies of each by another factor"
        )
    if len(formats) > 1:
        yield f"file formats are mixed ({_shares(formats)}), and each leaves frequencies of its own"
    if len(colours) > 1:
        yield f"grey and colour are mixed ({_shares(colours)})"


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
