"""Delta tables as Spark and Databricks write them, made by the words of Delta's protocol: no library for Python writes checkpoints with sidecars, deletion
vectors, numbered columns, wider types or compacted logs.

Each function makes a table in a directory and returns its rows.
"""
import base64, datetime, decimal, json, struct, uuid, zlib

import pyarrow
import pyarrow.parquet

FORMAT = {"provider": "parquet", "options": {}}


class Log:
    """the log of a table, and its files"""

    def __init__(self, path, fields, features=(), keys=(), configuration={}):
        self.path, self.log, self.version = path, path / "_delta_log", 0
        self.log.mkdir(parents=True)
        features = list(features)
        protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
        self.begin = [{"protocol": protocol}, self.metadata(fields, keys, configuration)]
        self.commit(*self.begin)

    def metadata(self, fields, keys=(), configuration={}):
        schema = json.dumps({"type": "struct", "fields": fields})
        return {"metaData": {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.path.name)), "format": FORMAT, "schemaString": schema,
                             "partitionColumns": list(keys), "configuration": configuration, "createdTime": 1}}

    def commit(self, *actions):
        (self.log / f"{self.version:020}.json").write_text("".join(json.dumps(action) + "\n" for action in actions))
        self.version += 1

    def add(self, name, rows, **more):
        """writes a file; returns how a log adds it"""
        pyarrow.parquet.write_table(rows, self.path / name)
        stats = json.dumps({"numRecords": rows.num_rows})
        return {"add": {"path": name, "partitionValues": {}, "size": (self.path / name).stat().st_size, "modificationTime": 1, "dataChange": True,
                        "stats": stats} | more}


def field(name, kind, **metadata):
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata}


def numbers(*values):
    return pyarrow.table({"id": pyarrow.array(values, pyarrow.int64())})


def sidecars(path):
    """a checkpoint that has its files in others, after which commits were cleaned up"""
    log = Log(path, [field("id", "long")], ["v2Checkpoint"])
    adds = [log.add(f"{part}.parquet", numbers(part, part + 10)) for part in range(4)]
    for add in adds:
        log.commit(add)
    found = []
    (log.log / "_sidecars").mkdir()
    for half in [adds[:2], adds[2:]]:
        name = f"{uuid.uuid4()}.parquet"
        kind = pyarrow.struct([("path", pyarrow.string()), ("partitionValues", pyarrow.map_(pyarrow.string(), pyarrow.string())), ("size", pyarrow.int64()),
                               ("modificationTime", pyarrow.int64()), ("dataChange", pyarrow.bool_()), ("stats", pyarrow.string())])
        rows = pyarrow.table({"add": pyarrow.array([add["add"] | {"partitionValues": []} for add in half], kind)})
        pyarrow.parquet.write_table(rows, log.log / "_sidecars" / name)
        size = (log.log / "_sidecars" / name).stat().st_size
        found.append({"sidecar": {"path": name, "sizeInBytes": size, "modificationTime": 1, "tags": {}}})
    actions = [{"checkpointMetadata": {"version": 4}}, *log.begin, *found]
    name = f"{4:020}.checkpoint.{uuid.uuid4()}.json"
    (log.log / name).write_text("".join(json.dumps(action) + "\n" for action in actions))
    for version in range(5):
        (log.log / f"{version:020}.json").unlink()
    log.commit(log.add("late.parquet", numbers(99)), {"remove": {"path": "0.parquet", "deletionTimestamp": 1, "dataChange": True}})
    return [{"id": n} for n in [1, 2, 3, 11, 12, 13, 99]]


