"""Images out of the ordinary: read as timm reads them and counted in a note, or refused in a sentence."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageDataset

from shortcut_audit.data.pixels import collect_images, grey_or_rgb, make_transform
from shortcut_audit.data.sources import FilesSource, UnreadableImageError, decode, open_source
from shortcut_audit.data.survey import survey
from shortcut_audit.errors import DataError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings

HEIGHT, WIDTH = 9, 12


def noise(seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **more: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **more)  # type: ignore[arg-type]
    return content.getvalue()


def rgb(seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(seed))


def rgba() -> Image.Image:
    image = rgb().convert("RGBA")
    image.putalpha(Image.fromarray(noise(1, 1)))
    return image


def deep_png(colour_type: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    values = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH * channels))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def turned(form: str, orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(rgb(), form, exif=exif)


def frames(form: str) -> bytes:
    return encoded(rgb(), form, save_all=True, append_images=[rgb(1), rgb(2)])


PALETTE = rgb().quantize(16)

# Read as timm would read them: the image, and what its note says (empty: nothing to say).
USED: dict[str, tuple[Callable[[], bytes], str]] = {
    "rgb": (lambda: encoded(rgb()), ""),
    "grey": (lambda: encoded(rgb().convert("L")), ""),
    "black and white": (lambda: encoded(rgb().convert("1")), ""),
    "rgba": (lambda: encoded(rgba()), "has transparency, which is dropped"),
    "grey with alpha": (lambda: encoded(rgba().convert("LA")), "has transparency"),
    "colour key": (lambda: encoded(rgb(), transparency=(1, 2, 3)), "has transparency"),
    "palette": (lambda: encoded(PALETTE), "has a palette"),
    "palette, one colour clear": (lambda: encoded(PALETTE, transparency=3), "has transparency"),
    "palette with alphas": (
        lambda: encoded(PALETTE, transparency=bytes(range(0, 256, 16))),
        "has transparency.*has a palette",
    ),
    "cmyk": (lambda: encoded(rgb().convert("CMYK"), "JPEG", quality=95), "is in CMYK"),
    "jpeg": (lambda: encoded(rgb(), "JPEG"), ""),
    "progressive jpeg": (lambda: encoded(rgb(), "JPEG", progressive=True), ""),
    "exif jpeg": (
        lambda: turned("JPEG"),
        "has an EXIF rotation, which timm and torchvision do not apply",
    ),
    "exif png": (lambda: turned("PNG", 3), "has an EXIF rotation"),
    "exif upright": (lambda: turned("JPEG", 1), ""),
    "16 bits colour": (
        lambda: deep_png(2, 3),
        "has 16 bits a channel, of which Pillow keeps the upper 8",
    ),
    "16 bits alpha": (lambda: deep_png(6, 4), "has transparency.*has 16 bits"),
    "animated png": (lambda: frames("PNG"), "has several frames, of which the first is used"),
    "animated gif": (lambda: frames("GIF"), "has several frames"),
    "animated webp": (lambda: frames("WEBP"), "has several frames"),
    "cut exif": (lambda: encoded(rgb(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12"), ""),
    "damaged exif": (lambda: encoded(rgb(), "JPEG", exif=b"Exif\0\0nonsense"), ""),
}

# Refused: the image, and the reason given.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "16 bits grey": (lambda: deep_png(0, 1), "does not have 8 bits a channel"),
    "32 bits": (
        lambda: encoded(Image.fromarray(noise(0, 1).astype(np.int32)), "TIFF"),
        "does not have 8 bits a channel",
    ),
    "floats": (
        lambda: encoded(Image.fromarray(noise(0, 1).astype(np.float32)), "TIFF"),
        "does not have 8 bits a channel",
    ),
    "lab": (lambda: encoded(rgb().convert("LAB"), "TIFF"), "does not have 8 bits a channel"),
    "zero bytes": (lambda: b"", "it has zero bytes"),
    "text": (lambda: b"<html>not found</html>", "not an image that Pillow knows"),
    "truncated png": (lambda: encoded(rgb())[:-30], "cannot be read: ."),
    "truncated jpeg": (lambda: encoded(rgb(), "JPEG")[:-40], "cannot be read: .*truncated"),
    "header alone": (lambda: encoded(rgb())[:33], "cannot be read: ."),
    "postscript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        "a program and no image",
    ),
}


def folder_of(root: Path, content: bytes) -> Path:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        (root / name / "image.png").write_bytes(content)
    return root


@pytest.mark.parametrize("kind", USED)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_that_timms_own_data_set_yields(tmp_path: Path, kind: str, mode: str) -> None:
    folder = folder_of(tmp_path, USED[kind][0]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm lets Pillow's warnings through
        theirs = np.asarray(ImageDataset(str(folder), input_img_mode=mode)[0][0])
    ones = (1.0,) * len(mode)
    transform = make_transform(
        Preprocessing(
            channels=len(mode),
            height=HEIGHT,
            width=WIDTH,
            geometry="as they are",
            mean=ones,
            std=ones,
            source="me",
        )
    )
    ours = transform(open_source(str(folder)).read(0), "image")
    assert ours.shape == (len(mode), *theirs.shape[:2]) == (len(mode), HEIGHT, WIDTH)
    np.testing.assert_array_equal(ours, theirs[None] if mode == "L" else theirs.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", USED)
def test_a_note_says_what_is_out_of_the_ordinary_and_nothing_of_the_rest(
    tmp_path: Path, kind: str
) -> None:
    make, expected = USED[kind]
    source = open_source(str(folder_of(tmp_path, make())))
    notes = survey(source, [0])
    if not expected:
        assert notes == ()
        return
    together = " | ".join(notes)
    assert together.startswith("1 image ")
    assert re.search(expected, together), together
    assert all(note.startswith("2 images ") for note in survey(source, [0, 1]))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    make, reason = REFUSED[kind]
    source = open_source(str(folder_of(tmp_path, make())))
    with pytest.raises(DataError, match=reason) as caught:
        grey_or_rgb(source.read(0), source.name(0))  # type: ignore[arg-type]
    assert "ant/image.png" in caught.value.problem
    assert "\n" not in caught.value.problem
    assert caught.value.next_step


def test_the_survey_counts_what_will_be_refused(tmp_path: Path) -> None:
    assert survey(open_source(str(folder_of(tmp_path / "a", deep_png(0, 1)))), [0, 1]) == (
        "2 images have no 8 bits a channel of grey or colour, and will be refused",
    )
    assert survey(open_source(str(folder_of(tmp_path / "b", b""))), [0]) == ("1 image cannot be read",)


@pytest.mark.parametrize(("limit", "level"), [(100, "Warning"), (50, "Error")])
def test_decompression_bombs_are_used_at_pillows_warning_and_refused_at_its_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    limit: int,
    level: str,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    source = open_source(str(folder_of(tmp_path, encoded(rgb()))))
    with warnings.catch_warnings(record=True) as let_through:
        warnings.simplefilter("always")
        if level == "Warning":
            assert np.asarray(source.read(0)).shape == (HEIGHT, WIDTH, 3)
            assert survey(source, [0]) == ("1 image has more pixels than Pillow takes without a warning",)
        else:
            for look in (source.read, source.peek):
                with pytest.raises(UnreadableImageError, match="decompression bomb"):
                    look(0)
            assert survey(source, [0]) == ("1 image cannot be read",)
    assert [str(warning.message) for warning in let_through] == []
    assert capfd.readouterr().err == ""


def test_no_warning_of_pillows_is_let_through(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number, make in enumerate([*USED.values(), *REFUSED.values()]):
        source = open_source(str(folder_of(tmp_path / str(number), make[0]())))
        survey(source, [0])
        try:
            grey_or_rgb(source.read(0), "image").convert("L")  # type: ignore[arg-type]
        except DataError:
            continue
    assert [str(w.message) for w in recwarn] == []


def test_damaged_images_of_every_format_end_in_our_error_and_no_other() -> None:
    generator = np.random.default_rng(0)
    outcomes = set()
    for make in [make for make, _ in USED.values()] + [
        lambda: encoded(rgb(), "TIFF"),
        lambda: encoded(rgb(), "TIFF", compression="tiff_lzw"),
        lambda: encoded(rgb(), "BMP"),
        lambda: encoded(rgb(), "PPM"),
        lambda: encoded(rgb(), "ICO", sizes=[(9, 9)]),
    ]:
        whole = make()
        for _ in range(60):
            damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)])
            for place in generator.integers(0, len(damaged), generator.integers(0, 6)):
                damaged[place] = generator.integers(0, 256)
            try:
                decode(bytes(damaged), "image")
                outcomes.add("read")
            except UnreadableImageError as error:
                outcomes.add("refused")
                assert "\n" not in error.problem
    assert outcomes == {"read", "refused"}


def test_a_rotated_image_keeps_the_shape_it_is_stored_in(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path, turned("JPEG"))))
    assert np.asarray(source.read(0)).shape == (HEIGHT, WIDTH, 3)
    peeked = source.peek(0)
    assert isinstance(peeked, Image.Image)
    assert peeked.size == (WIDTH, HEIGHT)


def test_a_tiff_is_turned_by_pillow_itself_for_timm_as_for_us(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path, turned("TIFF"))))
    # What timm does with the file, which its data set would leave open here.
    theirs = np.asarray(Image.open(io.BytesIO(turned("TIFF"))).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(source.read(0)), theirs)
    assert theirs.shape == (WIDTH, HEIGHT, 3)
    assert survey(source, [0]) == ()


def test_classes_that_differ_in_case_alone_stay_two_classes_and_are_named(tmp_path: Path) -> None:
    for name in ("Cat", "cat", "dog", "CAT"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded(rgb()))
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system does not tell case apart")
    source = open_source(str(tmp_path))
    assert source.class_names == ("CAT", "Cat", "cat", "dog")
    assert survey(source, range(4)) == (
        "classes 'CAT' and 'Cat' and 'cat' differ in case alone; they count as 3 classes",
    )


def test_mixtures_of_sizes_formats_and_colours_are_told(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    (tmp_path / "ant" / "1.png").write_bytes(encoded(rgb()))
    (tmp_path / "ant" / "2.jpg").write_bytes(encoded(rgb().resize((40, 30)), "JPEG"))
    (tmp_path / "bee" / "1.png").write_bytes(encoded(rgb().convert("L")))
    notes = survey(open_source(str(tmp_path)), range(3))
    assert notes == (
        "images have 2 sizes, from 9 x 12 to 30 x 40; resizing moves the frequencies of each by another"
        " factor",
        "file formats are mixed (PNG 2, JPEG 1), and each leaves frequencies of its own",
        "grey and colour are mixed (in colour 2, grey 1)",
    )
    # Only the images asked about count.
    assert survey(open_source(str(tmp_path)), [0]) == ()


def test_images_of_different_sizes_are_refused_where_they_are_not_resized(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(4):
            size = (12, 9) if number else (10, 9)
            (tmp_path / name / f"{number}.png").write_bytes(encoded(rgb(number).resize(size)))
    pre = Preprocessing(
        channels=3, height=9, width=12, geometry="as they are", mean=(0,) * 3, std=(1,) * 3, source="me"
    )
    with pytest.raises(DataError, match="9 x 10 pixels, and others 9 x 12"):
        collect_images(open_source(str(tmp_path)), AuditSettings(), pre, [0, 1])


def test_files_that_nobody_reads_are_counted_by_their_ending(tmp_path: Path) -> None:
    names = [
        "ant/1.png",
        "ant/2.gif",
        "ant/3.HEIC",
        "bee/1.webp",
        "bee/2.gif",
        "bee/notes.txt",
        "bee/.x.gif",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(rgb()))
    source = open_source(str(tmp_path))
    assert isinstance(source, FilesSource)
    assert [source.name(i) for i in range(2)] == ["ant/1.png", "bee/1.webp"]
    assert survey(source, []) == (
        "3 files are left out, of kinds that neither timm nor torchvision reads from folders"
        " (.gif 2, .heic 1)",
    )


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ä",
        "日本",
        "'quoted'",
        "[x]",
        "%s",
        "{x}",
        "a;b",
        "--flag",
        "x" * 200,
        "a.b.c",
        "\U0001f600",
    ],
)
def test_unusual_names_of_classes_and_files_are_just_names(tmp_path: Path, name: str) -> None:
    for each in (name, "other"):
        (tmp_path / each).mkdir()
        (tmp_path / each / f"{name}.png").write_bytes(encoded(rgb()))
    source = open_source(str(tmp_path))
    assert set(source.class_names) == {name, "other"}
    label = source.class_names.index(name)
    index = source.labels.tolist().index(label)
    assert source.name(index) == f"{name}/{name}.png"
    np.testing.assert_array_equal(np.asarray(source.read(index)), noise())


def test_the_survey_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (make, _) in enumerate(USED.values()):
        folder_of(tmp_path / f"{number}", make())
    decoded: list[object] = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoded.append(self))
    for number in range(len(USED)):
        survey(open_source(str(tmp_path / f"{number}")), [0, 1])
    assert decoded == []


def test_arrays_are_not_surveyed_beyond_their_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=[0, 1], classes=["A", "a"])
    assert survey(open_source(str(tmp_path / "x.npz")), [0, 1]) == (
        "classes 'A' and 'a' differ in case alone; they count as 2 classes",
    )
