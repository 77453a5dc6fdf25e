#!/usr/bin/env python3
"""Flight SQL conformance checks, driven by real clients.

  pip install adbc-driver-flightsql adbc-driver-manager pyarrow      # required
  pip install grpcio                                                 # optional: the wire.* checks
  python conformance.py --uri grpc://127.0.0.1:50051 --user admin --password secret

Clients used: adbc_driver_flightsql (the Go driver that Python/R/Power BI/DuckDB/dbt run), pyarrow.flight (C++), and raw
gRPC frames through grpcio (for what those hide: IPC compression, message sizes, PollFlightInfo, unpadded base64).
The jdbc.* checks replay what the Arrow Flight SQL JDBC driver does on the wire, without a JVM.

Assumed of the server: the DataFusion SQL dialect, CREATE TABLE x AS SELECT ... (or, with --tables DIR, CREATE EXTERNAL
TABLE over a Parquet file), DROP TABLE x.  A feature that the server lacks FAILS its check; nothing crashes or hangs the script (each check has a time limit).
Prints one line a check (PASS / FAIL / SKIP) and ends with 'N passed, M failed' (', K skipped' if any).
Exit status 0 if nothing failed, 1 otherwise.   --list, --only REGEX, --skip REGEX, --timeout S, --rows-exp N, --server-pid P, --no-auth, --tables DIR.
"""
import argparse, base64, datetime as dt, decimal, os, random, re, struct, sys, threading, time, traceback, uuid, warnings

import pyarrow as pa
import pyarrow.flight as fl
import pyarrow.parquet
import adbc_driver_manager
import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as dbapi

warnings.simplefilter("ignore")
D = decimal.Decimal
UTC = dt.timezone.utc
P = "type.googleapis.com/arrow.flight.protocol.sql."
A = None                       # parsed arguments
CHECKS = []                    # (name, function, group)
CLEANUP = []                   # tables to drop at the end


class Skip(Exception):
    pass


def check(fn):
    CHECKS.append((fn.__name__.replace("__", "."), fn))
    return fn


def eq(got, want, what="value"):
    if got != want:
        raise AssertionError(f"{what}: got {short(got)}, want {short(want)}")


def ok(cond, msg):
    if not cond:
        raise AssertionError(msg)


def short(v, n=160):
    s = repr(v)
    return s if len(s) <= n else s[:n] + "..."


# ------------------------------------------------------------------ protobuf, by hand
def _varint(n):
    n &= (1 << 64) - 1
    out = b""
    while True:
        b7, n = n & 0x7F, n >> 7
        out += bytes([b7 | (0x80 if n else 0)])
        if not n:
            return out


def pb(*fields):
    """fields: (number, value); int/bool -> varint, str/bytes -> length-delimited, None -> left out"""
    out = b""
    for num, val in fields:
        if val is None:
            continue
        if isinstance(val, (bool, int)):
            out += _varint(num << 3) + _varint(int(val))
        else:
            val = val.encode() if isinstance(val, str) else bytes(val)
            out += _varint(num << 3 | 2) + _varint(len(val)) + val
    return out


def unpb(buf):
    """-> {field number: [values]}; varints as int, others as bytes"""
    buf, i, out = bytes(buf), 0, {}

    def rd():
        nonlocal i
        n = s = 0
        while True:
            b = buf[i]
            i += 1
            n |= (b & 0x7F) << s
            s += 7
            if b < 0x80:
                return n
    while i < len(buf):
        key = rd()
        num, wt = key >> 3, key & 7
        if wt == 0:
            val = rd()
        elif wt == 1:
            val, i = buf[i:i + 8], i + 8
        elif wt == 5:
            val, i = buf[i:i + 4], i + 4
        else:
            n = rd()
            val, i = buf[i:i + n], i + n
        out.setdefault(num, []).append(val)
    return out


def any_(name, body=b""):
    return pb((1, P + name), (2, body))


def unany(buf, name):
    m = unpb(buf)
    url = m.get(1, [b""])[0].decode()
    ok(url == P + name, f"expected Any of {name}, got type_url {url!r}")
    return unpb(m.get(2, [b""])[0])


def schema_from(b):
    return pa.ipc.read_schema(pa.py_buffer(b))


# ------------------------------------------------------------------ clients
def adbc(autocommit=True, user=..., password=..., conn_kwargs=None, **db):
    kw = dict(db)
    user = A.user if user is ... else user
    password = A.password if password is ... else password
    if user is not None:
        kw["username"] = user
        kw["password"] = password or ""
    if A.tls_skip_verify:
        kw["adbc.flight.sql.client_option.tls_skip_verify"] = "true"
    return dbapi.connect(A.uri, db_kwargs=kw, conn_kwargs=conn_kwargs, autocommit=autocommit)


class Conn:
    """an ADBC connection that a with statement closes, cursors too, whatever happened"""

    def __init__(self, **kw):
        self.c = adbc(**kw)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.c.close()
        except Exception:
            pass

    def cur(self, **kw):
        return self.c.cursor(**kw)

    def q(self, sql, params=None):
        cur = self.c.cursor()
        try:
            cur.execute(sql, params) if params is not None else cur.execute(sql)
            return cur.fetch_arrow_table()
        finally:
            cur.close()

    def rows(self, sql, params=None):
        return [tuple(r.values()) if len(set(t.schema.names)) == len(t.schema.names) else
                tuple(c[i].as_py() for c in t.columns)
                for t in [self.q(sql, params)] for i, r in enumerate(t.to_pylist() if len(set(t.schema.names)) == len(
                    t.schema.names) else [None] * t.num_rows)]

    def one(self, sql, params=None):
        t = self.q(sql, params)
        ok(t.num_rows == 1, f"want 1 row, got {t.num_rows}")
        return t.column(0)[0].as_py()


def pa_uri():
    u = A.uri
    if u.startswith("flightsql://"):
        plain = "transport=tcp" in u
        u = ("grpc+tcp://" if plain else "grpc+tls://") + u[len("flightsql://"):].split("?")[0].rstrip("/")
    return u


class Raw:
    """Flight SQL by hand over pyarrow.flight (C++): sends exactly the commands that it is told to"""

    def __init__(self, user=..., password=..., headers=None):
        self.client = fl.FlightClient(pa_uri(), disable_server_verification=bool(A.tls_skip_verify))
        user = A.user if user is ... else user
        password = A.password if password is ... else password
        self.headers = list(headers or [])
        if headers is None and user is not None:
            self.headers.append(self.client.authenticate_basic_token(user, password or ""))

    def opts(self, timeout=None):
        return fl.FlightCallOptions(headers=self.headers, timeout=timeout or A.timeout)

    def info(self, name, body=b""):
        return self.client.get_flight_info(fl.FlightDescriptor.for_command(any_(name, body)), self.opts())

    def reader(self, ep):
        if not ep.locations or any(b"reuse-connection" in l.uri for l in ep.locations):
            return self.client.do_get(ep.ticket, self.opts())
        err = None
        for loc in ep.locations:
            try:
                c = fl.FlightClient(loc, disable_server_verification=bool(A.tls_skip_verify))
                return c.do_get(ep.ticket, self.opts())
            except Exception as e:        # noqa: try the next location, as clients do
                err = e
        raise err

    def fetch(self, info):
        """-> table of all endpoints in order, [schema of each stream]"""
        tabs, schemas = [], []
        for ep in info.endpoints:
            r = self.reader(ep)
            schemas.append(r.schema)
            tabs.append(r.read_all())
        if not tabs:
            return info.schema.empty_table(), [info.schema]
        return (pa.concat_tables(tabs) if len(tabs) > 1 else tabs[0]), schemas

    def table(self, name, body=b""):
        info = self.info(name, body)
        t, ss = self.fetch(info)
        return t, info, ss

    def sql(self, q):
        return self.table("CommandStatementQuery", pb((1, q)))[0]

    def action(self, kind, body=b""):
        return [r.body.to_pybytes() for r in self.client.do_action(fl.Action(kind, body), self.opts())]

    def put(self, name, body=b"", table=None):
        table = pa.schema([]).empty_table() if table is None else table
        w, m = self.client.do_put(fl.FlightDescriptor.for_command(any_(name, body)), table.schema, self.opts())
        try:
            for b in table.to_batches():
                w.write_batch(b)
            w.done_writing()
            got = m.read()
            return got.to_pybytes() if got is not None else None
        finally:
            try:
                w.close()
            except fl.FlightError:
                if sys.exc_info()[0] is None:
                    raise

    def update(self, q):
        b = self.put("CommandStatementUpdate", pb((1, q)))
        ok(b is not None, "no DoPutUpdateResult came back")
        n = unpb(b).get(1, [0])[0]
        return n - (1 << 64) if n >= 1 << 63 else n

    def prepare(self, q):
        r = self.action("CreatePreparedStatement", any_("ActionCreatePreparedStatementRequest", pb((1, q))))
        ok(len(r) == 1, f"CreatePreparedStatement returned {len(r)} results")
        m = unany(r[0], "ActionCreatePreparedStatementResult")
        ds, ps = m.get(2, [b""])[0], m.get(3, [b""])[0]
        return dict(handle=m.get(1, [b""])[0], dataset=schema_from(ds) if ds else None,
                    params=schema_from(ps) if ps else None, is_update=m.get(4, [None])[0])

    def close_prepared(self, handle):
        return self.action("ClosePreparedStatement", any_("ActionClosePreparedStatementRequest", pb((1, handle))))

    def bind(self, handle, table):
        """DoPut parameters -> the handle to go on with"""
        b = self.put("CommandPreparedStatementQuery", pb((1, handle)), table)
        return (unpb(b).get(1, [handle])[0] if b else handle) or handle