def compacted(path):
    """a log of which several commits are in one file"""
    log = Log(path, [field("id", "long")])
    actions = [log.add("a.parquet", numbers(1)), log.add("b.parquet", numbers(2)), log.add("c.parquet", numbers(3))]
    for action in actions[:2]:
        log.commit(action)
    gone = {"remove": {"path": "a.parquet", "deletionTimestamp": 1, "dataChange": True}}
    log.commit(gone, actions[2])
    lines = [*log.begin, *actions[1:], gone]
    (log.log / f"{0:020}.{3:020}.compacted.json").write_text("".join(json.dumps(action) + "\n" for action in lines))
    return [{"id": 2}, {"id": 3}]


def bitmap(rows):
    """rows as the log stores them: a Roaring bitmap of 64 bits in its portable form"""
    containers = {}
    for row in rows:
        containers.setdefault(row >> 16, []).append(row & 0xffff)
    packed = lambda low: struct.pack(f"<{len(low)}H", *low) if len(low) <= 4096 else sum(1 << bit for bit in low).to_bytes(8192, "little")
    data = [packed(low) for low in containers.values()]
    head = struct.pack("<II", 12346, len(data)) + b"".join(struct.pack("<HH", key, len(low) - 1) for key, low in containers.items())
    place = len(head) + 4 * len(data)
    places = b"".join(struct.pack("<I", place + sum(map(len, data[:before]))) for before in range(len(data)))
    return struct.pack("<IQI", 1681511377, 1, 0) + head + places + b"".join(data)


def deleted(path):
    """deletion vectors: two in a file under a name of its own in a directory, one in a file that is named whole, one in the log itself"""
    log = Log(path, [field("id", "long")], ["deletionVectors"])
    lost = [[0, 1, 7], list(range(0, 100_000, 3)), [5], [2, 70_000]]
    vectors = [bitmap(rows) for rows in lost]
    framed = [struct.pack(">I", len(data)) + data + struct.pack(">I", zlib.crc32(data)) for data in vectors]
    name = uuid.uuid4()
    (path / "ab").mkdir()
    (path / "ab" / f"deletion_vector_{name}.bin").write_bytes(b"\1" + framed[0] + framed[1])
    whole = path / f"deletion_vector_{uuid.uuid4()}.bin"
    whole.write_bytes(b"\1" + framed[2])
    # Z85 and base64's b85 have the same digits in different spelling.
    standard = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    ours = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    spelled = lambda data: base64.b85encode(data).decode().translate(str.maketrans(standard, ours))
    padded = vectors[3] + bytes(-len(vectors[3]) % 4)
    told = [
        {"storageType": "u", "pathOrInlineDv": f"ab{spelled(name.bytes)}", "offset": 1},
        {"storageType": "u", "pathOrInlineDv": f"ab{spelled(name.bytes)}", "offset": 1 + len(framed[0])},
        {"storageType": "p", "pathOrInlineDv": whole.as_uri(), "offset": 1},
        {"storageType": "i", "pathOrInlineDv": spelled(padded)},
    ]
    want = []
    for part, (rows, data, told) in enumerate(zip(lost, vectors, told)):
        all_rows = range(part * 1_000_000, part * 1_000_000 + 100_000)
        vector = told | {"sizeInBytes": len(data), "cardinality": len(rows)}
        log.commit(log.add(f"{part}.parquet", numbers(*all_rows), deletionVector=vector))
        gone = set(rows)
        want += [{"id": n} for place, n in enumerate(all_rows) if place not in gone]
    return want


