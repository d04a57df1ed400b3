"""An atlas's tables as Parquet, for whatever else reads them: pandas, DuckDB, Spark."""

from __future__ import annotations

from pathlib import Path

from convscope.atlas.store import COLUMNS, Store
from convscope.data.cache import replacing
from convscope.errors import ConvscopeError

EXPORTED = ("images", "classes", "layers", "units", "patches", "neighbours")
ROWS = 2**16  # that are in memory at once


def to_parquet(store: Store, folder: Path) -> list[Path]:
    """Write each table to a file of its own; ConvscopeError without pyarrow."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise ConvscopeError("Parquet needs pyarrow: pip install 'convscope[tables]'") from None
    files = []
    for table in EXPORTED:
        schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in TYPES[table].items()])
        with replacing(folder / f"{table}.parquet") as draft, parquet.ParquetWriter(draft, schema) as writer:
            for rows in store.parts(table, ROWS):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        files.append(folder / f"{table}.parquet")
    return files


def _kind(name: str) -> str:
    if name in ("name", "content", "shard", "error", "address", "kind", "field"):
        return "string"
    floats = ("mean", "std", "max", "active", "q10", "q50", "q90", "selectivity", "value", "correlation")
    return "float64" if name in (*floats, "step_rows", "step_cols") else "int64"


TYPES = {table: {name: _kind(name) for name in COLUMNS[table]} for table in EXPORTED}