class Wire:
    """raw gRPC frames, to see what client libraries hide"""
    S = "/arrow.flight.protocol.FlightService/"

    def __init__(self, auth=True):
        try:
            import grpc
        except ImportError:
            raise Skip("grpcio is not installed")
        self.grpc = grpc
        u = pa_uri()
        scheme, target = u.split("://", 1)
        opts = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if "tls" in scheme:
            if not A.tls_roots:
                raise Skip("TLS without --tls-roots")
            self.ch = grpc.secure_channel(target, grpc.ssl_channel_credentials(open(A.tls_roots, "rb").read()), opts)
        else:
            self.ch = grpc.insecure_channel(target, opts)
        self.md = []
        if auth and A.user is not None:
            h, _, _ = self.handshake(basic(A.user, A.password))
            self.md = [("authorization", h)]

    def us(self, m):
        return self.ch.unary_stream(self.S + m, request_serializer=lambda b: b, response_deserializer=lambda b: b)

    def uu(self, m, req, md=None):
        f = self.ch.unary_unary(self.S + m, request_serializer=lambda b: b, response_deserializer=lambda b: b)
        return f(req, metadata=self.md if md is None else md, timeout=A.timeout)

    def handshake(self, auth, send=b""):
        f = self.ch.stream_stream(self.S + "Handshake", request_serializer=lambda b: b,
                                  response_deserializer=lambda b: b)
        call = f(iter([send] if send is not None else []), metadata=[("authorization", auth)], timeout=A.timeout)
        head = {k: v for k, v in call.initial_metadata()}
        msgs = list(call)
        trail = {k: v for k, v in (call.trailing_metadata() or [])}
        return head.get("authorization") or trail.get("authorization"), msgs, head

    def info(self, name, body=b"", md=None):
        return unpb(self.uu("GetFlightInfo", pb((1, 2), (2, any_(name, body))), md))

    def doget(self, ticket):
        return self.us("DoGet")(pb((1, ticket)), metadata=self.md, timeout=A.timeout)


def basic(user, password, pad=True):
    b = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
    return "Basic " + (b if pad else b.rstrip("="))


def fb_field(buf, tab, i):
    vt = tab - struct.unpack_from("<i", buf, tab)[0]
    n = struct.unpack_from("<H", buf, vt)[0]
    off = struct.unpack_from("<H", buf, vt + 4 + 2 * i)[0] if 4 + 2 * i < n else 0
    return tab + off if off else None


def ipc_header(h):
    """Arrow Message flatbuffer -> (header type, compressed?)"""
    root = struct.unpack_from("<I", h, 0)[0]
    p = fb_field(h, root, 1)
    kind = h[p] if p else 0
    p = fb_field(h, root, 2)
    if kind != 3 or p is None:
        return kind, False
    return kind, fb_field(h, p + struct.unpack_from("<I", h, p)[0], 3) is not None


# ------------------------------------------------------------------ SQL building blocks (no table functions needed)
TEN = "(VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))"


def numbers(n10, extra=""):
    """SELECT 0..10^n10-1 AS v, as a query that any engine can run"""
    al = "abcdefghij"[:n10]
    return (f"SELECT {' + '.join(f'{a}.x * {10 ** i}' for i, a in enumerate(al))} AS v{extra} FROM "
            + " CROSS JOIN ".join(f"{TEN} AS {a}(x)" for a in al))


def tname(tag="t"):
    t = f"fsc_{tag}_{uuid.uuid4().hex[:8]}"
    CLEANUP.append(t)
    return t


def create(t, select):
    """SQL that makes table t of the rows of select"""
    if not A.tables:
        return f"CREATE TABLE {t} AS {select}"
    where = os.path.join(A.tables, t)
    os.makedirs(where, exist_ok=True)
    pa.parquet.write_table(Raw().sql(select), os.path.join(where, "rows.parquet"))
    return f"CREATE EXTERNAL TABLE {t} STORED AS PARQUET LOCATION '{where}'"


def ctas(c, select, tag="t"):
    t = tname(tag)
    c.q(create(t, select))
    return t


def raises(f, *codes, what="the call", unimpl=False):
    """f must raise; codes: acceptable ADBC status or pyarrow error names (none: any but "not implemented")"""
    try:
        r = f()
    except (AssertionError, Skip):
        raise
    except Exception as e:
        code = getattr(getattr(e, "status_code", None), "name", type(e).__name__)
        if not unimpl and code not in codes and ("NotImplemented" in code or "NOT_IMPLEMENTED" in code or "NotSupported" in code):
            raise AssertionError(f"{what} is not implemented ({short(str(e), 120)})")
        if codes:
            ok(code in codes, f"{what} raised {code} ({short(str(e), 120)}), want one of {codes}")
        return e
    raise AssertionError(f"{what} did not raise; it returned {short(r, 80)}")


# ================================================================== 1. connecting and authentication
@check
def auth__adbc_connect_select1():
    with Conn() as c:
        eq(c.one("SELECT 1"), 1)


def need_auth():
    if A.user is None or A.no_auth:
        raise Skip("no --user, or --no-auth")


@check
def auth__handshake_returns_bearer():
    need_auth()
    k, v = fl.FlightClient(pa_uri(), disable_server_verification=bool(A.tls_skip_verify)).authenticate_basic_token(
        A.user, A.password or "")
    ok(k.lower() == b"authorization" and v.startswith(b"Bearer ") and len(v) > 15, f"got {k!r}: {v[:20]!r}")


@check
def auth__wrong_password_unauthenticated():
    need_auth()

    def f():
        with Conn(password=(A.password or "") + "x") as c:
            return c.one("SELECT 1")
    raises(f, "UNAUTHENTICATED", what="a wrong password")


@check
def auth__no_credentials_rejected():
    need_auth()
    raises(lambda: Raw(user=None, headers=[]).sql("SELECT 1"), "FlightUnauthenticatedError", what="no credentials")


@check
def auth__garbage_bearer_rejected():
    need_auth()
    raises(lambda: Raw(headers=[(b"authorization", b"Bearer " + b"A" * 40)]).sql("SELECT 1"),
           "FlightUnauthenticatedError", what="a made-up token")


@check
def auth__metadata_needs_auth_too():
    need_auth()
    raises(lambda: Raw(user=None, headers=[]).info("CommandGetTables"), "FlightUnauthenticatedError",
           what="GetTables without credentials")


@check
def auth__basic_header_on_every_call():
    need_auth()      # ADBC authorization_header="Basic ...", Grafana, ODBC UID/PWD through proxies
    h = base64.b64encode(f"{A.user}:{A.password or ''}".encode())
    eq(Raw(headers=[(b"authorization", b"Basic " + h)]).sql("SELECT 1 AS a").to_pylist(), [{"a": 1}])


@check
def wire__handshake_accepts_unpadded_base64():
    need_auth()      # arrow-go (so ADBC) encodes without padding: RawStdEncoding
    w = Wire(auth=False)
    for pad in (True, False):
        h, _, _ = w.handshake(basic(A.user, A.password, pad), None)
        ok(h and h.startswith("Bearer "), f"pad={pad}: no bearer token in the response headers (got {h!r})")


@check
def wire__handshake_accepts_bearer():
    need_auth()      # JDBC with token=... handshakes with the Bearer header and must not be refused
    w = Wire()
    w.handshake(w.md[0][1], b"")


@check
def wire__error_has_grpc_code_not_unknown():
    need_auth()
    w = Wire(auth=False)
    try:
        w.info("CommandStatementQuery", pb((1, "SELECT 1")), md=[("authorization", "Basic !!!notbase64")])
    except w.grpc.RpcError as e:
        ok(e.code() in (w.grpc.StatusCode.UNAUTHENTICATED, w.grpc.StatusCode.INVALID_ARGUMENT), f"code {e.code()}")
    else:
        raise AssertionError("a malformed Basic header was let in")


# ================================================================== 2. plain queries
@check
def query__statement_not_prepared():
    eq(Raw().sql("SELECT 1 AS a, 'x' AS b").to_pylist(), [{"a": 1, "b": "x"}])


@check
def query__trailing_semicolon_and_comments():
    with Conn() as c:
        eq(c.one("-- hello\nSELECT /* there */ 42;"), 42)


@check
def query__unicode_quotes_and_nulls():
    with Conn() as c:
        eq(c.rows("SELECT 'žluťoučký 🐎' AS \"Mixed ünï\", '' AS e, 'it''s' AS q, CAST(NULL AS VARCHAR) AS n"),
           [("žluťoučký 🐎", "", "it's", None)])
        eq(c.q("SELECT 1 AS \"Mixed ünï\"").schema.names, ["Mixed ünï"])


@check
def query__duplicate_column_names():
    with Conn() as c:
        t = c.q("SELECT l.a, r.a FROM (SELECT 1 AS a) l CROSS JOIN (SELECT 2 AS a) r")
        eq(t.schema.names, ["a", "a"])
        eq([col[0].as_py() for col in t.columns], [1, 2])


@check
def query__zero_rows_keep_the_schema():
    with Conn() as c:
        t = c.q("SELECT CAST(1 AS BIGINT) AS a, 'x' AS b WHERE 1 = 2")
        eq(t.num_rows, 0)
        eq(t.schema.names, ["a", "b"])
        eq(t.schema.field("a").type, pa.int64())
    t, info, ss = Raw().table("CommandStatementQuery", pb((1, "SELECT CAST(1 AS BIGINT) AS a WHERE 1 = 2")))
    eq((t.num_rows, ss[0].names), (0, ["a"]))


