"""What Spark does for `run`: writes trees of a table, and prints the rows that it finds in others.

  spark.py SOURCE OUTPUT NAME=PATH...

Writes SOURCE, a Parquet file, below OUTPUT in several ways; then prints `NAME line` for each row below each PATH.
"""
import sys

from pyspark.sql import Row, SparkSession
from pyspark.sql.functions import col, expr

from values import BEFORE, COLUMNS, LAST_SECOND, TYPED_KEYS, lines

# How Spark names the types of `values`.
SPARK = {"TIMESTAMP": "TIMESTAMP_NTZ"}


def native(value, kind):
    """Spark's structs and maps as `values` has them"""
    if value is None:
        return None
    match kind.typeName():
        case "struct":
            return {field.name: native(value[field.name], field.dataType) for field in kind}
        case "map":
            return [(key, native(item, kind.valueType)) for key, item in value.items()]
        case "array":
            return [native(item, kind.elementType) for item in value]
    return value


def main():
    source, output, *trees = sys.argv[1:]
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC")
    spark = builder.config("spark.sql.shuffle.partitions", "1").config("spark.driver.memory", "1g").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    rows = spark.read.parquet(source).coalesce(1)
    with_zone = rows.withColumn("ts", col("ts").cast("timestamp"))
    for name, data, options in [
        ("snappy", rows, {}),
        ("gzip", rows, {"compression": "gzip"}),
        ("zstd", rows, {"compression": "zstd"}),
        ("lz4", rows, {"compression": "lz4_raw"}),
        ("int96", with_zone, {"spark.sql.parquet.outputTimestampType": "INT96"}),
        ("legacy", rows, {"spark.sql.parquet.writeLegacyFormat": "true"}),
        ("pages_v2", rows, {"parquet.writer.version": "v2"}),
        ("plain", rows, {"parquet.enable.dictionary": "false"}),
    ]:
        for key, value in options.items():
            if key.startswith("spark."):
                spark.conf.set(key, value)
        written = data.write.options(**{key: value for key, value in options.items() if not key.startswith("spark.")})
        written.partitionBy("k").parquet(f"{output}/{name}")
        for key in options:
            if key.startswith("spark."):
                spark.conf.unset(key)
    rows = rows.withColumn("ts", expr(f"CASE WHEN ts = TIMESTAMP_NTZ '{LAST_SECOND}' THEN TIMESTAMP_NTZ '{BEFORE['spark']}' ELSE ts END"))
    for codec in ["none", "snappy", "zlib", "zstd", "lz4"]:
        rows.write.options(compression=codec).partitionBy("k").orc(f"{output}/orc_{codec}")
    rows.withColumn("ts", col("ts").cast("timestamp")).write.partitionBy("k").orc(f"{output}/orc_instants")
    for name, path in (tree.split("=", 1) for tree in trees):
        keys = {"k": "STRING"} if name != "typed" else {key: kind for key, (kind, *_) in TYPED_KEYS.items()}
        columns = {"id": "BIGINT"} if name == "typed" else {column: kind for column, (kind, _) in COLUMNS.items()}
        schema = ", ".join(f"{column} {kind.replace('TIMESTAMP', 'TIMESTAMP_NTZ')}" for column, kind in {**columns, **keys}.items())
        found = spark.read.schema(schema).parquet(path)
        for line in lines([native(row, found.schema) for row in found.collect()]):
            print(name, line)


if __name__ == "__main__":
    main()
