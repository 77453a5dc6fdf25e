"""TPC-H on DuckDB over the files that `windlass-bench tpch` uses; prints the same table. Needs: pip install duckdb"""

import argparse
import pathlib
import statistics
import time

import duckdb

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", type=pathlib.Path, default="tpch-data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=3)
arguments = parser.parse_args()

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
        if run > 0:  # the first run warms caches
            times.append((time.perf_counter() - start) * 1e3)
    total += statistics.median(times)
    print(f"q{number:02}\t{statistics.median(times):.1f}\t{rows}", flush=True)
print(f"total\t{total:.1f}")
