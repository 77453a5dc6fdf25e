"""The rows that all systems write and read, and how their values are compared."""
import datetime, decimal, json, math

import pyarrow

KEYS = ["plain", None, "a b", "a/b", "a=b", "50%", "a:b", "ünï 日本", "", "it's", 'say "x"', "a#b?c", "{x}[y]^z", "back\\slash", "*", "-1", "2024-01-01",
        "a%2Fb", "..", "tab\there"]
# What a directory calls NULL is no value.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
COLUMNS = {
    "id": ("BIGINT", pyarrow.int64()),
    "flag": ("BOOLEAN", pyarrow.bool_()),
    "i": ("INT", pyarrow.int32()),
    "small": ("SMALLINT", pyarrow.int16()),
    "d": ("DOUBLE", pyarrow.float64()),
    "price": ("DECIMAL(20, 4)", pyarrow.decimal128(20, 4)),
    "cents": ("DECIMAL(7, 2)", pyarrow.decimal128(7, 2)),
    "s": ("STRING", pyarrow.string()),
    "raw": ("BINARY", pyarrow.binary()),
    "day": ("DATE", pyarrow.date32()),
    "ts": ("TIMESTAMP", pyarrow.timestamp("us")),
    "xs": ("ARRAY<INT>", pyarrow.list_(pyarrow.int32())),
    "st": ("STRUCT<a: INT, b: STRING>", pyarrow.struct([("a", pyarrow.int32()), ("b", pyarrow.string())])),
    "m": ("MAP<STRING, INT>", pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    "deep": ("ARRAY<STRUCT<x: INT, ys: ARRAY<STRING>>>",
             pyarrow.list_(pyarrow.struct([("x", pyarrow.int32()), ("ys", pyarrow.list_(pyarrow.string()))]))),
    "nothing": ("STRING", pyarrow.string()),
}
KEY = ("k", "STRING", pyarrow.string())
# Keys of other types: their values are written into paths, too.
TYPED_KEYS = {
    "ki": ("INT", pyarrow.int32(), [-5, 0, None, 2147483647]),
    "kd": ("DATE", pyarrow.date32(), [datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31), datetime.date(2024, 1, 1)]),
    "kn": ("DECIMAL(10, 2)", pyarrow.decimal128(10, 2), [decimal.Decimal("-1.50"), decimal.Decimal("0.00"), decimal.Decimal("12345678.90"), None]),
    "kb": ("BOOLEAN", pyarrow.bool_(), [True, False, None, True]),
    "kt": ("TIMESTAMP", pyarrow.timestamp("us"), [datetime.datetime(2024, 1, 1, 10, 30), None, datetime.datetime(2023, 12, 31, 23, 59, 59), datetime.datetime(1970, 1, 1)]),
}


def row(id):
    """columns in turn NULL, empty, extreme and usual"""
    pick = lambda *values: values[id % len(values)]
    number = decimal.Decimal(id * id - 50)
    return {
        "id": id,
        "flag": pick(True, False, None),
        "i": pick(id, -2147483648, 2147483647, None),
        "small": pick(-32768, 32767, None, id),
        "d": pick(0.1 * id, -1e300, None, math.inf, math.nan, -0.5),
        "price": pick(number.scaleb(-4), None, decimal.Decimal("9999999999999999.9999"), -number),
        "cents": pick(decimal.Decimal("-99999.99"), number.scaleb(-2), None),
        "s": pick("", None, "a\nb", "ünï 🦀 日本", f"text {id}", "null", "NULL"),
        "raw": pick(b"", None, bytes(range(256)), b"\xff\x00"),
        "day": pick(datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31), datetime.date(9999, 12, 31), datetime.date(1900, 1, 1)),
        "ts": pick(datetime.datetime(2024, 1, 1, 1, 2, 3, 456789), None, datetime.datetime(1969, 12, 31, 23, 59, 59, 999999),
                   datetime.datetime(2200, 6, 15, 12, 0)),
        "xs": pick([], None, [1, None, 3], [id]),
        "st": pick({"a": id, "b": "x"}, None, {"a": None, "b": None}),
        "m": pick([], [("a", 1), ("b", None)], None),
        "deep": pick([{"x": 1, "ys": ["a", None]}, None, {"x": None, "ys": []}], [], None, [{"x": id, "ys": None}]),
        "nothing": None,
    }


ROWS = [row(id) for id in range(3 * len(KEYS))]


# ORC does not tell fractions of the last second before 1970 from those of the second after; pyarrow writes all fractions before 1970 otherwise than
# the specification says.
LAST_SECOND = datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)
BEFORE = {"pyarrow": datetime.datetime(1969, 12, 31, 23, 59, 57), "spark": datetime.datetime(1969, 12, 31, 23, 59, 57, 999999)}


def for_orc(row, writer):
    """a row that an ORC file of this writer can hold"""
    return row | {"ts": BEFORE[writer]} if row["ts"] == LAST_SECOND else row


def table(rows=ROWS):
    """the rows with a key of text"""
    schema = pyarrow.schema([(name, kind) for name, (_, kind) in COLUMNS.items()] + [(KEY[0], KEY[2])])
    return pyarrow.Table.from_pylist([row | {"k": KEYS[row["id"] % len(KEYS)]} for row in rows], schema=schema)


def typed_table():
    """a few of the rows with keys of every other type"""
    schema = pyarrow.schema([("id", pyarrow.int64())] + [(name, kind) for name, (_, kind, _) in TYPED_KEYS.items()])
    keys = lambda id: {name: values[id % len(values)] for name, (_, _, values) in TYPED_KEYS.items()}
    return pyarrow.Table.from_pylist([{"id": id} | keys(id) for id in range(12)], schema=schema)


def plain(value):
    """a value as JSON tells it, the same from every system"""
    match value:
        case float() if math.isnan(value) or math.isinf(value):
            return str(value)
        case decimal.Decimal():
            return str(value.normalize() + 0) if value else "0"
        case datetime.datetime():
            # One that has a zone is in UTC.
            return value.replace(tzinfo=None).isoformat(timespec="microseconds")
        case datetime.date():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return [[plain(key), plain(item)] for key, item in sorted(value)]
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value


def lines(rows):
    """one line of JSON for each row, by id. The empty key is NULL: in Hive, and so in Windlass and Spark"""
    fixed = lambda row: {name: None if name == "k" and value == "" else plain(value) for name, value in row.items()}
    return [json.dumps(fixed(row), sort_keys=True, ensure_ascii=False) for row in sorted(rows, key=lambda row: row["id"])]
