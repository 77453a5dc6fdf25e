"""TPC-H on DuckDB over the files of `windlass-bench run`; prints the same table and, with --json, writes a report that `windlass-bench
compare` reads. Needs: pip install duckdb"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

import duckdb

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", type=pathlib.Path, default="tpch-data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--json", type=pathlib.Path)
arguments = parser.parse_args()

report = {
    "suite": "tpch", "started": int(time.time()), "commit": "", "profile": "release", "cores": os.cpu_count(), "memory_bytes": None,
    "arguments": sys.argv[1:], "contenders": {"duckdb": {"version": duckdb.__version__, "threads": str(arguments.threads)}}, "results": [],
}
connection = duckdb.connect(config={"threads": arguments.threads})
for table in ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]:
    files = arguments.data / table / "**" / "*.parquet"
    connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{files}', hive_partitioning = true)")

queries = pathlib.Path(__file__).parent.parent / "client" / "src" / "tpch"
total = 0.0
print("query\tduckdb\trows")
for number in range(1, 23):
    sql = (queries / f"q{number:02}.sql").read_text()
    times = []
    for run in range(arguments.runs + 1):
        start = time.perf_counter()
        rows = len(connection.execute(sql).fetchall())
        times.append((time.perf_counter() - start) * 1e3)
    # The first run warms caches.
    first, *times = times
    total += statistics.median(times)
    print(f"q{number:02}\t{statistics.median(times):.1f}\t{rows}", flush=True)
    report["results"].append(
        {"query": f"q{number:02}", "contender": "duckdb", "rows": rows, "error": None, "first_ms": first, "runs_ms": times})
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))
print(f"total\t{total:.1f}")
