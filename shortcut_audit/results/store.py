"""A result on disk: `result.json` and `arrays.safetensors`; atomic, versioned, free of pickles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from shortcut_audit.errors import ResultError, RunFolderError
from shortcut_audit.results.audit_result import FILE_DIGESTS, FORMAT, AuditResult

__all__ = [
    "ARRAYS_FILE",
    "REPORT_FILE",
    "RESULT_FILE",
    "STATE_FILE",
    "check_folder",
    "claim_folder",
    "content_digest",
    "forget_map_so_far",
    "load_result",
    "parsed_result",
    "read_arrays",
    "read_state",
    "remove_folder",
    "require_no_run_file",
    "result_schema",
    "save_map_so_far",
    "save_result",
    "sweep_asides",
    "write_arrays",
    "write_bytes",
    "write_state",
    "written_aside",
]

RESULT_FILE = "result.json"
ARRAYS_FILE = "arrays.safetensors"
REPORT_FILE = "report.html"
STATE_FILE = "run.json"
MAP_SO_FAR_FILE = "map-so-far"
# What a run folder holds unless its state says otherwise.
AUDIT = "audit"
_STATE_KIND = "shortcut-audit run"
_ARRAYS_DIGEST, _OWN_DIGEST = FILE_DIGESTS
# The first format whose file holds a digest of itself.
_SEALED = 7


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file handle whose content appears under `path` whole, after an fsync, or not at all."""
    try:
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private to the user; results are as readable as any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)  # noqa: PTH101
        Path(aside).replace(path)
    except OSError as error:
        Path(aside).unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Free some space, or choose another place.",
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing.

    Raises RunFolderError when the disk or the rights do not allow it.
    """
    with written_aside(path) as stream:
        stream.write(content)


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None
) -> str:
    """Write named arrays as safetensors; returns the file's sha256."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}, metadata)
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Raises ResultError when the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}.", "Run the audit again.") from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_result(result: AuditResult, folder: Path) -> Path:
    """Write the arrays, then the result that names their digest.

    A reader between the two finds arrays that do not match, and is told so; never a mixture that
    passes for a result. Returns the folder.
    """
    claim_folder(folder)
    digest = write_arrays(folder / ARRAYS_FILE, result.arrays, {"format": str(FORMAT)})
    content = {**result.model_dump(mode="json"), _ARRAYS_DIGEST: digest}
    content[_OWN_DIGEST] = content_digest(content)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / RESULT_FILE, (text + "\n").encode())
    return folder


