"""Answers queries on another system for windlass-bench, which starts it and speaks JSON lines with it.

The first line in names the tables: {"tables": [{"name", "path", "keys": [[name, type], ...]}, ...], "partitions", "memory_bytes", "uri"}; the
answer is {"configuration": {...}}. Then, for each query: {"sql", "rows": true or false} in, {"ms", "rows"} or {"error"} out. If the rows are
wanted, "bytes" says how long the Arrow stream is that follows the line.
"""

import json
import os
import sys
import time
import urllib.parse

import pyarrow
import pyarrow.ipc

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class DuckDB:
    def __init__(self, setup):
        import duckdb

        self.connection = duckdb.connect(config={"threads": setup["partitions"]})
        self.configuration = {"version": duckdb.__version__, "threads": setup["partitions"]}
        for table in setup["tables"]:
            keys, values, options = dict(table["keys"]), "*", ""
            if keys:
                texts = ", ".join(f"{name}: VARCHAR" for name in keys)
                casts = ", ".join(f"CAST(nullif({name}, '{HIVE_NULL}') AS {kind}) AS {name}" for name, kind in keys.items())
                values, options = f"* REPLACE ({casts})", f", hive_partitioning = true, hive_types = {{{texts}}}"
                # Only what needs the detour takes it: a plain key prunes better.
                if not os.path.exists(os.path.join(table["path"], f"{next(iter(keys))}={HIVE_NULL}")):
                    values, options = "*", options.replace(texts, ", ".join(f"{name}: {kind}" for name, kind in keys.items()))
            files = table["path"].replace("'", "''") + "/**/*.parquet"
            self.connection.execute(f"CREATE VIEW {table['name']} AS SELECT {values} FROM read_parquet('{files}'{options})")

    def run(self, sql):
        return self.connection.execute(sql).fetch_arrow_table()


class Spark:
    def __init__(self, setup):
        import pyspark
        from pyspark.sql import SparkSession

        partitions = setup["partitions"]
        self.configuration = {
            "spark.master": f"local[{partitions}]",
            "spark.driver.memory": f"{max(setup['memory_bytes'] * 6 // 10 >> 20, 1024)}m",
            "spark.driver.maxResultSize": "0",
            # The default of 200 would cost this size dearly; the adaptive planner merges what is too many.
            "spark.sql.shuffle.partitions": str(4 * partitions),
            "spark.sql.ansi.doubleQuotedIdentifiers": "true",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            "spark.sql.session.timeZone": "UTC",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "ERROR",
        }
        builder = SparkSession.builder.appName("windlass-bench")
        for name, value in self.configuration.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.configuration["version"] = pyspark.__version__
        register(self.session, setup["tables"])

    def run(self, sql):
        return self.session.sql(sql).toArrow()


class Sail:
    def __init__(self, setup):
        import importlib.metadata

        os.environ.setdefault("SAIL_EXECUTION__DEFAULT_PARALLELISM", str(setup["partitions"]))
        from pysail.spark import SparkConnectServer
        from pyspark.sql import SparkSession

        self.server = SparkConnectServer()
        self.server.start(background=True)
        _, port = self.server.listening_address
        self.session = SparkSession.builder.remote(f"sc://localhost:{port}").getOrCreate()
        self.configuration = {"version": importlib.metadata.version("pysail"), "default_parallelism": setup["partitions"]}
        register(self.session, setup["tables"])

    def run(self, sql):
        return self.session.sql(sql).toArrow()


def register(session, tables):
    """tables as temporary views of the files, for what speaks Spark"""
    for table in tables:
        # Spark finds keys and their types in the names of directories, as text where we say so.
        session.read.parquet(table["path"]).createOrReplaceTempView(table["name"])


class Trino:
    """of a given cluster: trino://user@host:8080/catalog/schema, where the tables exist"""

    def __init__(self, setup):
        import trino

        self.connect(trino.dbapi.connect, setup)
        self.configuration = {"version": self.run("SELECT version()")[0][0].as_py(), "uri": setup["uri"]}

    def connect(self, connect, setup):
        uri = urllib.parse.urlsplit(setup["uri"])
        catalog, schema = uri.path.strip("/").split("/")
        connection = connect(host=uri.hostname, port=uri.port or 8080, user=uri.username or "bench", catalog=catalog, schema=schema)
        self.cursor = connection.cursor()

    def run(self, sql):
        self.cursor.execute(sql)
        rows = self.cursor.fetchall()
        names = [column[0] for column in self.cursor.description]
        return pyarrow.table([pyarrow.array(values) for values in zip(*rows)] or [[] for _ in names], names=names)


class Presto(Trino):
    def __init__(self, setup):
        import prestodb

        self.connect(prestodb.dbapi.connect, setup)
        self.configuration = {"version": self.run("SELECT node_version FROM system.runtime.nodes")[0][0].as_py(), "uri": setup["uri"]}


def main():
    # Libraries print, too: what we are read by is out of their reach.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(message, rows=b""):
        answers.write(json.dumps(message).encode() + b"\n")
        answers.write(rows)
        answers.flush()

    systems = {"duckdb": DuckDB, "spark": Spark, "sail": Sail, "trino": Trino, "presto": Presto}
    try:
        system = systems[sys.argv[1]](json.loads(sys.stdin.readline()))
    except Exception as error:
        return answer({"error": f"{type(error).__name__}: {error}"})
    answer({"configuration": {name: str(value) for name, value in system.configuration.items()}})
    for line in sys.stdin:
        query = json.loads(line)
        start = time.perf_counter()
        try:
            table = system.run(query["sql"])
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})
            continue
        message = {"ms": (time.perf_counter() - start) * 1e3, "rows": table.num_rows}
        if not query["rows"]:
            answer(message)
            continue
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        rows = sink.getvalue()
        answer({**message, "bytes": rows.size}, rows)


main()
