#!/usr/bin/env python3
"""Parquet files of every codec, encoding and nesting, with their rows as pyarrow reads them.

    pip install pyarrow                   # made with pyarrow 26.0.1
    python make_parquet.py [FOLDER]       # parquet/ beside this script

<name>.parquet holds what <name>.jsonl says, one row a line; chat_<codec>_<page version>.parquet all hold chat.jsonl,
and the files of one encoding, encoded_<encoding>.parquet, some columns of encoded.jsonl.
Dates and times are the numbers that are stored, bytes that are text are text, NaN and infinities are null.

What pyarrow does not write (the older layouts of lists, lz4 in Hadoop's framing) is written by hand at the end of this
file, byte by byte; pyarrow reads those files too, and its rows are the truth.
"""
import datetime
import decimal
import json
import math
import pathlib
import random
import struct
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = "the moon rose over a quiet sea and nobody saw how bright it was that night".split()


def text(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def plain(value):
    """A value as moonlight's rows have it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def save(folder, name, table, rows=None, expected=None, **options):
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, **options)
    found = pq.read_table(path)
    assert found.num_rows == table.num_rows
    if expected is None:
        write_rows(folder, name, rows if rows is not None else found.to_pylist())
    else:
        assert plain(found.to_pylist()) == plain(expected.select(found.column_names).to_pylist())


def write_rows(folder, name, rows):
    lines = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines)


# ---- as chat datasets are ----

def chat_table():
    rng = random.Random(1)
    rows = []
    for i in range(24):
        messages = []
        for turn in range(rng.choice([0, 1, 2, 2, 4, 6])):
            content = text(rng, rng.randrange(0, 12)) + rng.choice(["", " é", " 月", " \U0001f319\n\"x\"\\"])
            messages.append({"role": ["user", "assistant"][turn % 2], "content": None if i == 7 else content})
        rows.append({
            "id": i,
            "messages": None if i == 5 else messages,
            "score": None if i % 6 == 3 else rng.random(),
            "tags": rng.choice([None, [], ["a"], ["a", None, "long tag"], [None]]),
            "meta": None if i == 9 else {"source": rng.choice(["web", "book", None]), "n": i * i,
                                         "grid": rng.choice([None, [], [[]], [[1, 2], None, []], [[None], [3]]])},
            "good": rng.choice([True, False, None]),
        })
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    meta = pa.struct([("source", pa.string()), ("n", pa.int32()), ("grid", pa.list_(pa.list_(pa.int32())))])
    return pa.Table.from_pylist(rows, schema=pa.schema([
        ("id", pa.int64()), ("messages", pa.list_(message)), ("score", pa.float64()), ("tags", pa.list_(pa.string())),
        ("meta", meta), ("good", pa.bool_())]))


def make_chat(folder):
    table = chat_table()
    write_rows(folder, "chat", table.to_pylist())
    for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
        for version in ("1.0", "2.0"):
            save(folder, f"chat_{codec}_v{version[0]}", table, expected=table, compression=codec,
                 data_page_version=version, row_group_size=15, data_page_size=300, write_batch_size=4,
                 write_statistics=False, store_schema=False)


# ---- types ----

def make_types(folder):
    def column(kind, *values):
        return pa.array(values, kind)

    day = datetime.date(2024, 2, 29)
    moment = datetime.datetime(2024, 2, 29, 12, 34, 56, 789012)
    table = pa.table({
        "i8": column(pa.int8(), -128, 127, None), "u8": column(pa.uint8(), 0, 255, None),
        "i16": column(pa.int16(), -32768, 32767, None), "u16": column(pa.uint16(), 0, 65535, None),
        "i32": column(pa.int32(), -2**31, 2**31 - 1, None), "u32": column(pa.uint32(), 0, 2**32 - 1, None),
        "i64": column(pa.int64(), -2**63, 2**63 - 1, None), "u64": column(pa.uint64(), 0, 2**63 - 1, None),
        "f16": column(pa.float16(), 0.333251953125, -65504.0, 5.960464477539063e-08),
        "f32": column(pa.float32(), 0.1, float("nan"), -3.4028234663852886e38),
        "f64": column(pa.float64(), 0.1, float("inf"), 5e-324),
        "bool": column(pa.bool_(), True, False, None),
        "large": column(pa.large_string(), "x", "", None), "binary": column(pa.binary(), b"abc", b"", None),
        "fixed": column(pa.binary(4), b"abcd", b"efgh", None),
        "word": column(pa.dictionary(pa.int8(), pa.string()), "a", "b", "a"),
        "map": column(pa.map_(pa.string(), pa.int32()), [("a", 1), ("b", None)], [], None),
        "null": column(pa.null(), None, None, None),
        "days": column(pa.date32(), day, None, datetime.date(1960, 1, 1)),
        "micros": column(pa.timestamp("us"), moment, None, datetime.datetime(1969, 12, 31, 23, 59, 59)),
    })
    rows = table.to_pylist()
    epoch = datetime.datetime(1970, 1, 1)
    for row in rows:
        row["map"] = None if row["map"] is None else [{"key": k, "value": v} for k, v in row["map"]]
        row["days"] = row["days"] and (row["days"] - epoch.date()).days
        row["micros"] = row["micros"] and (row["micros"] - epoch) // datetime.timedelta(microseconds=1)
    save(folder, "types", table, rows, compression="none", use_dictionary=["word"])

    moments = column(pa.timestamp("ns"), moment, None, datetime.datetime(1700, 1, 2, 3, 4, 5))
    save(folder, "int96", pa.table({"t": moments}),
         [{"t": value.value if value.is_valid else None} for value in moments],
         use_deprecated_int96_timestamps=True)

    def decimals(precision, scale, *values):
        return column(pa.decimal128(precision, scale), *[v and decimal.Decimal(v) for v in values])

    table = pa.table({
        "small": decimals(9, 2, "0.01", "-1234567.89", None),
        "middle": decimals(15, 3, "999999999999.999", "-0.001", "5"),
        "whole": decimals(12, 0, "123456789012", "-1", None),
        "large": decimals(38, 4, "1234567890123456789012345678901234.5678", "-0.0001", None)})
    rows = [{name: value and (str(value) if name == "large" else int(value) if name == "whole" else float(value))
             for name, value in row.items()} for row in table.to_pylist()]
    save(folder, "decimal_fixed", table, rows)
    save(folder, "decimal_integer", table, rows, store_decimal_as_integer=True)

    ids = [uuid.UUID(int=0), uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")]
    storage = pa.array([i.bytes for i in ids], pa.binary(16))
    save(folder, "uuid", pa.table({"id": pa.ExtensionArray.from_storage(pa.uuid(), storage)}),
         [{"id": str(i)} for i in ids])


# ---- encodings ----

def walk(rng, n, start, spread, bits):
    """Integers whose differences need all widths, up to wrapping around."""
    values, x, half = [], start, 1 << (bits - 1)
    for i in range(n):
        values.append(x)
        x += rng.randrange(-spread << i % 40, (spread << i % 40) + 1)
        x = (x + half) % (2 * half) - half
    return values


def with_nulls(rng, values, share):
    return [None if rng.random() < share else v for v in values]


def make_encodings(folder):
    rng = random.Random(2)
    n = 300
    texts = [text(rng, rng.randrange(0, 4)) for _ in range(n)]
    stems = sorted(f"{rng.choice(WORDS)}/{rng.choice(WORDS)}/{rng.randrange(100)}" for _ in range(n))
    columns = {
        "i32": pa.array(with_nulls(rng, walk(rng, n, 5, 3, 32), 0.1), pa.int32()),
        "i64": pa.array(walk(rng, n, -7, 5, 64), pa.int64()),
        "text": pa.array(with_nulls(rng, texts, 0.1), pa.string()),
        "stem": pa.array(stems, pa.string()),
        "fixed": pa.array([stem.ljust(16)[:16].encode() for stem in stems], pa.binary(16)),
        "f32": pa.array([rng.gauss(0, 1) for _ in range(n)], pa.float32()),
        "f64": pa.array(with_nulls(rng, [rng.gauss(0, 1) for _ in range(n)], 0.1), pa.float64()),
        "half": pa.array([rng.randrange(2048) / 8 for _ in range(n)], pa.float16()),
        "bool": pa.array(with_nulls(rng, [i % 50 < 40 for i in range(n)], 0.2), pa.bool_()),
        "list": pa.array([[rng.randrange(1000) for _ in range(i % 5)] for i in range(n)], pa.list_(pa.int32())),
    }
    table = pa.table(columns)
    write_rows(folder, "encoded", table.to_pylist())
    small = {"compression": "zstd", "data_page_size": 700, "write_batch_size": 50, "store_schema": False}

    def encoded(name, encoding, columns, **options):
        save(folder, f"encoded_{name}", table.select(columns), expected=table, use_dictionary=False,
             column_encoding={c if c != "list" else "list.list.element": encoding for c in columns},
             **small, **options)

    encoded("delta_binary_packed", "DELTA_BINARY_PACKED", ["i32", "i64", "list"])
    encoded("delta_length_byte_array", "DELTA_LENGTH_BYTE_ARRAY", ["text", "stem"])
    encoded("delta_byte_array", "DELTA_BYTE_ARRAY", ["text", "stem", "fixed"])
    encoded("byte_stream_split", "BYTE_STREAM_SPLIT", ["i32", "i64", "f32", "f64", "fixed", "half", "list"])
    encoded("rle", "RLE", ["bool"], data_page_version="2.0")
    encoded("plain", "PLAIN", list(columns), data_page_version="2.0")
    save(folder, "encoded_dictionary", table, expected=table, **small)
    # a dictionary that becomes too large: later pages are plain
    save(folder, "encoded_dictionary_full", table.select(["i64", "stem", "list"]), expected=table,
         dictionary_pagesize_limit=400, **small)
    save(folder, "encoded_checksum", table.select(["text", "list"]), expected=table, write_page_checksum=True, **small)


# ---- shapes ----

def make_shapes(folder):
    rows = [{"a": [[[1], []], [], [[2, None, 3]]], "b": [{"c": [{"d": ["x", ""]}, {"d": None}], "e": {"f": 1.5}}]},
            {"a": [], "b": []}, {"a": None, "b": None}, {"a": [None], "b": [None, {"c": None, "e": None}]},
            {"a": [[[4]]], "b": [{"c": [], "e": {"f": None}}]}]
    inner = pa.struct([("d", pa.list_(pa.string()))])
    table = pa.Table.from_pylist(rows, schema=pa.schema([
        ("a", pa.list_(pa.list_(pa.list_(pa.int64())))),
        ("b", pa.list_(pa.struct([("c", pa.list_(inner)), ("e", pa.struct([("f", pa.float32())]))])))]))
    save(folder, "nested", table, row_group_size=2)
    save(folder, "nested_old_names", table, row_group_size=2, use_compliant_nested_type=False)
    # nothing may be missing: no level at all on the way to these leaves
    required = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("n", pa.int32(), nullable=False),
                          pa.field("list", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False)])
    save(folder, "required", pa.Table.from_pylist(
        [{"text": "a", "n": 1, "list": ["x", "y"]}, {"text": "", "n": 2, "list": []}], schema=required))
    empty = pa.table({"text": pa.array([], pa.string()), "list": pa.array([], pa.list_(pa.int8()))})
    save(folder, "no_rows", empty)
    save(folder, "all_null", pa.table({"text": pa.array([None] * 1100, pa.string())}))
    # a list longer than the levels that are decoded at once, and than a page
    long = [{"n": i, "list": list(range(i * 1000, i * 1000 + k))} for i, k in enumerate([1500, 0, 1, 2600])]
    save(folder, "long_lists", pa.Table.from_pylist(long, schema=pa.schema(
        [("n", pa.int32()), ("list", pa.list_(pa.int32()))])), data_page_size=500, write_batch_size=100)


# ---- by hand ----

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def thrift(fields):
    """A struct of Thrift's compact protocol: {field number: value}."""
    out, last = b"", 0
    for number, value in fields.items():
        kind, data = thrift_value(value)
        out += bytes([(number - last) << 4 | kind]) + data
        last = number
    return out + b"\0"


class I64(int):
    """An integer that Thrift declares as one of 64 bits."""


def thrift_value(value):
    if isinstance(value, int):
        return 6 if isinstance(value, I64) else 5, varint(value << 1)
    if isinstance(value, str):
        return 8, varint(len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return 12, thrift(value)
    items = [thrift_value(item) for item in value]
    kind = items[0][0]
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xf0 | kind]) + varint(len(items))
    return 9, head + b"".join(data for _, data in items)


