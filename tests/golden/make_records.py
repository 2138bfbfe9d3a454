#!/usr/bin/env python3
"""The same JSON lines, compressed in every format that records are read from.

    pip install pyarrow cramjam           # made with pyarrow 26.0.1, cramjam 2.14.0
    python make_records.py [FOLDER]       # records/ beside this script

Line i, from 0 to 2999, is what line() says; tests/unit/test_records.c says it again.  Where a format has members or
frames, there are two, and a line lies across.
"""
import gzip
import pathlib
import sys

import cramjam
import pyarrow as pa

LINES = 3000


def line(i):
    return '{"id": %d, "text": "line %d:%s\\n\\u00e9"}\n' % (i, i, " moon" * (i * i % 23))


def pack(data, codec):
    sink = pa.BufferOutputStream()
    stream = pa.CompressedOutputStream(sink, codec)
    stream.write(data)
    stream.close()
    return sink.getvalue().to_pybytes()


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "records"
    folder.mkdir(parents=True, exist_ok=True)
    data = "".join(line(i) for i in range(LINES)).encode()
    half = data.index(b"moon", len(data) // 2)
    parts = data[:half], data[half:]
    (folder / "lines.jsonl.gz").write_bytes(b"".join(gzip.compress(part, mtime=0) for part in parts))
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"any"  # allowed between frames
    (folder / "lines.jsonl.zst").write_bytes(pack(parts[0], "zstd") + skippable + pack(parts[1], "zstd"))
    (folder / "lines.jsonl.lz4").write_bytes(b"".join(pack(part, "lz4") for part in parts))
    (folder / "lines.jsonl.br").write_bytes(pack(data, "brotli"))
    (folder / "lines.jsonl.sz").write_bytes(bytes(cramjam.snappy.compress(data)))


if __name__ == "__main__":
    main()
