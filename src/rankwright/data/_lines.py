"""Text files as a stream of decoded lines: plain, gzip, Zstandard or zip, in blocks, in constant memory."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import signals
from .policy import Reading, shown

_CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
MAX_LINE = 64 << 20  # bytes; a longer line is a file without line ends, not a document
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
PACKED = (*COMPRESSED, ".zip")


def kind_of(path: Path) -> str:
    """The suffix that names the format, without the one that names the compression: ``.jsonl`` of ``a.jsonl.gz``."""
    path = Path(path)
    return Path(path.stem if path.suffix in PACKED else path.name).suffix.lower()


@contextmanager
def input_errors(path: Path, reading: Reading) -> Iterator[None]:
    """Turn what the system or a decompressor reports about `path` into a `DataError`."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reading.problem("missing file", f"cannot be read: {error.strerror}", where=path, fix="check the path")
        raise  # not reached: the policy is an error in both modes
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        what = f"the file is damaged or cut short ({str(error)[:120]})"
        reading.problem("corrupt file", what, where=path, fix="fetch or make the file again")
        raise


def read_raw_blocks(path: Path, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, complete lines) of about 1 MiB each, for `decode_block`; lines count from 1.

    Raises:
        DataError: missing or damaged file, a line over 64 MiB.
    """
    return _whole_lines(path, reading)


def read_lines(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank; errors as `read_raw_blocks` and `decode_block`."""
    for first, raw in read_raw_blocks(path, reading):
        for number, line in enumerate(decode_block(raw, first, path, reading), start=first):
            if line and not line.isspace():
                yield number, line


def read_text_chunks(path: Path, reading: Reading) -> Iterator[str]:
    """The file's text in pieces of about 1 MiB that end anywhere, for formats in which lines mean nothing.

    Raises:
        DataError: missing or damaged file; when strict: what is not UTF-8.
    """
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    for number, chunk in enumerate(chain(_chunks(path, reading), [b""])):
        signals.check()
        chunk, state = chunk.removeprefix(BOM) if number == 0 else chunk, decoder.getstate()
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = line + error.object.count(b"\n", 0, error.start)
            what = f"not UTF-8: {shown(error.object[error.start : error.start + 8])}"
            reading.problem("invalid UTF-8", what, where=f"{path}:{at}", fix="save the file as UTF-8")
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            decoder.setstate(state)
            text = decoder.decode(chunk, final=not chunk)
        line += text.count("\n")
        yield text


def _chunks(path: Path, reading: Reading) -> Iterator[bytes]:
    with input_errors(path, reading), path.open("rb") as raw:
        stream: Any = raw
        if path.suffix in COMPRESSED:
            import pyarrow as pa  # its streams notice a cut file, which others read as a shorter one

            stream = pa.input_stream(raw, compression=COMPRESSED[path.suffix])
        elif path.suffix == ".zip":
            stream = _only_member(raw)
        while chunk := stream.read(_CHUNK):
            yield chunk


def _only_member(raw: Any) -> Any:
    """The one file of a zip archive, opened."""
    archive = zipfile.ZipFile(raw)
    files = [item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX/")]
    if len(files) != 1:
        raise zipfile.BadZipFile(f"the archive holds {len(files)} files, one is read")
    try:
        return archive.open(files[0])
    except RuntimeError as error:  # a password, or a compression that Python lacks
        raise zipfile.BadZipFile(str(error)) from error


def _whole_lines(path: Path, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """(number of the first, complete lines); the last one may lack its newline."""
    pending: list[bytes] = []
    size, done, first = 0, 0, True
    for chunk in _chunks(path, reading):
        signals.check()
        if first:
            chunk, first = chunk.removeprefix(BOM), False
        cut = chunk.rfind(b"\n") + 1
        if cut:
            block = b"".join([*pending, chunk[:cut]])
            _check_length(block, done, path, reading)
            yield done + 1, block
            done += int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))  # 10x faster than bytes.count
            pending, size = [], 0
        pending.append(chunk[cut:])
        size += len(chunk) - cut
        if size > MAX_LINE:
            _too_long(done + 1, path, reading)
    if size:
        yield done + 1, b"".join(pending)


def _check_length(block: bytes, done: int, path: Path, reading: Reading) -> None:
    if len(block) > MAX_LINE:
        for number, line in enumerate(block.split(b"\n"), start=done + 1):
            if len(line) > MAX_LINE:
                _too_long(number, path, reading)


def _too_long(number: int, path: Path, reading: Reading) -> None:
    what = f"the line is longer than {MAX_LINE:,} bytes"
    reading.problem("long line", what, where=f"{path}:{number}", fix="write one record a line, ended by a newline")


def decode_block(raw: bytes, number: int, path: Path, reading: Reading) -> list[str]:
    """The lines of a block without their ends.

    Raises:
        DataError: when strict: NUL bytes and what is not UTF-8.
    """
    body = raw.removesuffix(b"\n")
    try:
        lines = body.decode().split("\n")
    except UnicodeDecodeError:
        lines = [_decode_line(line, f"{path}:{number + i}", reading) for i, line in enumerate(body.split(b"\n"))]
    if b"\0" in body:
        lines = [without_nul(line, f"{path}:{number + i}", reading) for i, line in enumerate(lines)]
    return [line.removesuffix("\r") for line in lines] if b"\r" in body else lines


def _decode_line(line: bytes, where: str, reading: Reading) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        cut = line[error.start : error.start + 8]
        what = f"byte {error.start + 1} of the line is not UTF-8: {shown(cut)}"
        reading.problem("invalid UTF-8", what, where=where, fix="save the file as UTF-8")
        return line.decode(errors="replace")


def without_nul(text: str, where: str, reading: Reading) -> str:
    """`text` without NUL characters, which are a problem."""
    if "\0" not in text:
        return text
    reading.problem("NUL", f"NUL characters in {shown(text)}", where=where, fix="remove the NUL bytes")
    return text.replace("\0", "")