def content_digest(content: Mapping[str, Any]) -> str:
    """Digest of what `result.json` holds, however it is laid out; but for that digest itself, and the
    timing, which equal audits do not share."""
    found = {name: value for name, value in content.items() if name not in (_OWN_DIGEST, "timing")}
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save_map_so_far(folder: Path, finding: BaseModel, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep what a search would say if it ended here, for those who look while it runs.

    `map-so-far.safetensors`: the arrays of the finding; `map-so-far.json`: the finding.
    """
    write_arrays(folder / f"{MAP_SO_FAR_FILE}.safetensors", arrays)
    text = json.dumps(finding.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / f"{MAP_SO_FAR_FILE}.json", (text + "\n").encode())


def forget_map_so_far(folder: Path) -> None:
    """The finished result holds the map now."""
    for suffix in ("safetensors", "json"):
        (folder / f"{MAP_SO_FAR_FILE}.{suffix}").unlink(missing_ok=True)


def load_result(folder: str | Path) -> AuditResult:
    """Read a finished audit back.

    Raises ResultError when there is none, it is unfinished, damaged, or of a newer format.
    """
    folder = Path(folder)
    path = folder / RESULT_FILE
    if not path.is_file():
        state = read_state(folder)
        if state is not None and state.get("of", AUDIT) != AUDIT:
            raise ResultError(
                f"{folder} holds {_an(state['of'])}, and no audit.",
                "Its page is report.html in that folder; its own command writes it again.",
            )
        if state is not None:
            raise ResultError(
                f"The audit in {folder} is not finished ({state.get('state')}:"
                f" {state.get('shards_done')} of {state.get('shards_total')} parts are done).",
                "Run the same audit command again to finish it.",
            )
        raise ResultError(
            f"{folder} holds no audit: {RESULT_FILE} is missing.",
            "Name the folder given to `shortcut-audit audit --out`.",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is damaged: {error}.", "Run the audit again.") from error
    _require_whole(content, path)
    result = parsed_result(content, path)
    arrays_path = folder / ARRAYS_FILE
    if not arrays_path.is_file():
        raise ResultError(f"{arrays_path} is missing.", "Run the audit again.")
    if _file_sha256(arrays_path) != result.arrays_sha256:
        raise ResultError(
            f"{arrays_path} does not belong to {RESULT_FILE}: its digest differs.",
            "Run the audit again.",
        )
    return result.with_arrays(read_arrays(arrays_path)[0])


def _require_whole(content: object, path: Path) -> None:
    """Raise ResultError where a file is not what was written. Formats below 7 hold no digest."""
    if not isinstance(content, dict):
        return
    found, told = content.get("format"), content.get(_OWN_DIGEST)
    if type(found) is int and found > FORMAT:
        return
    sealed = told is not None or (type(found) is int and found >= _SEALED)
    if sealed and told != content_digest(content):
        raise ResultError(
            f"{path} is damaged: it is not what was written, as its digest says.", "Run the audit again."
        )


def parsed_result(content: object, path: Path) -> AuditResult:
    """The result, without arrays, from what JSON of `path` holds; older formats are read too.

    Raises ResultError where it is of a newer format, or no result.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ResultError(
            f"{path} has format {found}; this version reads up to {FORMAT}.",
            "Upgrade shortcut-audit.",
        )
    if isinstance(content, dict) and type(found) is int and found in range(1, FORMAT):
        # Format 2 added audits of data, format 3 searches other than the exact one, format 4 verdicts,
        # format 5 shifted images, format 6 outcomes of single images and steps of examples, format 7 the
        # digest of the file; what an older result cannot have has defaults that say so.
        content["format"] = FORMAT
    try:
        result = AuditResult.model_validate(content)
        return result.of_format(found) if type(found) is int else result
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultError(
            f"{path} is not a result of this tool: {where}: {first['msg']}.", "Run the audit again."
        ) from error


def result_schema() -> dict[str, Any]:
    """JSON schema of `result.json`."""
    schema = AuditResult.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def require_no_run_file(*targets: Path | None) -> None:
    """Raise RunFolderError where something would be written over what a run folder holds."""
    for target in targets:
        if (
            target is not None
            and target.name in (RESULT_FILE, ARRAYS_FILE, STATE_FILE)
            and target.exists()
        ):
            raise RunFolderError(
                f"{target} is part of an audit, and would be overwritten.", "Name another file."
            )


def claim_folder(folder: Path, of: str = AUDIT) -> Path | None:
    """Make `folder` ours; returns the outermost folder that had to be made, None if all were there.

    Raises RunFolderError for a file, or a folder with somebody else's content.
    """
    check_folder(folder, of)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be made: {error.strerror or error}.", "Choose another --out folder."
        ) from error
    return missing[-1] if missing else None


def check_folder(folder: Path, of: str = AUDIT) -> None:
    """Raise RunFolderError unless `folder` is absent, empty or a run folder of ours, for such a result
    (`of`: an audit, a self-test, ...)."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, not a folder.", "Choose another --out folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    state = read_state(folder)
    held = AUDIT if state is None else state.get("of", AUDIT)
    if state is not None and held != of:
        raise RunFolderError(
            f"{folder} holds {_an(held)}, and would be overwritten by {_an(of)}.",
            "Choose another --out folder; nothing in this one was touched.",
        )
    if state is None and not ((folder / RESULT_FILE).is_file() and (folder / ARRAYS_FILE).is_file()):
        raise RunFolderError(
            f"{folder} is not empty and was not made by shortcut-audit.",
            "Choose another --out folder; nothing in this one was touched.",
        )


def _an(what: object) -> str:
    return f"{'an' if str(what)[:1] in 'aeiou' else 'a'} {what}"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write how far a run has come, in a form a person can read."""
    text = json.dumps({"kind": _STATE_KIND, **state}, indent=1, ensure_ascii=False)
    write_bytes(folder / STATE_FILE, (text + "\n").encode())


def read_state(folder: Path) -> dict[str, Any] | None:
    """How far a run has come; None where the folder holds no run of ours."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and state.get("kind") == _STATE_KIND else None


def sweep_asides(*folders: Path) -> None:
    """Remove hidden files that a killed process was writing aside, once they are a minute old."""
    for folder in folders:
        for path in folder.glob(".*.*"):
            if path.is_file() and time.time() - path.stat().st_mtime > 60:
                path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a run folder that never came to hold anything worth keeping."""
    shutil.rmtree(folder, ignore_errors=True)
