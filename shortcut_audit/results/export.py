"""Tables as CSV, JSON and Parquet, streamed class by class."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO

from shortcut_audit.errors import MissingExtraError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.tables import table_frames

__all__ = ["EXPORTERS"]


def _csv(result: AuditResult, table: str, stream: IO[bytes]) -> None:
    for number, frame in enumerate(table_frames(result, table)):
        stream.write(frame.to_csv(index=False, header=number == 0, lineterminator="\n").encode())


def _json(result: AuditResult, table: str, stream: IO[bytes]) -> None:
    """A JSON array of records; missing values are null."""
    first = True
    stream.write(b"[")
    for frame in table_frames(result, table):
        plain = frame.astype(object).where(frame.notna(), None)
        for record in plain.to_dict("records"):
            stream.write(b"\n" if first else b",\n")
            stream.write(
                json.dumps(record, ensure_ascii=False, default=lambda value: value.item()).encode()
            )
            first = False
    stream.write(b"\n]\n")


def _parquet(result: AuditResult, table: str, stream: IO[bytes]) -> None:
    """One row group a class."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed.",
            "Install it with: pip install 'shortcut-audit[parquet]'",
        ) from error
    writer = None
    for frame in table_frames(result, table):
        rows = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or pq.ParquetWriter(stream, rows.schema)
        writer.write_table(rows.cast(writer.schema))
    if writer is not None:
        writer.close()


EXPORTERS: dict[str, Callable[[AuditResult, str, IO[bytes]], None]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}
