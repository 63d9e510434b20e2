"""What a page holds of its result, so that the page can be read back and made again.

A page carries one block of data, deflated and in base64: safetensors, which scripts read as easily as
Python does. In it are the findings, whole; the arrays that the page's map explorer shows; and numbers
that pages derive from larger arrays. Pictures are not held twice: they are read back from the page.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import ResultError
from shortcut_audit.report.explorer import arrays_shown
from shortcut_audit.results.audit_result import FILE_DIGESTS, AuditResult
from shortcut_audit.results.store import load_result, parsed_result

__all__ = ["BLOCK_ID", "BLOCK_TYPE", "PageMemory", "Picture", "packed", "read_page", "read_run"]

BLOCK_ID = "audit-result"
# No script type that a browser knows, so that the block is data, whatever the policy says of scripts.
BLOCK_TYPE = "application/vnd.shortcut-audit"
_RESULT, _VALUES = "result.json", "values.json"
# A page is a few megabytes; what unpacks to more than this was not made by us.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its name there, and its data URI."""

    name: str
    uri: str


@dataclass
class PageMemory:
    """Pictures and derived numbers of a page, by name: made once, and found again in a page read back.

    `pictures`: data URIs. `values`: whatever JSON can hold. `explorer`: arrays of the map explorer, and
    what it says in words; None until they are made.
    """

    pictures: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    explorer: dict[str, NDArray[Any]] | None = None

    def picture(self, name: str, draw: Callable[[], str]) -> Picture:
        """The picture of that name; drawn (to a data URI) where the page does not hold it."""
        if name not in self.pictures:
            self.pictures[name] = draw()
        return Picture(name, self.pictures[name])

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value of that name; computed where the page does not hold it."""
        if name not in self.values:
            self.values[name] = compute()
        return self.values[name]


def packed(result: AuditResult, memory: PageMemory) -> str:
    """The block of data of a page, in base64; equal results give equal text."""
    from safetensors.numpy import save

    # Digests of saved files are not part of what was found: a page is the same before and after.
    dumped = {**result.model_dump(mode="json"), **dict.fromkeys(FILE_DIGESTS, "")}
    arrays = {
        _RESULT: _json_bytes(dumped),
        _VALUES: _json_bytes(memory.values),
        **(memory.explorer or {}),
    }
    content = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _json_bytes(content: object) -> NDArray[np.uint8]:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return np.frombuffer(text.encode(), dtype=np.uint8)


def read_run(path: str | Path) -> AuditResult:
    """A finished audit, from its run folder or from its page.

    A page holds every finding, but of the arrays only what it shows. Raises ResultError where there is
    neither.
    """
    path = Path(path)
    return read_page(path)[0] if path.is_file() else load_result(path)


def read_page(path: Path) -> tuple[AuditResult, PageMemory]:
    """The result that a page holds, and the page's pictures and derived numbers.

    Raises ResultError when the file is no page of an audit, is damaged, or of a newer format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_page(path, str(error)) from error
    parser = _PageParser()
    parser.feed(text)
    parser.close()
    if parser.block is None:
        raise _no_page(path, "it holds no result")
    arrays = _unpacked(path, parser.block)
    if not {_RESULT, _VALUES} <= arrays.keys():
        raise _no_page(path, "its data are not whole")
    try:
        content = json.loads(arrays.pop(_RESULT).tobytes())
        values = dict(json.loads(arrays.pop(_VALUES).tobytes()))
        result = parsed_result(content, path)
        memory = PageMemory(parser.pictures, values, arrays or None)
        return result.with_arrays(arrays_shown(result, arrays)), memory
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _no_page(path, f"{type(error).__name__}: {error}") from error


def _unpacked(path: Path, block: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        inflater = zlib.decompressobj()
        content = inflater.decompress(base64.b64decode(block, validate=True), _MAX_BYTES)
        if not inflater.eof:
            raise _no_page(path, "its data are not whole")
        return load(content)
    except (binascii.Error, zlib.error, SafetensorError, ValueError, KeyError) as error:
        raise _no_page(path, str(error)) from error


def _no_page(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{path} is not the page of an audit, or is damaged: {why}.",
        "Name a page that shortcut-audit wrote, or the run folder itself.",
    )


class _PageParser(HTMLParser):
    """Finds the block of data, and pictures that have names."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.block: str | None = None
        self.pictures: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self._inside = tag == "script" and own.get("id") == BLOCK_ID
        name, uri = own.get("data-picture"), own.get("src")
        if tag == "img" and name and uri and uri.startswith("data:image/"):
            self.pictures[name] = uri

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.block = (self.block or "") + data.strip()
