"""A server that speaks the statement protocol of Trino and Presto over DuckDB: what the clients in peer.py are tried with where there is
no cluster.

  statements.py DATA      # a directory of tables in Parquet, each in a directory of its name; prints the port
"""

import datetime
import decimal
import http.server
import itertools
import json
import pathlib
import re
import sys

import duckdb

# Rows of one page: few, so that there is more than one.
PAGE = 100
TYPES = {"HUGEINT": "decimal(38,0)", "FLOAT": "real", "TIMESTAMP": "timestamp(6)", "UBIGINT": "decimal(20,0)", "VARCHAR": "varchar(2147483647)"}


def type_of(kind):
    name = TYPES.get(str(kind), str(kind).lower())
    raw, *arguments = re.findall(r"\w+", name)
    return name, {"rawType": raw, "arguments": [{"kind": "LONG", "value": int(argument)} for argument in arguments]}


def value(cell):
    return str(cell) if isinstance(cell, (decimal.Decimal, datetime.date, datetime.datetime)) else cell


class Statements(http.server.BaseHTTPRequestHandler):
    queries, ids = {}, itertools.count()

    def do_POST(self):
        # The name is DuckDB's own.
        sql = self.rfile.read(int(self.headers["Content-Length"])).decode().replace("system.runtime.", "runtime.")
        id = str(next(self.ids))
        try:
            self.queries[id] = connection.cursor().execute(sql)
        except Exception as error:
            kind = {"errorCode": 1, "errorName": "SYNTAX_ERROR", "errorType": "USER_ERROR", "failureInfo": {"type": "x", "stack": []}}
            return self.answer({"id": id, "error": {"message": str(error), **kind}, "stats": {"state": "FAILED"}})
        self.page(id, 0)

    def do_GET(self):
        _, _, _, id, page = self.path.split("/")
        self.page(id, int(page))

    def page(self, id, number):
        result = self.queries[id]
        rows = [[value(cell) for cell in row] for row in result.fetchmany(PAGE)] if number else []
        columns = [{"name": name, "type": type_of(kind)[0], "typeSignature": type_of(kind)[1]} for name, kind, *_ in result.description]
        last = number > 0 and len(rows) < PAGE
        reply = {"id": id, "columns": columns, "data": rows, "stats": {"state": "FINISHED" if last else "RUNNING"}}
        if not last:
            reply["nextUri"] = f"http://127.0.0.1:{self.server.server_port}/v1/statement/{id}/{number + 1}"
        self.answer(reply)

    def answer(self, reply):
        body = json.dumps({"infoUri": "http://127.0.0.1/", **reply}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


connection = duckdb.connect()
for table in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if table.is_dir():
        connection.execute(f"CREATE VIEW {table.name} AS FROM read_parquet('{table}/**/*.parquet', hive_partitioning = true)")
connection.execute("CREATE SCHEMA runtime")
connection.execute("CREATE TABLE runtime.nodes AS SELECT 'no release' AS node_version")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Statements)
print(server.server_port, flush=True)
server.serve_forever()
