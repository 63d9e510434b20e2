"""Raw files of published sets: downloaded with their checksum, unpacked, and checked where they lie."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict

from shortcut_audit.data.recipes import Download, ExpectedFile
from shortcut_audit.errors import DataError, RunFolderError
from shortcut_audit.version import __version__

__all__ = ["RawFile", "fetch", "raw_file", "unpack"]

# on_progress(stage, done, total)
Progress = Callable[[str, int, int], None]
_SECONDS_WITHOUT_A_BYTE = 30


class RawFile(BaseModel):
    """A raw file as it was found. `checked`: how its content was compared with what is published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    n_bytes: int
    sha256: str
    checked: str


def raw_file(expected: ExpectedFile, root: Path) -> RawFile:
    """Digest the file of `expected` in `root`.

    Raises DataError when it is not there, or differs from what is published.
    """
    return _digested(expected, root / expected.path, root / expected.path)


def _digested(expected: ExpectedFile, path: Path, shown: Path) -> RawFile:
    """Digest the file at `path`, which is called `shown` in messages."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                md5.update(piece)
                sha256.update(piece)
        n_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror}.", "Put it there first.") from error
    found = {"md5": md5.hexdigest(), "sha256": sha256.hexdigest()}
    checked = [kind for kind in found if getattr(expected, kind) is not None]
    for kind in checked:
        if found[kind] != getattr(expected, kind):
            raise DataError(
                f"{shown} has the {kind} {found[kind]}, and what is published {getattr(expected, kind)}.",
                "It is damaged, or another version: remove it, and download it again.",
            )
    return RawFile(
        path=expected.path,
        n_bytes=n_bytes,
        sha256=found["sha256"],
        checked=", ".join(f"{kind} as published" for kind in checked) or "no checksum is published",
    )


def fetch(download: Download, root: Path, on_progress: Progress | None = None) -> RawFile:
    """The downloaded file in `root`; it is downloaded where it is not there yet.

    It appears under its name once it is complete and has its checksum. Raises DataError, saying what
    to download and where to put it, without a network; RunFolderError for a root that takes no file.
    """
    path = root / download.path
    if path.is_file():
        return raw_file(download, root)
    with _writable(root):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(number, "wb") as stream:
            _download(download, path, stream, on_progress)
        found = _digested(download, aside, path)
        with _writable(root):
            aside.chmod(0o644)
            aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    return found


def _download(download: Download, path: Path, stream: IO[bytes], on_progress: Progress | None) -> None:
    request = urllib.request.Request(
        download.url, headers={"User-Agent": f"shortcut-audit/{__version__}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_WITHOUT_A_BYTE) as answer:
            promised = answer.headers.get("Content-Length")
            total = int(promised) if promised else download.n_bytes
            done = 0
            while piece := answer.read(1 << 18):
                with _writable(path.parent):
                    stream.write(piece)
                done += len(piece)
                if on_progress is not None:
                    on_progress(f"Downloading {path.name}", done, total or done)
            with _writable(path.parent):
                stream.flush()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(download, path, _reason(error)) from error
    if total is not None and done != total:
        raise _unreachable(download, path, f"it ended after {done:,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answers {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(str(text).split()).rstrip(".")


def _unreachable(download: Download, path: Path, reason: str) -> DataError:
    facts = f" ({download.facts})" if download.facts else ""
    return DataError(
        f"{download.url} cannot be downloaded: {reason}.",
        f"Download it{facts} where there is a network, put it to {path}, and run the same command again.",
    )


def unpack(download: Download, root: Path) -> None:
    """Unpack a downloaded archive, so that `root/gives` appears whole or not at all.

    Raises DataError for a damaged archive, and for one with files that would leave the root.
    """
    archive, target = root / download.path, root / download.gives
    if target.exists():
        return
    with _writable(root):
        aside = Path(tempfile.mkdtemp(prefix=".unpacking.", dir=root))
    try:
        _extract(archive, aside)
        if not (aside / download.gives).exists():
            raise DataError(f"{archive} has no {download.gives} in it.", "Is it the right file?")
        with _writable(root):
            target.parent.mkdir(parents=True, exist_ok=True)
            (aside / download.gives).rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
            return
        with tarfile.open(archive) as tar:
            # Refuses links and paths that lead out of the folder, devices and the like.
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {' '.join(str(error).split()).rstrip('.')}.",
            "Remove it, and download it again.",
        ) from error
    except OSError as error:
        if error.errno is None:  # gzip's own errors, of damaged content
            raise DataError(f"{archive} cannot be unpacked: {error}.", "Download it again.") from error
        raise _not_writable(folder.parent, error) from error


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_writable(root, error) from error


def _not_writable(root: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{root} cannot be written: {error.strerror or error}.",
        "Free some space, mend its rights or choose another --root folder.",
    )