TRICKY = [
    "SELECT count(*) AS n, min(x) AS lo, max(x) AS hi, sum(x) AS s, avg(x) AS a FROM {t}",
    "SELECT min(s) AS lo, count(DISTINCT s) AS n FROM {t} GROUP BY x % 2",
    "SELECT 1 AS a UNION ALL SELECT NULL",
    "SELECT l.x, r.x AS y FROM {t} l LEFT JOIN {t} r ON l.x = r.x + 1",
    "SELECT CASE WHEN x > 1 THEN 'a' END AS c, coalesce(s, 'z') AS d FROM {t}",
    "SELECT version() AS v, now() AS n, current_date AS d",
    "SELECT x, row_number() OVER (ORDER BY x) AS rn FROM {t}",
    "SELECT array_agg(x) AS l, make_array(1, 2) AS m FROM {t}",
    "SELECT named_struct('a', x, 'b', s) AS st FROM {t}",
    "SELECT CAST(x AS DECIMAL(10,2)) * CAST(2 AS DECIMAL(4,1)) AS m FROM {t}",
    "SELECT * FROM {t} ORDER BY x LIMIT 1",
    "SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS d, arrow_cast(s, 'LargeUtf8') AS l, arrow_cast(s,'Utf8View') AS v"
    " FROM {t}",
    "SELECT arrow_cast([1,2], 'LargeList(Int64)') AS l",
    "EXPLAIN SELECT 1",
    "SHOW TABLES",
]


@check
def query__flightinfo_schema_equals_doget_schema():
    # arrow-go/ADBC refuses any difference: type, name or nullability (arrow-adbc#3134, flight-sql-server#51)
    r = Raw()
    with Conn() as c:
        t = ctas(c, "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) v(x, s)", "tricky")
    bad = []
    for q in TRICKY:
        q = q.format(t=t)
        try:
            info = r.info("CommandStatementQuery", pb((1, q)))
            tab, ss = r.fetch(info)
            for s in ss:
                if not s.remove_metadata().equals(info.schema.remove_metadata()):
                    bad.append(f"{q[:50]}: info {short(info.schema.to_string(), 90)} stream {short(s.to_string(), 90)}")
        except Exception as e:
            bad.append(f"{q[:50]}: {short(str(e), 100)}")
    ok(not bad, f"{len(bad)} of {len(TRICKY)}: " + " || ".join(bad[:3]))


@check
def query__same_through_adbc():
    with Conn() as c:
        t = ctas(c, "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) v(x, s)", "tricky2")
        bad = []
        for q in TRICKY:
            try:
                c.q(q.format(t=t))
            except Exception as e:
                bad.append(f"{q[:40]}: {short(str(e), 110)}")
    ok(not bad, f"{len(bad)} of {len(TRICKY)}: " + " || ".join(bad[:3]))


@check
def query__total_records_unknown_or_right():
    info = Raw().info("CommandStatementQuery", pb((1, numbers(2))))
    ok(info.total_records in (-1, 100), f"total_records = {info.total_records} (want -1 if unknown, else 100)")
    ok(info.total_bytes >= -1, f"total_bytes = {info.total_bytes}")


@check
def query__order_by_survives_endpoints():
    r = Raw()
    info = r.info("CommandStatementQuery", pb((1, numbers(4) + " ORDER BY v DESC")))
    v = r.fetch(info)[0].column("v").to_pylist()
    eq(v, list(range(9999, -1, -1)), "order")
    if len(info.endpoints) > 1:
        ok(info.ordered, f"{len(info.endpoints)} endpoints but FlightInfo.ordered is false")


@check
def query__one_endpoint_by_default():      # Grafana's SQL data sources refuse any other number
    r = Raw()
    with Conn() as c:
        t = ctas(c, numbers(5), "oneep")
    for q in ("SELECT 1", f"SELECT * FROM {t}", f"SELECT * FROM {t} WHERE v < 0"):
        eq(len(r.info("CommandStatementQuery", pb((1, q))).endpoints), 1, f"endpoints of {q[:30]!r}")


@check
def query__get_schema_rpc():
    s = Raw().client.get_schema(fl.FlightDescriptor.for_command(
        any_("CommandStatementQuery", pb((1, "SELECT CAST(1 AS BIGINT) AS a")))), Raw().opts()).schema
    eq(s.names, ["a"])


