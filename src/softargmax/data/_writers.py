"""Probabilities, batch by batch -> the bytes of a file. The layouts are those that are read."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np

from softargmax.data._records import CLASS_NAMES
from softargmax.data._tables import arrow_for
from softargmax.typing import Array, IntArray


@dataclass(frozen=True)
class Content:
    """What a file is to hold: batches of rows, which make up `shape` (N, K) in `dtype`; labels (N,), K names."""

    batches: Iterable[Array]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    labels: IntArray | None
    class_names: tuple[str, ...] | None

    def parts(self) -> Iterator[tuple[Array, IntArray | None]]:
        """Each batch with its labels."""
        start = 0
        for batch in self.batches:
            yield batch, None if self.labels is None else self.labels[start : start + len(batch)]
            start += len(batch)


def _npy(stream: IO[bytes], content: Content) -> None:
    descr = np.lib.format.dtype_to_descr(content.dtype)
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": content.shape})
    for batch, _ in content.parts():
        stream.write(np.ascontiguousarray(batch).data)


def _npz(stream: BinaryIO, content: Content) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        with archive.open("probs.npy", "w", force_zip64=True) as member:
            _npy(member, content)
        names = None if content.class_names is None else np.array(content.class_names)
        others = {"labels": content.labels, "class_names": names}
        for name, array in others.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _csv(stream: BinaryIO, content: Content) -> None:
    pyarrow, arrow = arrow_for("csv")
    head = [*([] if content.labels is None else ["label"]), *(content.class_names or map(str, range(content.shape[1])))]
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(head)
    stream.write(line.getvalue().encode())
    for batch, some in content.parts():
        columns = [] if some is None else [pyarrow.array(some)]
        # float64 holds every float16 and float32, so what is read back is what was there
        columns += [pyarrow.array(column) for column in batch.astype(np.float64).T]
        table = pyarrow.Table.from_arrays(columns, names=head)
        arrow.write_csv(table, stream, arrow.WriteOptions(include_header=False))


def _parquet(stream: BinaryIO, content: Content) -> None:
    pyarrow, arrow = arrow_for("parquet")
    fields = {} if content.labels is None else {"label": pyarrow.int64()}
    fields["probs"] = pyarrow.list_(pyarrow.from_numpy_dtype(content.dtype))
    if content.class_names is not None:
        fields[CLASS_NAMES] = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(fields)
    first: list[list[str] | None] = [list(content.class_names or ())]
    with arrow.ParquetWriter(stream, schema, write_page_checksum=True) as file:
        for batch, some in content.parts():
            offsets = pyarrow.array(np.arange(len(batch) + 1, dtype=np.int32) * content.shape[1])
            columns = [] if some is None else [pyarrow.array(some)]
            columns += [pyarrow.ListArray.from_arrays(offsets, pyarrow.array(batch.ravel()))]
            if content.class_names is not None:
                columns += [pyarrow.array([*first, *[None] * (len(batch) - len(first))], fields[CLASS_NAMES])]
                first = []
            file.write_table(pyarrow.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(batch)))


def _jsonl(stream: BinaryIO, content: Content) -> None:
    record: dict[str, Any] = {} if content.class_names is None else {CLASS_NAMES: content.class_names}
    for batch, some in content.parts():
        for i, row in enumerate(batch):
            if some is not None:
                record["label"] = int(some[i])
            record["probs"] = row.tolist()
            stream.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
            record.pop(CLASS_NAMES, None)


WRITERS: dict[str, Callable[[BinaryIO, Content], None]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}