def element(name, **fields):
    numbers = {"type": 1, "repetition": 3, "children": 5, "converted": 6}
    return dict(sorted([(4, name)] + [(numbers[key], value) for key, value in fields.items()]))


REQUIRED, OPTIONAL, REPEATED = range(3)
INT32, BYTES = 1, 6
UTF8, LIST = 0, 3


def plain_values(kind, values):
    if kind == INT32:
        return struct.pack(f"<{len(values)}i", *values)
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def levels(values, highest):
    """Bit-packed groups of the hybrid encoding, behind their size."""
    width = highest.bit_length()
    if not width:
        return b""
    padded = values + [0] * (-len(values) % 8)
    bits = sum(value << i * width for i, value in enumerate(padded))
    packed = varint(len(padded) // 8 << 1 | 1) + bits.to_bytes(len(padded) * width // 8, "little")
    return struct.pack("<I", len(packed)) + packed


def by_hand(folder, name, schema, n_row, columns, codec=0, compress=lambda data: data):
    """columns: (path, type, highest repetition and definition level, repetition levels, definition levels, values)."""
    out, chunks = b"PAR1", []
    for path, kind, max_rep, max_def, rep, definition, values in columns:
        data = levels(rep, max_rep) + levels(definition, max_def) + plain_values(kind, values)
        stored = compress(data)
        n = len(definition)
        header = thrift({1: 0, 2: len(data), 3: len(stored), 5: {1: n, 2: 0, 3: 3, 4: 3}})
        chunks.append({2: I64(len(out)), 3: {1: kind, 2: [0, 3], 3: path, 4: codec, 5: I64(n),
                                             6: I64(len(header + data)), 7: I64(len(header + stored)), 9: I64(len(out))}})
        out += header + stored
    footer = thrift({1: 1, 2: schema, 3: I64(n_row), 4: [{1: chunks, 2: I64(len(out)), 3: I64(n_row)}]})
    path = folder / f"{name}.parquet"
    path.write_bytes(out + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return pq.read_table(path).to_pylist()


def make_by_hand(folder):
    words = ["the", "moon", "rose", "the moon rose"] * 20
    schema = [element("root", children=1), element("text", type=BYTES, repetition=OPTIONAL, converted=UTF8)]
    column = [(["text"], BYTES, 0, 1, [0] * 80, [1] * 80, words)]

    def hadoop(data):
        """Two blocks, each behind its sizes, big endian."""
        out = b""
        for part in (data[:333], data[333:]):
            block = pa.Codec("lz4_raw").compress(part, asbytes=True)
            out += struct.pack(">II", len(part), len(block)) + block
        return out

    write_rows(folder, "lz4_hadoop", by_hand(folder, "lz4_hadoop", schema, 80, column, 5, hadoop))
    rows = by_hand(folder, "lz4_unframed", schema, 80, column, 5,
                   lambda data: pa.Codec("lz4_raw").compress(data, asbytes=True))
    write_rows(folder, "lz4_unframed", rows)

    # [1, 2], [], null, [3]: a repeated value, a repeated group of two fields, and groups named as Avro and Thrift did
    old_list = [0, 1, 0, 0, 0], [2, 2, 1, 0, 2]
    schema = [element("root", children=5),
              element("bare", children=1, repetition=OPTIONAL, converted=LIST),
              element("element", type=INT32, repetition=REPEATED),
              element("array", children=1, repetition=OPTIONAL, converted=LIST),
              element("array", children=1, repetition=REPEATED), element("x", type=INT32, repetition=REQUIRED),
              element("names", children=1, repetition=OPTIONAL, converted=LIST),
              element("names_tuple", children=1, repetition=REPEATED), element("x", type=INT32, repetition=REQUIRED),
              element("pair", children=1, repetition=OPTIONAL, converted=LIST),
              element("bag", children=2, repetition=REPEATED), element("x", type=INT32, repetition=REQUIRED),
              element("y", type=BYTES, repetition=OPTIONAL, converted=UTF8),
              element("plain", type=INT32, repetition=REPEATED)]
    columns = [(["bare", "element"], INT32, 1, 2, *old_list, [1, 2, 3]),
               (["array", "array", "x"], INT32, 1, 2, *old_list, [1, 2, 3]),
               (["names", "names_tuple", "x"], INT32, 1, 2, *old_list, [1, 2, 3]),
               (["pair", "bag", "x"], INT32, 1, 2, *old_list, [1, 2, 3]),
               (["pair", "bag", "y"], BYTES, 1, 3, [0, 1, 0, 0, 0], [3, 2, 1, 0, 3], ["one", "three"]),
               (["plain"], INT32, 1, 1, [0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 1], [1, 2, 3, 4, 5])]
    write_rows(folder, "old_lists", by_hand(folder, "old_lists", schema, 4, columns))


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "parquet"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        path.unlink()
    make_chat(folder)
    make_types(folder)
    make_encodings(folder)
    make_shapes(folder)
    make_by_hand(folder)


if __name__ == "__main__":
    main()