@check
def query__large_result():
    n = A.rows_exp
    with Conn() as c:
        cur = c.cur()
        cur.execute(numbers(n, ", 'row ' || a.x AS s, CAST(a.x AS DOUBLE) / 7 AS d"))
        cnt = tot = 0
        for b in cur.fetch_record_batch():
            cnt += b.num_rows
            tot += int(pa.compute.sum(b.column(0)).as_py() or 0)
        cur.close()
    N = 10 ** n
    eq((cnt, tot), (N, N * (N - 1) // 2))


@check
def query__wide_result():
    with Conn() as c:
        t = c.q("SELECT " + ", ".join(f"{i} AS c{i}" for i in range(600)))
        eq((t.num_columns, t.column(599)[0].as_py()), (600, 599))


@check
def query__long_strings():
    with Conn() as c:
        t = c.q("SELECT a.x AS x, repeat('y', 1000000) AS s FROM " + TEN + " AS a(x)")
        eq((t.num_rows, {len(v.as_py()) for v in t.column("s")}), (10, {1000000}))


@check
def query__one_value_of_10MB():      # cannot be split: must still be under ADBC's 16 MiB default
    with Conn() as c:
        eq(len(c.one("SELECT repeat('z', 10000000)")), 10000000)


@check
def query__explain_and_show():
    with Conn() as c:
        ok(c.q("EXPLAIN SELECT 1").num_rows >= 1, "EXPLAIN gave no rows")
        ok(c.q("SHOW TABLES").num_columns >= 1, "SHOW TABLES gave no columns")


@check
def query__information_schema():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a, 'x' AS b", "infsch")
        eq(c.one(f"SELECT count(*) FROM information_schema.columns WHERE table_name = '{t}'"), 2)


@check
def query__cursor_reused_and_description():
    with Conn() as c:
        cur = c.cur()
        for i in range(30):
            cur.execute(f"SELECT {i} AS v")
            eq(cur.description[0][0], "v")
            eq(cur.fetchone(), (i,))
        cur.close()


@check
def query__partitions_readable_elsewhere():
    with Conn() as c, Conn() as c2:
        parts, schema = c.cur().adbc_execute_partitions(numbers(3))
        ok(len(parts) >= 1, "no partitions")
        got = 0
        for p in parts:
            cur = c2.cur() if A.user is None else c.cur()
            cur.adbc_read_partition(p)
            got += cur.fetch_arrow_table().num_rows
        eq(got, 1000)


@check
def query__interleaved_streams_on_one_connection():
    with Conn() as c:
        a, b = c.cur(), c.cur()
        a.execute(numbers(4) + " ORDER BY v")
        b.execute(numbers(4) + " ORDER BY v DESC")
        for i in range(10000):
            x, y = a.fetchone(), b.fetchone()
            if (x, y) != ((i,), (9999 - i,)):
                raise AssertionError(f"row {i}: {x} {y}")


@check
def query__concurrent_connections():
    errs = []

    def work(k):
        try:
            with Conn() as c:
                for i in range(15):
                    eq(c.one(f"SELECT sum(v) + {k} FROM ({numbers(3)}) q"), 499500 + k)
        except Exception as e:
            errs.append(f"{k}: {short(str(e))}")
    th = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(8)]
    [t.start() for t in th]
    [t.join(A.timeout) for t in th]
    ok(not any(t.is_alive() for t in th), "threads still running")
    ok(not errs, "; ".join(errs[:3]))


# ================================================================== 3. types
TYPES = {
    "ints": ("SELECT CAST(-128 AS TINYINT), CAST(32767 AS SMALLINT), CAST(-2147483648 AS INT),"
             " CAST(9223372036854775807 AS BIGINT)", (-128, 32767, -2147483648, 9223372036854775807)),
    "uints": ("SELECT arrow_cast(255,'UInt8'), arrow_cast(65535,'UInt16'), arrow_cast(4294967295,'UInt32'),"
              " arrow_cast(18446744073709551615,'UInt64')", (255, 65535, 4294967295, 18446744073709551615)),
    "floats": ("SELECT CAST(1.5 AS REAL), CAST(-2.25 AS DOUBLE), CAST('NaN' AS DOUBLE) IS NULL,"
               " CAST('inf' AS DOUBLE)", (1.5, -2.25, False, float("inf"))),
    "bool_null": ("SELECT true, false, CAST(NULL AS BOOLEAN), NULL", (True, False, None, None)),
    "date": ("SELECT DATE '2024-02-29', DATE '1969-12-31'", (dt.date(2024, 2, 29), dt.date(1969, 12, 31))),
    "time": ("SELECT arrow_cast('12:34:56.789', 'Time64(Microsecond)'), arrow_cast('23:59:59', 'Time32(Second)')",
             (dt.time(12, 34, 56, 789000), dt.time(23, 59, 59))),
    "timestamp": ("SELECT arrow_cast('2024-01-02T03:04:05', 'Timestamp(Second, None)'),"
                  " arrow_cast('2024-01-02T03:04:05.123', 'Timestamp(Millisecond, None)'),"
                  " arrow_cast('2024-01-02T03:04:05.123456', 'Timestamp(Microsecond, None)'),"
                  " arrow_cast('1900-01-01T00:00:00', 'Timestamp(Microsecond, None)')",
                  (dt.datetime(2024, 1, 2, 3, 4, 5), dt.datetime(2024, 1, 2, 3, 4, 5, 123000),
                   dt.datetime(2024, 1, 2, 3, 4, 5, 123456), dt.datetime(1900, 1, 1))),
    "decimal128": ("SELECT CAST('-12345678901234567890.1234567890' AS DECIMAL(38,10)), CAST(0.01 AS DECIMAL(5,2))",
                   (D("-12345678901234567890.1234567890"), D("0.01"))),
    "decimal256": ("SELECT arrow_cast('1234567890123456789012345678901234567890.125', 'Decimal256(60, 3)')",
                   (D("1234567890123456789012345678901234567890.125"),)),
    "binary": ("SELECT X'DEADBEEF', arrow_cast(X'00FF', 'LargeBinary'), X''",
               (b"\xde\xad\xbe\xef", b"\x00\xff", b"")),
    "strings": ("SELECT 'a', arrow_cast('b', 'LargeUtf8'), arrow_cast('c', 'Utf8View'), repeat('é', 70000)",
                ("a", "b", "c", "é" * 70000)),
    "dictionary": ("SELECT arrow_cast('red', 'Dictionary(Int32, Utf8)'), arrow_cast(NULL, 'Dictionary(Int8, Utf8)')",
                   ("red", None)),
    "list": ("SELECT make_array(1, NULL, 3), make_array('a', 'b'), make_array(make_array(1), make_array(2, 3))",
             ([1, None, 3], ["a", "b"], [[1], [2, 3]])),
    "large_and_fixed_list": ("SELECT arrow_cast([1, 2], 'LargeList(Int64)'), arrow_cast([3, 4], 'FixedSizeList(2, Int64)')",
                             ([1, 2], [3, 4])),
    "struct": ("SELECT named_struct('x', 1, 'y', named_struct('z', 'deep'))", ({"x": 1, "y": {"z": "deep"}},)),
    "map": ("SELECT map(['k1', 'k2'], [1, NULL])", ([("k1", 1), ("k2", None)],)),
    "duration": ("SELECT arrow_cast(1500, 'Duration(Millisecond)')", (dt.timedelta(seconds=1.5),)),
}


def _type_check(name):
    def f():
        sql, want = TYPES[name]
        with Conn() as c:
            t = c.q(sql.replace("CAST(NULL AS BOOLEAN), NULL", "CAST(NULL AS BOOLEAN), NULL AS n"))
            eq(tuple(col[0].as_py() for col in t.columns), want)
    f.__name__ = f"types__{name}"
    check(f)


for _n in TYPES:
    _type_check(_n)


@check
def types__timestamp_tz():
    with Conn() as c:
        t = c.q("SELECT arrow_cast('2024-07-01T12:00:00', 'Timestamp(Microsecond, Some(\"+02:00\"))') AS a,"
                " arrow_cast('2024-07-01T12:00:00', 'Timestamp(Nanosecond, Some(\"UTC\"))') AS b")
        for n in "ab":
            ok(t.schema.field(n).type.tz, f"column {n} lost its time zone: {t.schema.field(n).type}")
        b = t.column("b")[0].as_py()
        eq(b.astimezone(UTC).replace(tzinfo=None) if hasattr(b, "astimezone") else b, dt.datetime(2024, 7, 1, 12))


@check
def types__interval():
    with Conn() as c:
        v = c.q("SELECT INTERVAL '1' MONTH + INTERVAL '2' DAY AS i").column(0)[0].as_py()
        ok((v.months, v.days) == (1, 2), short(v))


@check
def types__table_round_trip_with_nulls():
    with Conn() as c:
        t = ctas(c, "SELECT * FROM (VALUES (1, 'a', 1.5, true), (NULL, NULL, NULL, NULL), (3, '', -0.0, false))"
                    " v(i, s, d, b)", "nulls")
        eq(sorted(c.rows(f"SELECT i, s, b FROM {t}"), key=str),
           sorted([(1, "a", True), (None, None, None), (3, "", False)], key=str))


# ================================================================== 4. prepared statements
@check
def prepared__parameter_schema():
    with Conn() as c:
        s = c.cur().adbc_prepare("SELECT CAST($1 AS BIGINT) + 1 AS v, $2 || 'x' AS w")
        ok(s is not None and len(s) == 2, f"parameter schema {s}")


@check
def prepared__question_marks():      # what JDBC, ODBC and DB-API (paramstyle qmark) send
    with Conn() as c:
        eq(c.rows("SELECT CAST(? AS BIGINT) AS a, CAST(? AS VARCHAR) AS b", (7, "x")), [(7, "x")])


@check
def prepared__question_mark_in_literals():
    with Conn() as c:
        eq(c.rows("SELECT '?' AS q, \"c?\" AS i, CAST(? AS INT) AS v /* ? */ FROM (SELECT 1 AS \"c?\") s -- ?", (5,)),
           [("?", 1, 5)])


PARAMS = {
    "int": ("BIGINT", 42), "float": ("DOUBLE", 2.5), "str": ("VARCHAR", "héllo"), "bool": ("BOOLEAN", True),
    "bytes": ("BYTEA", b"\x00\x01"), "date": ("DATE", dt.date(2024, 2, 29)),
    "datetime": ("TIMESTAMP", dt.datetime(2024, 1, 2, 3, 4, 5, 678900)), "decimal": ("DECIMAL(10,3)", D("12.345")),
    "null": ("BIGINT", None),
}


def _param_check(name):
    def f():
        sqlt, v = PARAMS[name]
        with Conn() as c:
            got = c.one(f"SELECT CAST($1 AS {sqlt}) AS v", (v,))
            eq(got, v)
    f.__name__ = f"prepared__param_{name}"
    check(f)


for _n in PARAMS:
    _param_check(_n)


@check
def prepared__param_timestamp_tz():
    with Conn() as c:
        t = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
        got = c.q("SELECT $1 AS v", (t,)).column(0)[0].as_py()
        eq(got.astimezone(UTC) if got.tzinfo else got.replace(tzinfo=UTC), t)


@check
def prepared__where_clause_types_inferred():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(column1 AS INT) AS i, column2 AS s, CAST(column3 AS DECIMAL(10,2)) AS d"
                    " FROM (VALUES (1, 'a', 1.5), (2, 'b', 2.5), (3, 'c', 3.5))", "pw")
        eq(c.rows(f"SELECT s FROM {t} WHERE i = $1", (2,)), [("b",)])
        eq(c.rows(f"SELECT i FROM {t} WHERE s = $1 AND d < $2", ("a", D("9.99"))), [(1,)])
        eq(sorted(c.rows(f"SELECT i FROM {t} WHERE i IN ($1, $2) ORDER BY i LIMIT 5", (1, 3))), [(1,), (3,)])


@check
def prepared__reused_with_new_values():
    with Conn() as c:
        cur = c.cur()
        for i in range(20):
            cur.execute("SELECT CAST($1 AS BIGINT) * 2 AS v", (i,))
            eq(cur.fetchall(), [(2 * i,)])
        cur.close()


@check
def prepared__many_rows_bound_to_a_query():
    with Conn() as c:
        cur = c.cur()
        cur.execute("SELECT CAST($1 AS BIGINT) + 1 AS v", pa.record_batch([pa.array([10, 20, 30])], ["p"]))
        eq(sorted(cur.fetchall()), [(11,), (21,), (31,)])


@check
def prepared__too_few_parameters_is_an_error():
    with Conn() as c:
        raises(lambda: c.rows("SELECT CAST($1 AS BIGINT) + CAST($2 AS BIGINT)", (1,)), what="a missing parameter")
        eq(c.one("SELECT 1"), 1)


@check
def prepared__execute_schema():
    with Conn() as c:
        s = c.cur().adbc_execute_schema("SELECT CAST(1 AS BIGINT) AS a, 'x' AS b")
        eq(s.names, ["a", "b"])
        eq(s.field("a").type, pa.int64())


@check
def prepared__bad_sql_fails_at_prepare():
    with Conn() as c:
        raises(lambda: c.cur().adbc_prepare("SELEKT 1"), "INVALID_ARGUMENT", what="preparing bad SQL")


@check
def prepared__closed_handle_is_an_error():
    r = Raw()
    h = r.prepare("SELECT 1 AS a")["handle"]
    r.close_prepared(h)
    raises(lambda: r.info("CommandPreparedStatementQuery", pb((1, h))), what="a closed handle")


@check
def prepared__unknown_handle_is_an_error():
    raises(lambda: Raw().info("CommandPreparedStatementQuery", pb((1, b"no such handle"))), what="an unknown handle")


@check
def prepared__executemany_insert():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a, 'x' AS b", "em")
        cur = c.cur()
        cur.executemany(f"INSERT INTO {t} VALUES ($1, $2)", [(2, "y"), (3, "z")])
        cur.close()
        eq(c.one(f"SELECT count(*) FROM {t}"), 3)


# ================================================================== 5. what the JDBC driver does
@check
def jdbc__query_prepare_gives_dataset_schema():
    # empty dataset_schema => the driver takes the statement for an update and calls DoPut
    for q in ("SELECT 1 AS a", "SHOW TABLES", "EXPLAIN SELECT 1", "VALUES (1)", "WITH w AS (SELECT 1 AS a) SELECT * FROM w"):
        p = Raw().prepare(q)
        ok(p["dataset"] is not None and len(p["dataset"]) > 0, f"no dataset_schema for {q!r}")
        ok(not p["is_update"], f"is_update is set for {q!r}")


@check
def jdbc__ddl_prepare_gives_no_dataset_schema():
    t = tname("jd")
    p = Raw().prepare(create(t, "SELECT 1 AS a"))
    ok(p["is_update"] or p["dataset"] is None or len(p["dataset"]) == 0,
       f"DDL got dataset_schema {p['dataset']} and no is_update: JDBC would run it as a query")