def widened(path):
    """columns that got wider types after files were written; and what writers alone have to know"""
    more = {"delta.generationExpression": "day + 1"}
    log = Log(path, [field("id", "integer"), field("d", "integer"), field("m", "short"), field("day", "date"), field("x", "float", **more)],
              ["typeWidening", "timestampNtz"], configuration={"delta.constraints.positive": "id > 0", "delta.enableTypeWidening": "true"})
    day, noon = datetime.date(2024, 1, 31), datetime.datetime(2024, 1, 31, 12, 0, 0, 1)
    narrow = pyarrow.table({"id": pyarrow.array([1], pyarrow.int32()), "d": pyarrow.array([2147483647], pyarrow.int32()),
                            "m": pyarrow.array([-7], pyarrow.int16()), "day": pyarrow.array([day]), "x": pyarrow.array([0.5], pyarrow.float32())})
    log.commit(log.add("narrow.parquet", narrow))
    wide = [field("id", "long"), field("d", "double"), field("m", "decimal(12,2)"), field("day", "timestamp_ntz"), field("x", "double", **more)]
    table = pyarrow.table({"id": pyarrow.array([1 << 40]), "d": pyarrow.array([0.25]), "m": pyarrow.array([decimal.Decimal("9.99")], pyarrow.decimal128(12, 2)),
                           "day": pyarrow.array([noon], pyarrow.timestamp("us")), "x": pyarrow.array([1e300])})
    log.commit(log.metadata(wide, configuration={"delta.enableTypeWidening": "true"}), log.add("wide.parquet", table))
    return [{"id": 1, "d": 2147483647.0, "m": decimal.Decimal("-7.00"), "day": datetime.datetime(2024, 1, 31), "x": 0.5}, *table.to_pylist()]


def keyed(path):
    """keys with characters that paths escape, the empty text, which is NULL, and times"""
    log = Log(path, [field("id", "long"), field("k", "string"), field("at", "timestamp_ntz")], ["timestampNtz"], ["k", "at"])
    texts = ["a/b=c", "ü %2F\n", "", None, "k=v#?"]
    log.commit(*(log.add(f"{n}.parquet", numbers(n), partitionValues={"k": text, "at": "2024-01-31 12:00:00.000001"}) for n, text in enumerate(texts)))
    at = datetime.datetime(2024, 1, 31, 12, 0, 0, 1)
    return [{"id": n, "k": text or None, "at": at} for n, text in enumerate(texts)]


def renamed(path, mode):
    """columns and fields that files have under names or numbers which never change"""
    mapped = lambda name, kind, number: field(name, kind, **{"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"})
    record = lambda number: {"type": "struct", "fields": [mapped("new", "string", number + 1), mapped("x", "long", number)]}
    items = {"type": "array", "elementType": record(6), "containsNull": True}
    fields = [mapped("id", "long", 1), mapped("s", record(3), 2), mapped("l", items, 5), mapped("k", "string", 8)]
    log = Log(path, fields, ["columnMapping"], ["k"], {"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": "8"})
    # Where numbers tell, names may be any, and those of others.
    others = {1: "k", 2: "id", 3: "new", 4: "x", 5: "s", 6: "new", 7: "x"}
    name = lambda number: f"col-{number}" if mode == "name" else others[number]
    numbered = lambda number, kind: pyarrow.field(name(number), kind, metadata={"PARQUET:field_id": str(number)})
    for version in range(2):
        # The second file has a field more.
        kind = lambda number: pyarrow.struct([numbered(number, pyarrow.int64()), numbered(number + 1, pyarrow.string())][:version + 1])
        value = lambda number: {name(number): version, name(number + 1): "later"}
        columns = [(1, pyarrow.int64(), version), (2, kind(3), value(3)), (5, pyarrow.list_(kind(6)), [value(6), None])]
        schema = pyarrow.schema([numbered(number, kind) for number, kind, _ in columns])
        rows = pyarrow.Table.from_arrays([pyarrow.array([value], kind) for _, kind, value in columns], schema=schema)
        log.commit(log.add(f"{version}.parquet", rows, partitionValues={"col-8": "key"}))
    value = lambda version: {"new": "later" if version else None, "x": version}
    return [{"id": version, "s": value(version), "l": [value(version), None], "k": "key"} for version in range(2)]


TABLES = {"sidecars": sidecars, "compacted": compacted, "deleted": deleted, "widened": widened, "keyed": keyed,
          "by_name": lambda path: renamed(path, "name"), "by_id": lambda path: renamed(path, "id")}