@check
def jdbc__ddl_through_prepared_update():
    r, t = Raw(), tname("ju")
    p = r.prepare(create(t, "SELECT 1 AS a"))
    r.put("CommandPreparedStatementUpdate", pb((1, p["handle"])))
    eq(r.sql(f"SELECT a FROM {t}").to_pylist(), [{"a": 1}])
    p = r.prepare(f"DROP TABLE {t}")
    r.put("CommandPreparedStatementUpdate", pb((1, p["handle"])))


@check
def jdbc__parameter_types_are_concrete_and_nullable():
    # the binder builds vectors from parameter_schema: Null type or non-nullable => it cannot bind
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS INT) AS i, 'a' AS s, DATE '2024-01-01' AS d", "jp")
    p = Raw().prepare(f"SELECT * FROM {t} WHERE i = ? AND s LIKE ? AND d >= ? AND coalesce(?, 1) = 1 LIMIT ?")["params"]
    ok(p is not None and len(p) == 5, f"parameter_schema {p}")
    bad = [f"{i}: {f.type}{'' if f.nullable else ' not null'}" for i, f in enumerate(p)
           if pa.types.is_null(f.type) or not f.nullable]
    ok(not bad, "JDBC cannot bind " + ", ".join(bad))


@check
def jdbc__bind_execute_fetch():
    r = Raw()
    p = r.prepare("SELECT CAST(? AS BIGINT) + 1 AS v")
    ok(p["params"] is not None and len(p["params"]) == 1, f"params {p['params']}")
    for i in (1, 2):
        typ = p["params"].field(0).type
        val = pa.array([i], pa.int64()).cast(typ if not pa.types.is_null(typ) else pa.int64())
        h = r.bind(p["handle"], pa.table([val], ["parameter_1"]))
        eq(r.table("CommandPreparedStatementQuery", pb((1, h)))[0].column(0).to_pylist(), [i + 1])
    r.close_prepared(p["handle"])


@check
def jdbc__sqlinfo_all_codes_with_right_types():
    t = Raw().table("CommandGetSqlInfo")[0]
    kinds = sqlinfo_kinds(t)
    want = {}
    for k, codes in JDBC_SQLINFO.items():
        want.update({c: k for c in codes})
    missing = sorted(c for c in want if c not in kinds)
    wrong = sorted(f"{c}:{kinds[c]} (want {want[c]})" for c in want if c in kinds and kinds[c] != want[c])
    ok(not wrong, "wrong union type (ClassCastException in JDBC): " + ", ".join(wrong[:8]))
    ok(not missing, f"{len(missing)} codes missing (NullPointerException in drivers before 19): {missing[:12]}...")


@check
def jdbc__sqlinfo_no_unknown_codes():
    # SqlInfo.forNumber(unknown) is null and EnumMap.put(null) throws: all DatabaseMetaData fails
    bad = [c for c in sqlinfo_kinds(Raw().table("CommandGetSqlInfo")[0])
           if not (c <= 11 or c in (100, 101) or 500 <= c <= 576)]
    ok(not bad, f"unknown SqlInfo codes in the unfiltered answer: {bad[:8]}")


@check
def jdbc__no_types_that_drivers_cannot_read():
    # Utf8View/BinaryView: JDBC < 19 (arrow-java#807).  Dictionary, ListView, REE, Float16, Decimal32/64: any JDBC
    t = Raw().sql("SELECT 'a' || 'b' AS s, arrow_cast('x', 'Utf8View') AS v, arrow_cast('y', 'Dictionary(Int32, Utf8)') AS d,"
                  " arrow_cast(X'00', 'BinaryView') AS bv, upper(arrow_cast('q', 'Utf8View')) AS u")
    bad = [f"{f.name}: {f.type}" for f in t.schema if pa.types.is_dictionary(f.type) or "view" in str(f.type)]
    ok(not bad, ", ".join(bad))


@check
def jdbc__tables_columns_introspection():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS INT) AS i, 'x' AS s, CAST(1.5 AS DECIMAL(12,3)) AS d,"
                    " TIMESTAMP '2024-01-01T00:00:00' AS ts", "jcols")
    tab = Raw().table("CommandGetTables", pb((3, t), (5, True)))[0]
    eq(tab.num_rows, 1, "tables found")
    s = schema_from(tab.column("table_schema")[0].as_py())
    eq(s.names, ["i", "s", "d", "ts"])
    ok("view" not in str(s.field("s").type), f"table_schema has {s.field('s').type}: old JDBC drivers fail in getColumns")


# ================================================================== 6. DDL and DML
@check
def ddl__execute_without_fetch_has_effect():
    # ADBC sends DDL as a query: it must run at GetFlightInfo, not lazily at DoGet (gizmosql#134)
    with Conn() as c:
        t = tname("lazy")
        cur = c.cur()
        cur.execute(create(t, "SELECT 5 AS a"))
        eq(c.one(f"SELECT a FROM {t}"), 5)
        cur.close()


@check
def ddl__getflightinfo_alone_has_effect():
    r, t = Raw(), tname("gfi")
    r.info("CommandStatementQuery", pb((1, create(t, "SELECT 5 AS a"))))
    eq(r.sql(f"SELECT a FROM {t}").to_pylist(), [{"a": 5}])


@check
def ddl__runs_exactly_once():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a", "once")
        cur = c.cur()
        cur.execute(f"INSERT INTO {t} VALUES (2)")
        cur.fetchall()
        cur.close()
        eq(c.one(f"SELECT count(*) FROM {t}"), 2)


@check
def ddl__statement_update_create_drop():
    r, t = Raw(), tname("upd")
    n = r.update(create(t, "SELECT 1 AS a"))
    ok(n >= -1, f"record_count {n}")
    r.update(f"DROP TABLE {t}")
    raises(lambda: r.sql(f"SELECT * FROM {t}"), what="a dropped table")


@check
def ddl__insert_reports_row_count():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a", "cnt")
    eq(Raw().update(f"INSERT INTO {t} VALUES (2), (3)"), 2, "record_count")


@check
def ddl__create_table_is_shared_between_connections():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a", "shared")
    with Conn() as c2:
        eq(c2.one(f"SELECT a FROM {t}"), 1)


@check
def ddl__duplicate_table_is_an_error():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a", "dup")
        raises(lambda: c.q(create(t, "SELECT 2 AS a")), what="creating a table twice")


@check
def ddl__executescript():
    with Conn() as c:
        t = tname("scr")
        cur = c.cur()
        cur.executescript(create(t, "SELECT 9 AS a"))
        cur.close()
        eq(c.one(f"SELECT a FROM {t}"), 9)


# ================================================================== 7. bulk ingest
def ing(c, t, data, mode, **kw):
    cur = c.cur()
    try:
        return cur.adbc_ingest(t, data, mode=mode, **kw)
    finally:
        cur.close()


SMALL = pa.table({"a": pa.array([1, 2, 3], pa.int64()), "s": pa.array(["x", None, "z"])})


@check
def ingest__create():
    with Conn() as c:
        t = tname("ic")
        n = ing(c, t, SMALL, "create")
        ok(n in (3, -1), f"rows {n}")
        eq(sorted(c.rows(f"SELECT a, s FROM {t}")), [(1, "x"), (2, None), (3, "z")])


@check
def ingest__create_fails_if_exists():
    with Conn() as c:
        t = tname("ie")
        ing(c, t, SMALL, "create")
        raises(lambda: ing(c, t, SMALL, "create"), what="create over an existing table")
        eq(c.one(f"SELECT count(*) FROM {t}"), 3)


@check
def ingest__append():
    with Conn() as c:
        t = tname("ia")
        ing(c, t, SMALL, "create")
        ing(c, t, SMALL, "append")
        eq(c.one(f"SELECT count(*) FROM {t}"), 6)


@check
def ingest__append_fails_if_missing():
    with Conn() as c:
        raises(lambda: ing(c, tname("im"), SMALL, "append"), what="append to a missing table")


@check
def ingest__replace():
    with Conn() as c:
        t = tname("ir")
        ing(c, t, SMALL, "create")
        ing(c, t, pa.table({"b": [9]}), "replace")
        eq(c.rows(f"SELECT b FROM {t}"), [(9,)])


@check
def ingest__create_append():
    with Conn() as c:
        t = tname("ica")
        ing(c, t, SMALL, "create_append")
        ing(c, t, SMALL, "create_append")
        eq(c.one(f"SELECT count(*) FROM {t}"), 6)


@check
def ingest__append_with_wrong_schema_is_an_error():
    with Conn() as c:
        t = tname("iw")
        ing(c, t, SMALL, "create")
        raises(lambda: ing(c, t, pa.table({"other": ["q"], "x": [1], "y": [2]}), "append"), what="append of other columns")


@check
def ingest__stream_of_many_batches():
    with Conn() as c:
        t, n = tname("is"), 200
        sch = pa.schema([("i", pa.int64()), ("s", pa.string())])

        def gen():
            for k in range(n):
                yield pa.record_batch([pa.array(range(k * 1000, k * 1000 + 1000)), pa.array(["v"] * 1000)], schema=sch)
        ing(c, t, pa.RecordBatchReader.from_batches(sch, gen()), "create")
        eq(c.rows(f"SELECT count(*) AS n, sum(i) AS s FROM {t}"), [(200000, 200000 * 199999 // 2)])


@check
def ingest__batch_larger_than_4MB():      # tonic's decoding limit is 4 MiB unless it is raised
    with Conn() as c:
        t = tname("ib")
        ing(c, t, pa.table({"s": ["q" * 1_000_000] * 10}), "create")
        eq(c.rows(f"SELECT count(*) AS n, max(length(s)) AS m FROM {t}"), [(10, 1_000_000)])


@check
def ingest__types_round_trip():
    with Conn() as c:
        t = tname("it")
        cols = {
            "dec": pa.array([D("1.25"), None], pa.decimal128(20, 2)), "ts": pa.array([dt.datetime(2024, 1, 2), None], pa.timestamp("us")),
            "tz": pa.array([dt.datetime(2024, 1, 2, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "d": pa.array([dt.date(2024, 2, 29), None]), "bin": pa.array([b"\x00\xff", None]), "f": pa.array([1.5, None]),
            "l": pa.array([[1, None], None], pa.list_(pa.int64())), "st": pa.array([{"x": 1, "y": "q"}, None]),
            "dict": pa.array(["r", None]).dictionary_encode(), "big": pa.array(["L", None], pa.large_string()),
            "b": pa.array([True, None]), "u": pa.array([2 ** 32 - 1, None], pa.uint32()),
            "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
        ing(c, t, pa.table(cols), "create")
        got = c.q(f"SELECT * FROM {t}")
        eq(got.num_rows, 2)
        bad = [k for k, v in cols.items() if sorted(map(str, got.column(k).to_pylist())) != sorted(map(str, v.to_pylist()))]
        ok(not bad, f"columns that changed: {[(k, str(got.column(k).to_pylist())[:50]) for k in bad][:3]}")


@check
def ingest__zero_rows():
    with Conn() as c:
        t = tname("iz")       # one empty batch: with no batch at all arrow-go sends nothing, not even the command
        b = pa.record_batch([SMALL.column(0).chunk(0)[:0], SMALL.column(1).chunk(0)[:0]], schema=SMALL.schema)
        ing(c, t, pa.RecordBatchReader.from_batches(SMALL.schema, [b]), "create")
        eq(c.q(f"SELECT * FROM {t}").schema.names, ["a", "s"])


@check
def ingest__target_schema_option():
    with Conn() as c:
        cat, sch = default_namespace(c)
        t = tname("isch")
        ing(c, t, SMALL, "create", catalog_name=cat, db_schema_name=sch)
        eq(c.one(f'SELECT count(*) FROM "{cat}"."{sch}".{t}'), 3)


def default_namespace(c):
    t = ctas(c, "SELECT 1 AS a", "ns")
    for cat in c.c.adbc_get_objects(depth="tables", table_name_filter=t).read_all().to_pylist():
        for s in cat["catalog_db_schemas"] or []:
            if any(x["table_name"] == t for x in s["db_schema_tables"] or []):
                return cat["catalog_name"], s["db_schema_name"]
    raise AssertionError("a new table is not in GetObjects")


# ================================================================== 8. metadata
JDBC_SQLINFO = {
    "bool": [3, 515, 516, 518, 519, 520, 521, 523, 524, 527, 532, 536, 537, 539, 556, 563, 565, 566, 572, 573, 574, 575, 576],
    "string": [0, 1, 504, 513, 514, 529, 530, 531],
    "list": [508, 509, 510, 511, 512],
    "int64": list(range(541, 556)) + list(range(557, 563)),
    "int32": [522, 525, 526, 528, 533, 534, 535, 538, 540, 564, 567],
    "map": [517],
}
UNION = ["string", "bool", "int64", "int32", "list", "map"]
S, I32, BOOL = pa.string(), pa.int32(), pa.bool_()


def F(n, t, null=False):
    return pa.field(n, t, null)


SCHEMAS = {
    "CommandGetCatalogs": [F("catalog_name", S)],
    "CommandGetDbSchemas": [F("catalog_name", S, True), F("db_schema_name", S)],
    "CommandGetTables": [F("catalog_name", S, True), F("db_schema_name", S, True), F("table_name", S), F("table_type", S)],
    "CommandGetTableTypes": [F("table_type", S)],
    "CommandGetPrimaryKeys": [F("catalog_name", S, True), F("db_schema_name", S, True), F("table_name", S),
                              F("column_name", S), F("key_sequence", I32), F("key_name", S, True)],
}
_FK = [F("pk_catalog_name", S, True), F("pk_db_schema_name", S, True), F("pk_table_name", S), F("pk_column_name", S),
       F("fk_catalog_name", S, True), F("fk_db_schema_name", S, True), F("fk_table_name", S), F("fk_column_name", S),
       F("key_sequence", I32), F("fk_key_name", S, True), F("pk_key_name", S, True), F("update_rule", pa.uint8()),
       F("delete_rule", pa.uint8())]


def sqlinfo_kinds(t):
    out = {}
    for b in t.to_batches():
        u = b.column("value")
        ids = u.type_codes.to_pylist()
        for code, tc in zip(b.column("info_name").to_pylist(), ids):
            out[code] = UNION[tc]
    return out


def exact(name, body=b"", fields=None):
    t, info, ss = Raw().table(name, body)
    want = pa.schema(fields or SCHEMAS[name])
    for what, s in [("FlightInfo", info.schema)] + [("DoGet", s) for s in ss]:
        ok(s.remove_metadata().equals(want), f"{name} {what} schema is {short(s.to_string(), 300)}")
    return t


@check
def meta__get_info():
    with Conn() as c:
        i = c.c.adbc_get_info()
    ok(i.get("vendor_name") not in (None, "", "Flight SQL"), f"vendor_name = {i.get('vendor_name')!r}: SqlInfo 0 not served")
    ok(i.get("vendor_version") and "unknown" not in i["vendor_version"], f"vendor_version = {i.get('vendor_version')!r}")


@check
def meta__sqlinfo_union_layout():
    # ADBC does Field(3).(*array.Int32) at connect: the six children must be in the spec's order
    t, info, ss = Raw().table("CommandGetSqlInfo")
    for s in ss + [info.schema]:
        u = s.field("value").type
        ok(pa.types.is_union(u) and u.mode == "dense" and list(u.type_codes) == [0, 1, 2, 3, 4, 5], f"value is {u}")
        ts = [u.field(i).type for i in range(6)]
        ok(ts[:4] == [S, BOOL, pa.int64(), I32] and pa.types.is_list(ts[4]) and pa.types.is_map(ts[5]), f"children {ts}")
        eq(s.field("info_name").type, pa.uint32())


@check
def meta__sqlinfo_filter():
    t = Raw().table("CommandGetSqlInfo", pb((1, b"\x00\x08")))[0]     # packed repeated uint32: 0 and 8
    eq(sorted(t.column("info_name").to_pylist()), [0, 8])


@check
def meta__catalogs():
    ok(exact("CommandGetCatalogs").num_rows >= 1, "no catalogs")


@check
def meta__db_schemas():
    t = exact("CommandGetDbSchemas")
    ok(t.num_rows >= 1, "no schemas when no catalog is named")
    first = t.to_pylist()[0]
    f = exact("CommandGetDbSchemas", pb((1, first["catalog_name"]), (2, first["db_schema_name"])))
    ok(first in f.to_pylist() and f.num_rows <= t.num_rows, "filtered answer lacks the row")
    eq(exact("CommandGetDbSchemas", pb((2, "no_such_schema_%"))).num_rows, 0)


@check
def meta__tables_and_patterns():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a", "meta")
    got = exact("CommandGetTables", pb((3, t)))
    eq(got.column("table_name").to_pylist(), [t])
    eq(exact("CommandGetTables", pb((3, t[:-3] + "%"))).column("table_name").to_pylist(), [t])
    eq(exact("CommandGetTables", pb((3, t[:-1] + "_"))).column("table_name").to_pylist(), [t])
    eq(exact("CommandGetTables", pb((3, "no_such_%"))).num_rows, 0)
    typ = got.column("table_type")[0].as_py()
    eq(exact("CommandGetTables", pb((3, t), (4, typ))).num_rows, 1)
    eq(exact("CommandGetTables", pb((3, t), (4, "NO SUCH TYPE"))).num_rows, 0)
    ok(typ in exact("CommandGetTableTypes").column(0).to_pylist(), f"{typ!r} is not in GetTableTypes")
    eq(exact("CommandGetTables", pb((1, "no_such_catalog"), (3, t))).num_rows, 0)


@check
def meta__tables_without_catalog_lists_everything():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a", "all")
    ok(t in exact("CommandGetTables").column("table_name").to_pylist(), "a table is missing when no catalog is named")


@check
def meta__tables_include_schema():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a, 'x' AS b", "incl")
    tab = exact("CommandGetTables", pb((3, t), (5, True)), SCHEMAS["CommandGetTables"] + [F("table_schema", pa.binary())])
    s = schema_from(tab.column("table_schema")[0].as_py())
    eq((s.names, s.field("a").type), (["a", "b"], pa.int64()))
    md = s.field("a").metadata or {}
    ok(b"ARROW:FLIGHT:SQL:TYPE_NAME" in md, f"no ARROW:FLIGHT:SQL:TYPE_NAME (Power BI needs it); metadata {md}")


@check
def meta__tables_are_sorted():
    rows = [tuple(r.values()) for r in exact("CommandGetTables").to_pylist()]
    eq(rows, sorted(rows, key=lambda r: tuple(x or "" for x in r)))


@check
def meta__primary_and_foreign_keys_answer():
    with Conn() as c:
        t = ctas(c, "SELECT 1 AS a", "keys")
    exact("CommandGetPrimaryKeys", pb((3, t)))
    exact("CommandGetExportedKeys", pb((3, t)), _FK)
    exact("CommandGetImportedKeys", pb((3, t)), _FK)
    exact("CommandGetCrossReference", pb((3, t), (6, t)), _FK)


@check
def meta__xdbc_type_info():
    t, info, ss = Raw().table("CommandGetXdbcTypeInfo")
    ok(t.num_rows >= 8 and t.num_columns == 19, f"{t.num_rows} rows, {t.num_columns} columns")
    ok(ss[0].remove_metadata().equals(info.schema.remove_metadata()), "FlightInfo and DoGet schemas differ")
    eq(t.column("data_type").type, I32)
    one = Raw().table("CommandGetXdbcTypeInfo", pb((1, 4)))[0]
    eq(set(one.column("data_type").to_pylist()), {4}, "filter data_type=INTEGER")


@check
def meta__adbc_get_objects_all():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a, 'x' AS b", "obj")
        found = None
        for cat in c.c.adbc_get_objects(depth="all", table_name_filter=t).read_all().to_pylist():
            for s in cat["catalog_db_schemas"] or []:
                for x in s["db_schema_tables"] or []:
                    if x["table_name"] == t:
                        found = x
    ok(found, "table not found")
    eq([c["column_name"] for c in found["table_columns"]], ["a", "b"])
    ok(found["table_columns"][0]["xdbc_type_name"], "xdbc_type_name is empty")


@check
def meta__adbc_get_table_schema():
    with Conn() as c:
        t = ctas(c, "SELECT CAST(1 AS BIGINT) AS a, 'x' AS b", "gts")
        s = c.c.adbc_get_table_schema(t)
        eq((s.names, s.field("a").type), (["a", "b"], pa.int64()))
        raises(lambda: c.c.adbc_get_table_schema("no_such_table"), "NOT_FOUND", what="a missing table")


@check
def meta__adbc_table_types():
    with Conn() as c:
        ok(len(c.c.adbc_get_table_types()) >= 1, "none")


@check
def meta__list_actions():
    r = Raw()
    got = {a.type for a in r.client.list_actions(r.opts())}
    want = {"CreatePreparedStatement", "ClosePreparedStatement", "CancelFlightInfo", "SetSessionOptions",
            "GetSessionOptions", "CloseSession"}
    ok(want <= got, f"not listed: {sorted(want - got)}")


# ================================================================== 9. sessions and transactions
@check
def session__current_catalog_and_schema():
    with Conn() as c:
        ok(c.c.adbc_current_catalog, "no catalog")
        ok(c.c.adbc_current_db_schema, "no schema")


@check
def session__set_schema_changes_resolution():
    with Conn() as c:
        s = f"fsc_s_{uuid.uuid4().hex[:6]}"
        c.q(f"CREATE SCHEMA {s}")
        try:
            c.q(create(f"{s}.t", "SELECT 77 AS a"))
            c.c.adbc_current_db_schema = s
            eq(c.c.adbc_current_db_schema, s)
            eq(c.one("SELECT a FROM t"), 77)
        finally:
            for q in (f"DROP TABLE {s}.t", f"DROP SCHEMA {s}"):
                try:
                    c.q(q)
                except Exception:
                    pass


@check
def session__set_variable_sticks_without_cookies():
    with Conn() as c:
        c.q("SET datafusion.execution.batch_size = 1234")
        eq(c.rows("SHOW datafusion.execution.batch_size")[0][1], "1234")


@check
def session__isolated_between_connections():
    need_auth()      # anonymous clients without cookies cannot be told apart
    with Conn() as a, Conn() as b:
        a.q("SET datafusion.execution.batch_size = 2345")
        eq(a.rows("SHOW datafusion.execution.batch_size")[0][1], "2345")
        ok(b.rows("SHOW datafusion.execution.batch_size")[0][1] != "2345", "one connection's SET shows in another")


@check
def session__set_get_option():
    with Conn() as c:
        key = "adbc.flight.sql.session.option.datafusion.execution.batch_size"
        c.c.adbc_connection.set_options(**{key: "3456"})
        eq(str(c.c.adbc_connection.get_option(key)), "3456")
        eq(c.rows("SHOW datafusion.execution.batch_size")[0][1], "3456")


@check
def session__unknown_option_is_an_error():
    with Conn() as c:
        raises(lambda: c.c.adbc_connection.set_options(**{"adbc.flight.sql.session.option.no_such_option": "1"}),
               what="an unknown session option")


@check
def session__close_session_ends_it():
    r = Raw()
    r.sql("SELECT 1")
    b = r.action("CloseSession")
    ok(len(b) == 1 and unpb(b[0]).get(1, [0])[0] in (1, 2), f"CloseSessionResult {b}")


@check
def txn__consistent_with_sqlinfo():
    t = Raw().table("CommandGetSqlInfo", pb((1, b"\x08")))[0]
    eq(t.num_rows, 1, "SqlInfo FLIGHT_SQL_SERVER_TRANSACTION")
    level = t.column("value")[0].as_py()
    if level == 0:
        raises(lambda: Raw().action("BeginTransaction", any_("ActionBeginTransactionRequest")),
               "ArrowNotImplementedError", "ArrowInvalid", "FlightServerError", what="BeginTransaction")
        with Conn(autocommit=False) as c:       # the driver must then fall back to autocommit
            eq(c.one("SELECT 1"), 1)
    else:
        with Conn() as c:
            n = ctas(c, "SELECT CAST(1 AS BIGINT) AS a", "txn")
        with Conn(autocommit=False) as c:
            c.cur().execute(f"INSERT INTO {n} VALUES (2)")
            c.c.rollback()
            eq(c.one(f"SELECT count(*) FROM {n}"), 1, "after rollback")
            c.cur().execute(f"INSERT INTO {n} VALUES (2)")
            c.c.commit()
        with Conn() as c:
            eq(c.one(f"SELECT count(*) FROM {n}"), 2, "after commit")


# ================================================================== 10. cancel, time limits, errors
SLOW = "SELECT sum((v * 7919) % 104729) AS s FROM range(0, 100000000000) AS r(v)"
# A join that multiplies rows under an aggregate: plain DataFusion 55 never yields to tokio here, so that dropping the
# stream does not stop it (datafusion#19358, open). The remedy is a physical optimizer rule that wraps the joins in
# CooperativeExec. It is a check of its own, so that a server's lost cancel and the engine's deafness can be told apart.
SLOW_JOIN = f"SELECT sum((v * 7919) % 104729) AS s FROM ({numbers(10)}) q"


@check
def cancel__adbc_cancel_running_query():
    with Conn() as c:
        cur = c.cur()
        err = []

        def run():
            try:
                cur.execute(SLOW)
                cur.fetchall()
            except Exception as e:
                err.append(e)
        th = threading.Thread(target=run, daemon=True)
        th.start()
        time.sleep(1.5)
        ok(th.is_alive(), f"the slow query ended at once: {err}")
        cur.adbc_cancel()
        th.join(15)
        ok(not th.is_alive(), "still running 15 s after the cancel")
        ok(err, "no error was raised")
        t0 = time.time()
        eq(c.one("SELECT 1"), 1)
        ok(time.time() - t0 < 8, f"SELECT 1 took {time.time() - t0:.0f} s after the cancel: the work goes on")


@check
def cancel__client_timeout():
    t0 = time.time()
    with Conn(**{"adbc.flight.sql.rpc.timeout_seconds.query": "2", "adbc.flight.sql.rpc.timeout_seconds.fetch": "2"}) as c:
        raises(lambda: c.one(SLOW), "TIMEOUT", "CANCELLED", what="a query past its time limit")
    with Conn() as c:
        eq(c.one("SELECT 1"), 1)
    ok(time.time() - t0 < 14, f"2 s limit, but it took {time.time() - t0:.0f} s until the next answer: the work goes on")


def cpu_after_client_gave_up(sql):
    """CPU seconds that the server uses in 3 s, 3 s after a client's 2 s limit has passed"""
    if not A.server_pid:
        raise Skip("no --server-pid")

    def cpu():
        f = open(f"/proc/{A.server_pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")
    t0 = time.time()
    with Conn(**{"adbc.flight.sql.rpc.timeout_seconds.query": "2", "adbc.flight.sql.rpc.timeout_seconds.fetch": "2"}) as c:
        raises(lambda: c.one(sql), "TIMEOUT", "CANCELLED", what="a query past its time limit")
    took = time.time() - t0
    ok(took < 8, f"2 s limit, but closing took until {took:.0f} s: the query starves the server")
    time.sleep(3)
    a = cpu()
    time.sleep(3)
    used = cpu() - a
    ok(used < 1.0, f"{used:.1f} CPU seconds in 3 s after the client gave up")


@check
def cancel__server_stops_working_after_cancel():
    cpu_after_client_gave_up(SLOW)


@check
def cancel__flight_info_action():
    r = Raw()
    w = Wire()
    raw = w.uu("GetFlightInfo", pb((1, 2), (2, any_("CommandStatementQuery", pb((1, numbers(5)))))))
    b = r.action("CancelFlightInfo", pb((1, raw)))
    ok(len(b) == 1, f"{len(b)} results")
    ok(unpb(b[0]).get(1, [0])[0] in (1, 2, 3), f"CancelFlightInfoResult {b[0]!r}")


@check
def cancel__abandoned_streams_do_not_pile_up():
    with Conn() as c:
        for _ in range(15):
            cur = c.cur()
            cur.execute(numbers(6))
            cur.fetchone()
            cur.close()
        t0 = time.time()
        eq(c.one("SELECT 1"), 1)
        ok(time.time() - t0 < 10, "server is slow after 15 abandoned streams")


@check
def poll__incremental_execution():
    with Conn() as c:
        cur = c.cur()
        cur.adbc_statement.set_options(**{"adbc.statement.exec.incremental": "true"})
        got = 0
        for _ in range(100):
            parts, _s = cur.adbc_execute_partitions(numbers(4))
            if not parts:
                break
            for p in parts:
                k = c.cur()
                k.adbc_read_partition(p)
                got += k.fetch_arrow_table().num_rows
                k.close()
        cur.close()
        eq(got, 10000)


@check
def error__syntax():
    with Conn() as c:
        e = raises(lambda: c.q("SELECT FROM WHERE"), "INVALID_ARGUMENT", what="a syntax error")
        ok("panicked" not in str(e), str(e))


@check
def error__unknown_table_and_column():
    with Conn() as c:
        raises(lambda: c.q("SELECT * FROM no_such_table_xyz"), "INVALID_ARGUMENT", "NOT_FOUND", what="an unknown table")
        raises(lambda: c.q("SELECT nope FROM (SELECT 1 AS a) t"), "INVALID_ARGUMENT", "NOT_FOUND", what="an unknown column")


@check
def error__at_run_time_reaches_the_client():
    with Conn() as c:
        t = ctas(c, numbers(4), "div")
        e = raises(lambda: c.q(f"SELECT 1 / (v - 9000) AS x FROM {t}"), what="a division by zero")
        ok("ivide by zero" in str(e), f"message is {short(str(e))}")
        eq(c.one("SELECT 1"), 1)


@check
def error__through_statement_update():
    raises(lambda: Raw().update("DROP TABLE no_such_table_xyz"), what="dropping a missing table")


@check
def error__garbage_descriptor():
    r = Raw()
    e = raises(lambda: r.client.get_flight_info(fl.FlightDescriptor.for_command(b"\xff\xfe garbage"), r.opts()),
               what="a garbage descriptor")
    ok("nternal" not in type(e).__name__ and "panicked" not in str(e), f"{type(e).__name__}: {short(str(e))}")


@check
def error__path_descriptor():
    r = Raw()
    raises(lambda: r.client.get_flight_info(fl.FlightDescriptor.for_path("a", "b"), r.opts()), what="a PATH descriptor",
           unimpl=True)
    eq(r.sql("SELECT 1 AS a").num_rows, 1)


@check
def error__garbage_ticket():
    r = Raw()
    for t in (b"", b"garbage", any_("TicketStatementQuery", pb((1, b"x" * 50))), any_("NoSuchCommand")):
        raises(lambda: r.client.do_get(fl.Ticket(t), r.opts()).read_all(), what=f"ticket {t[:20]!r}",
               unimpl=True)
    eq(r.sql("SELECT 1 AS a").num_rows, 1)


@check
def error__tampered_ticket():
    # a ticket must be unguessable or signed: flipping any byte must not give another result
    r = Raw()
    info = r.info("CommandStatementQuery", pb((1, numbers(2))))
    tk = bytearray(info.endpoints[0].ticket.ticket)
    rnd, wins = random.Random(1), 0
    for _ in range(12):
        t2 = bytearray(tk)
        t2[rnd.randrange(len(tk) // 2, len(tk))] ^= 0x15
        try:
            t = r.client.do_get(fl.Ticket(bytes(t2)), r.opts(5)).read_all()
            wins += 1
        except Exception:
            pass
    eq(wins, 0, "tampered tickets that were honoured")


@check
def error__ticket_needs_auth():
    need_auth()
    r = Raw()
    info = r.info("CommandStatementQuery", pb((1, numbers(2))))
    anon = Raw(user=None, headers=[])
    raises(lambda: anon.client.do_get(info.endpoints[0].ticket, anon.opts()).read_all(), what="a ticket without a token")


@check
def error__unknown_action():
    raises(lambda: Raw().action("NoSuchAction"), "ArrowNotImplementedError", "ArrowInvalid", "ArrowKeyError",
           what="an unknown action")


# ================================================================== 11. on the wire
def frames(q, limit=10 ** 6):
    w = Wire()
    m = w.info("CommandStatementQuery", pb((1, q)))
    out = []
    for ep in m.get(3, []):
        tk = unpb(unpb(ep)[1][0]).get(1, [b""])[0]
        for raw in w.doget(tk):
            out.append((len(raw), ipc_header(unpb(raw).get(2, [b""])[0])))
    return m, out


@check
def wire__not_compressed_by_default():     # the JDBC driver cannot read LZ4/ZSTD bodies (arrow-java#926)
    _, fr = frames(numbers(5, ", 'aaaaaaaaaaaaaaaaaaaaaaaa' AS s"))
    ok(any(k == 3 for _, (k, _c) in fr), "no record batches")
    ok(not any(c for _, (_k, c) in fr), "record batch bodies are compressed")


@check
def wire__messages_under_4MiB():           # the default of gRPC clients that set nothing
    _, fr = frames(numbers(6, ", 'row' AS s"))
    big = max(n for n, _ in fr)
    ok(big <= 4 * 1024 * 1024, f"largest message {big} bytes")


@check
def wire__messages_not_tiny():             # over-splitting (arrow-rs#9388): 10^6 rows should not take thousands
    _, fr = frames(numbers(6))
    n = sum(1 for _, (k, _c) in fr if k == 3)
    ok(n <= 2000, f"{n} record batch messages for a million int64 (8 MB)")


@check
def wire__schema_message_first_and_once_per_endpoint():
    m, fr = frames(numbers(3))
    kinds = [k for _, (k, _c) in fr]
    ok(kinds and kinds[0] == 1, f"first message has header type {kinds[:1]}")
    eq(kinds.count(1), len(m.get(3, [])), "schema messages (one per endpoint)")


@check
def wire__descriptor_echoed_and_no_empty_uri():
    w = Wire()
    m = w.info("CommandStatementQuery", pb((1, "SELECT 1")))
    ok(m.get(2), "FlightInfo.flight_descriptor is missing")
    ok(m.get(1, [b""])[0], "FlightInfo.schema is missing")
    for ep in m.get(3, []):
        for loc in unpb(ep).get(2, []):
            uri = unpb(loc).get(1, [b""])[0].decode()
            ok(uri, "a Location with an empty uri: the JDBC driver throws NullPointerException")


@check
def wire__poll_flight_info():
    w = Wire()
    desc = pb((1, 2), (2, any_("CommandStatementQuery", pb((1, numbers(4))))))
    for _ in range(200):
        m = unpb(w.uu("PollFlightInfo", desc))
        ok(m.get(1), "PollInfo.info is missing")
        if 2 not in m:
            break
        desc = m[2][0]
        time.sleep(0.05)
    else:
        raise AssertionError("never finished")
    ok(unpb(m[1][0]).get(3), "the finished PollInfo has no endpoints")


@check
def wire__survives_big_headers():          # JDBC forwards unknown URL parameters as headers; tokens can be long
    w = Wire()
    w.md = w.md + [("x-extra", "h" * 12000)]
    w.info("CommandStatementQuery", pb((1, "SELECT 1")))


# the last one, since the work it may leave behind would disturb the others
@check
def cancel__server_stops_join_after_cancel():
    cpu_after_client_gave_up(SLOW_JOIN)


# ------------------------------------------------------------------ runner
def run_one(name, fn):
    box = {}

    def go():
        try:
            fn()
            box["r"] = ("PASS", "")
        except Skip as e:
            box["r"] = ("SKIP", str(e))
        except AssertionError as e:
            box["r"] = ("FAIL", str(e))
        except BaseException as e:
            box["r"] = ("FAIL", f"{type(e).__name__}: {e}")
            if A.verbose:
                box["tb"] = traceback.format_exc()
    t0 = time.time()
    th = threading.Thread(target=go, daemon=True)
    th.start()
    th.join(A.timeout + 30)
    st, msg = box.get("r", ("FAIL", f"no answer in {A.timeout + 30:.0f} s"))
    msg = " ".join(msg.split())
    print(f"{st} {name} ({time.time() - t0:.1f}s)" + (f" - {msg[:A.width]}" if msg else ""), flush=True)
    if box.get("tb"):
        print(box["tb"], flush=True)
    return st


def main():
    global A
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--uri", default="grpc://127.0.0.1:50051")
    ap.add_argument("--user")
    ap.add_argument("--password")
    ap.add_argument("--no-auth", action="store_true", help="the server lets anyone in: skip the rejection checks")
    ap.add_argument("--tls-skip-verify", action="store_true")
    ap.add_argument("--tls-roots", help="PEM file, for the wire.* checks over TLS")
    ap.add_argument("--only", default="", help="regular expression on check names")
    ap.add_argument("--skip", default="")
    ap.add_argument("--timeout", type=float, default=60)
    ap.add_argument("--rows-exp", type=int, default=6, help="the large result has 10^N rows")
    ap.add_argument("--server-pid", type=int, help="to check that cancelled work stops (its CPU time is read from /proc)")
    ap.add_argument("--tables", metavar="DIR", help="a directory that server and script see: tables are made of files in it, not by CTAS")
    ap.add_argument("--width", type=int, default=300)
    ap.add_argument("--list", action="store_true")
    ap.add_argument("-v", "--verbose", action="store_true")
    A = ap.parse_args()
    todo = [(n, f) for n, f in CHECKS if re.search(A.only, n) and not (A.skip and re.search(A.skip, n))]
    if A.list:
        print("\n".join(n for n, _ in todo))
        return 0
    res = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for n, f in todo:
        res[run_one(n, f)] += 1

    def clean():
        try:
            r = Raw()
            for t in CLEANUP:
                try:
                    r.update(f"DROP TABLE IF EXISTS {t}")
                except Exception:
                    try:
                        r.sql(f"DROP TABLE IF EXISTS {t}")
                    except Exception:
                        pass
        except Exception:
            pass
    th = threading.Thread(target=clean, daemon=True)
    th.start()
    th.join(A.timeout)
    print(f"{res['PASS']} passed, {res['FAIL']} failed" + (f", {res['SKIP']} skipped" if res["SKIP"] else ""), flush=True)
    sys.stdout.flush()
    os._exit(1 if res["FAIL"] else 0)      # daemon threads may still sit in native code


if __name__ == "__main__":
    import pyarrow.compute  # noqa: F401
    sys.exit(main())
