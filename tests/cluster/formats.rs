//! Tables of text, JSON, Avro and ORC files.

use std::fs;
use std::path::Path;

use windlass_client::Connection;
use windlass_tests::cluster::Options;
use windlass_tests::sql::{cells, error};
use windlass_tests::{Cluster, fixtures};

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The rows of a query, the same from every engine.
async fn everywhere(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for engine in ["local", "pipelined", "staged"] {
        connection.collect(&format!("SET windlass.engine = '{engine}'")).await.unwrap();
        found.push(cells(connection, sql).await);
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{sql}: {found:?}");
    found.remove(0)
}

/// Makes the table again from what SHOW CREATE TABLE says of it.
async fn recreate(connection: &Connection, table: &str) {
    let statement = cells(connection, &format!("SHOW CREATE TABLE {table}")).await.remove(0).remove(0);
    connection.collect(&format!("DROP TABLE {table}")).await.unwrap();
    connection.collect(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    connection.collect(&format!("MSCK REPAIR TABLE {table}")).await.unwrap();
    assert_eq!(cells(connection, &format!("SHOW CREATE TABLE {table}")).await[0][0], statement);
}

/// An Avro object container file without compression.
fn avro(schema: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let sync = [7; 16];
    let mut file = b"Obj\x01".to_vec();
    file.extend(long(1));
    file.extend(text("avro.schema"));
    file.extend(text(schema));
    file.extend(long(0));
    file.extend(sync);
    let block = records.concat();
    file.extend(long(records.len() as i64));
    file.extend(long(block.len() as i64));
    file.extend(block);
    file.extend(sync);
    file
}

fn long(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

fn varint(mut rest: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while rest > 0x7f {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(text.len() as i64), text.as_bytes().to_vec()].concat()
}

/// An ORC file of numbers and texts, without compression, statistics or NULLs; at most 128 rows in a stripe.
fn orc(names: [&str; 2], stripes: &[&[(i64, &str)]]) -> Vec<u8> {
    let number = |tag: u64, value: usize| [varint(tag << 3), varint(value as u64)].concat();
    let part = |tag: u64, bytes: &[u8]| [varint((tag << 3) | 2), varint(bytes.len() as u64), bytes.to_vec()].concat();
    let mut file = b"ORC".to_vec();
    let mut footer = Vec::new();
    for rows in stripes {
        // Lists of numbers begin with how many there are, negative.
        let count = (rows.len() as u8).wrapping_neg();
        let ids = rows.iter().flat_map(|(id, _)| long(*id));
        let lengths = rows.iter().flat_map(|(_, text)| varint(text.len() as u64));
        let streams = [
            (1, 1, [count].into_iter().chain(ids).collect::<Vec<_>>()),
            (2, 1, rows.iter().flat_map(|(_, text)| text.bytes()).collect()),
            (2, 2, [count].into_iter().chain(lengths).collect()),
        ];
        let start = file.len();
        let mut end = Vec::new();
        for (column, kind, bytes) in streams {
            end.extend(part(1, &[number(1, kind), number(2, column), number(3, bytes.len())].concat()));
            file.extend(bytes);
        }
        end.extend((0..3).flat_map(|_| part(2, &number(1, 0))));
        let data = file.len() - start;
        file.extend(&end);
        footer.extend(part(3, &[number(1, start), number(2, 0), number(3, data), number(4, end.len()), number(5, rows.len())].concat()));
    }
    let names = names.map(|name| part(3, name.as_bytes())).concat();
    footer.extend(part(4, &[number(1, 12), part(2, &[1, 2]), names].concat()));
    footer.extend([part(4, &number(1, 4)), part(4, &number(1, 7))].concat());
    footer.extend(number(6, stripes.iter().map(|rows| rows.len()).sum()));
    let postscript = [number(1, footer.len()), number(2, 0), number(5, 0), part(8000, b"ORC")].concat();
    file.extend(footer);
    file.extend(&postscript);
    file.push(postscript.len() as u8);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_by_every_engine() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let directory = |name: &str| cluster.data().join(name);
    let run = async |sql: String| drop(cells(&connection, &sql).await);

    // As people write it for Hive, in partitions.
    write(&directory("hive").join("dt=2024-01-01/a.txt"), "1,x\\,y,2.5\n\\N,,\\N\n");
    write(&directory("hive").join("dt=2024-01-02/b.txt"), "3,z\n");
    run(format!(
        "CREATE EXTERNAL TABLE hive (id INT, name STRING, price DECIMAL(9,2)) PARTITIONED BY (dt DATE) ROW FORMAT DELIMITED FIELDS \
         TERMINATED BY ',' ESCAPED BY '\\' LINES TERMINATED BY '\\n' NULL DEFINED AS '\\N' STORED AS TEXTFILE LOCATION '{}'",
        directory("hive").display()
    ))
    .await;
    connection.collect("MSCK REPAIR TABLE hive").await.unwrap();
    let hive = "SELECT * FROM hive ORDER BY id NULLS LAST";
    let want = [["1", "x,y", "2.50", "2024-01-01"], ["3", "z", "NULL", "2024-01-02"], ["NULL", "(empty)", "NULL", "2024-01-01"]];
    assert_eq!(everywhere(&connection, hive).await, want);
    assert_eq!(everywhere(&connection, "SELECT count(*) FROM hive WHERE dt = DATE '2024-01-01'").await, [["2"]]);
    recreate(&connection, "hive").await;
    assert_eq!(everywhere(&connection, hive).await, want);

    // Columns from the header, quotes, several files of different kinds.
    write(&directory("csv").join("a.csv"), "Id,Name,at\n1,\"a, \"\"b\"\"\",2024-01-01 10:00:00\n2,,\n");
    // What gzip makes of the header and `3,c,`.
    let compressed: &[u8] = &[
        31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 243, 76, 209, 241, 75, 204, 77, 213, 73, 44, 225, 50, 214, 73, 214, 225, 2, 0, 166, 240, 87, 54,
        16, 0, 0, 0,
    ];
    write(&directory("csv").join("b.csv.gz"), compressed);
    run(format!(
        "CREATE EXTERNAL TABLE csv STORED AS CSV LOCATION '{}' TBLPROPERTIES ('skip.header.line.count' = '1')",
        directory("csv").display()
    ))
    .await;
    let csv = "SELECT id, name, at FROM csv ORDER BY id";
    let want = [["1", "a, \"b\"", "2024-01-01T10:00:00"], ["2", "(empty)", "NULL"], ["3", "c", "NULL"]];
    assert_eq!(everywhere(&connection, csv).await, want);
    recreate(&connection, "csv").await;
    assert_eq!(everywhere(&connection, csv).await, want);
    run(format!(
        "CREATE EXTERNAL TABLE open (id STRING, name STRING, at STRING) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' \
         STORED AS TEXTFILE LOCATION '{}' TBLPROPERTIES ('skip.header.line.count' = '1')",
        directory("csv").display()
    ))
    .await;
    assert_eq!(everywhere(&connection, "SELECT count(*), max(id) FROM open").await, [["3", "3"]]);

    // Nested objects under names of their own.
    let lines = "{\"userId\": 1, \"place\": {\"lat\": 1.5, \"tags\": [\"a\", \"b\"]}}\n{\"userId\": 2}\n";
    write(&directory("json").join("a.json"), lines);
    run(format!("CREATE EXTERNAL TABLE json STORED AS JSONFILE LOCATION '{}'", directory("json").display())).await;
    let json = "SELECT userid, place['lat'], place['tags'][2] FROM json ORDER BY userid";
    let want = [["1", "1.5", "b"], ["2", "NULL", "NULL"]];
    assert_eq!(everywhere(&connection, json).await, want);
    recreate(&connection, "json").await;
    assert_eq!(everywhere(&connection, json).await, want);

    // A line that is no object: an error that tells where, or NULL.
    write(&directory("json").join("b.json"), "{\"userId\": 3}\nnot json\n");
    connection.collect("MSCK REPAIR TABLE json").await.unwrap();
    for engine in ["local", "pipelined", "staged"] {
        connection.collect(&format!("SET windlass.engine = '{engine}'")).await.unwrap();
        let message = error(&connection, "SELECT sum(userid) FROM json").await;
        assert!(message.contains("json/b.json") && message.contains("line 2"), "{engine}: {message}");
    }
    run("ALTER TABLE json SET TBLPROPERTIES ('windlass.bad_records' = 'null')".to_owned()).await;
    assert_eq!(everywhere(&connection, "SELECT sum(userid), count(*) FROM json").await, [["6", "4"]]);
    let message = error(&connection, "ALTER TABLE json SET TBLPROPERTIES ('windlass.bad_records' = 'maybe')").await;
    assert!(message.contains("fail, null or dead_letter"), "{message}");

    let schema = r#"{"type": "record", "name": "bid", "fields": [{"name": "auctionId", "type": "long"}, {"name": "user", "type": ["null", "string"]}]}"#;
    let records = [[long(10), long(1), text("ada")].concat(), [long(20), long(0)].concat()];
    write(&directory("avro").join("a.avro"), avro(schema, &records));
    run(format!("CREATE EXTERNAL TABLE bids STORED AS AVRO LOCATION '{}'", directory("avro").display())).await;
    let bids = "SELECT auctionid, \"user\" FROM bids ORDER BY auctionid";
    let want = [["10", "ada"], ["20", "NULL"]];
    assert_eq!(everywhere(&connection, bids).await, want);
    assert_eq!(everywhere(&connection, "SELECT count(*) FROM bids").await, [["2"]]);
    recreate(&connection, "bids").await;
    assert_eq!(everywhere(&connection, bids).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn orc_is_read_and_not_written() {
    let cluster = Cluster::start_as(Options { executors: 2, read_files: true, ..Options::default() }).await;
    let connection = cluster.connect().await;
    let directory = cluster.data().join("orc");
    let location = directory.display();
    let run = async |sql: &str| drop(cells(&connection, sql).await);
    write(&directory.join("k=1/a.orc"), orc(["Id", "name"], &[&[(1, "ada"), (-2, "")], &[(3, "é")]]));
    write(&directory.join("k=2/000000_0"), orc(["_col0", "_col1"], &[&[(4, "hive")]]));
    run(&format!(
        "CREATE EXTERNAL TABLE orc (id BIGINT, name STRING, later DATE) PARTITIONED BY (k INT) ROW FORMAT SERDE \
         'org.apache.hadoop.hive.ql.io.orc.OrcSerde' STORED AS ORC LOCATION '{location}'"
    ))
    .await;
    run("MSCK REPAIR TABLE orc").await;
    let all = "SELECT * FROM orc ORDER BY id";
    let want = [["-2", "(empty)", "NULL", "1"], ["1", "ada", "NULL", "1"], ["3", "é", "NULL", "1"], ["4", "hive", "NULL", "2"]];
    assert_eq!(everywhere(&connection, all).await, want);
    assert_eq!(
        everywhere(&connection, "SELECT k, count(*), sum(id) FROM orc GROUP BY k ORDER BY k").await,
        [["1", "3", "2"], ["2", "1", "4"]]
    );
    assert_eq!(everywhere(&connection, "SELECT count(*) FROM orc WHERE later IS NULL").await, [["4"]]);
    recreate(&connection, "orc").await;
    assert_eq!(everywhere(&connection, all).await, want);
    let read = format!("SELECT id, name FROM read_orc('{location}/k=1') ORDER BY id");
    assert_eq!(everywhere(&connection, &read).await, [["-2", "(empty)"], ["1", "ada"], ["3", "é"]]);
    let crawl = format!("CALL system.crawl('{}', database => 'default', table_prefix => 'p_')", cluster.data().display());
    assert!(cells(&connection, &crawl).await.iter().flatten().any(|cell| cell == "unchanged"), "the table is known");

    for sql in [
        "CREATE TABLE managed (id BIGINT) STORED AS ORC".to_owned(),
        "CREATE TABLE copied STORED AS ORC AS SELECT 1 AS id".to_owned(),
        format!("CREATE TABLE copied STORED AS ORC LOCATION '{location}_2' AS SELECT 1 AS id"),
        "INSERT INTO orc SELECT 5, 'x', NULL, 1".to_owned(),
        "DELETE FROM orc WHERE id = 1".to_owned(),
        format!("COPY orc TO '{location}_3' STORED AS ORC"),
    ] {
        let message = error(&connection, &sql).await;
        assert!(message.contains("ORC") && (message.contains("PARQUET") || message.contains("only be read")), "{sql}: {message}");
    }

    // More lengths than there are, then a file without its end.
    let broken = directory.join("k=3/b.orc");
    let whole = orc(["id", "name"], &[&[(5, "x")]]);
    write(&broken, &whole);
    run("MSCK REPAIR TABLE orc").await;
    let modified = fs::metadata(&broken).unwrap().modified().unwrap();
    let place = whole.iter().position(|byte| *byte == b'x').unwrap() + 1;
    write(&broken, [&whole[..place], &[0x80], &whole[place + 1..]].concat());
    fs::File::options().write(true).open(&broken).unwrap().set_modified(modified).unwrap();
    for engine in ["local", "pipelined", "staged"] {
        run(&format!("SET windlass.engine = '{engine}'")).await;
        let message = error(&connection, "SELECT sum(id), max(name) FROM orc").await;
        assert!(message.contains("k=3/b.orc"), "{engine}: {message}");
    }
    write(&directory.join("k=4/c.orc"), &whole[..whole.len() - 1]);
    let message = error(&connection, "MSCK REPAIR TABLE orc").await;
    assert!(message.contains("k=4/c.orc") && message.contains("not a whole ORC file"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_written_and_read_again() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let run = async |sql: &str| drop(cells(&connection, sql).await);
    run("CREATE TABLE source (id BIGINT, t STRING, m DECIMAL(9,2), d DATE, s TIMESTAMP, b BOOLEAN, f DOUBLE, k STRING)").await;
    run(r#"INSERT INTO source VALUES
        (1, 'a,b', 1.25, DATE '2024-01-31', TIMESTAMP '2024-01-31 10:00:00.5', true, 0.1, 'x'),
        (2, 'say "hi"', -7, NULL, TIMESTAMP '1969-12-31 23:59:59.999999', false, 1e300, 'x'),
        (3, '', NULL, DATE '0001-01-01', NULL, NULL, NULL, 'y z'),
        (4, NULL, 0, DATE '9999-12-31', TIMESTAMP '2024-01-01 00:00:00', true, -0.5, NULL),
        (5, '\N', 12345.67, DATE '2000-02-29', TIMESTAMP '2000-02-29 00:00:00', false, 3, 'y z'),
        (6, 'é back\slash', 1, DATE '2000-02-29', TIMESTAMP '2000-02-29 00:00:00', false, 3, 'x')"#)
    .await;
    let rows = |table: &str| format!("SELECT * FROM {table} ORDER BY id");
    let want = cells(&connection, &rows("source")).await;
    for (name, clauses) in [
        ("csv", "STORED AS CSV"),
        ("headers", "STORED AS CSV TBLPROPERTIES ('skip.header.line.count' = '1', 'write.compression' = 'gzip')"),
        ("hive", "ROW FORMAT DELIMITED FIELDS TERMINATED BY '|' ESCAPED BY '\\' STORED AS TEXTFILE"),
        ("json", "STORED AS JSONFILE TBLPROPERTIES ('write.compression' = 'zstd')"),
        ("avro", "STORED AS AVRO"),
    ] {
        for (engine, kind) in [("local", "managed"), ("pipelined", "external"), ("staged", "managed")] {
            run(&format!("SET windlass.engine = '{engine}'")).await;
            let table = format!("{name}_{engine}");
            let location = match kind {
                "external" => format!("LOCATION '{}'", cluster.data().join(&table).display()),
                _ => String::new(),
            };
            run(&format!("CREATE TABLE {table} PARTITIONED BY (k) {location} {clauses} AS SELECT * FROM source WHERE id < 4")).await;
            run(&format!("INSERT INTO {table} SELECT * FROM source WHERE id >= 4")).await;
            assert_eq!(cells(&connection, &rows(&table)).await, want, "{table}");
            assert_eq!(cells(&connection, &format!("SELECT count(*) FROM {table} WHERE k = 'x'")).await, [["3"]], "{table}");
        }
        run(&format!("UPDATE {name}_local SET t = 'new' WHERE id = 1")).await;
        assert_eq!(cells(&connection, &format!("SELECT id FROM {name}_local WHERE t = 'new'")).await, [["1"]]);
    }
    run("SET windlass.engine = 'pipelined'").await;
    for format in ["CSV", "JSON", "AVRO"] {
        let target = cluster.data().join(format!("copies/{format}"));
        run(&format!("COPY source TO '{}' STORED AS {format} PARTITIONED BY (k)", target.display())).await;
        run(&format!(
            "CREATE EXTERNAL TABLE copy_{format} STORED AS {format} LOCATION '{}' TBLPROPERTIES ('skip.header.line.count' = '1')",
            target.display()
        ))
        .await;
        assert_eq!(
            cells(&connection, &format!("SELECT count(*), sum(id), sum(f) > 1e299 FROM copy_{format}")).await,
            [["6", "21", "true"]]
        );
    }
    let message = error(&connection, "INSERT INTO csv_local (id, t) SELECT 7, chr(10)").await;
    assert!(message.contains("multiline"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_go_where_the_table_says() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let run = async |sql: &str| drop(cells(&connection, sql).await);
    for (day, text) in [("1", "{\"id\": 1}\nbad one\n"), ("2", "{\"id\": \"x\"}\n{\"id\": 2}\n"), ("3", "{\"id\": 3}\n")] {
        write(&cluster.data().join(format!("events/day={day}/a.json")), text);
    }
    run(&format!(
        "CREATE EXTERNAL TABLE events (id BIGINT) PARTITIONED BY (day INT) STORED AS JSONFILE LOCATION '{}' \
         TBLPROPERTIES ('windlass.bad_records' = 'dead_letter', 'windlass.bad_records_table' = 'letters')",
        cluster.data().join("events").display()
    ))
    .await;
    run("MSCK REPAIR TABLE events").await;
    assert_eq!(everywhere(&connection, "SELECT id FROM events ORDER BY id").await, [["1"], ["2"], ["3"]]);
    let bad = "SELECT day, line, record FROM events FOR BAD RECORDS ORDER BY day";
    assert_eq!(everywhere(&connection, bad).await, [["1", "2", "bad one"], ["2", "1", "{\"id\": \"x\"}"]]);
    assert_eq!(everywhere(&connection, "SELECT count(*) FROM events FOR BAD RECORDS WHERE day = 2").await, [["1"]]);

    run("CREATE TABLE kept (id BIGINT, day INT)").await;
    let message = error(&connection, "INSERT INTO kept SELECT * FROM events").await;
    assert!(message.contains("letters"), "{message}");
    run("CREATE TABLE letters (table_name STRING, file STRING, line BIGINT, reason STRING, record STRING)").await;
    for (engine, days) in [("local", "day = 1"), ("pipelined", "day < 3"), ("staged", "true")] {
        run(&format!("SET windlass.engine = '{engine}'")).await;
        run("TRUNCATE TABLE letters").await;
        run(&format!("INSERT INTO kept SELECT * FROM events WHERE {days}")).await;
        let found = cells(&connection, "SELECT table_name, line, record, reason IS NOT NULL FROM letters ORDER BY record").await;
        let want = [["default.events", "2", "bad one", "true"], ["default.events", "1", "{\"id\": \"x\"}", "true"]];
        assert_eq!(found, want[..if engine == "local" { 1 } else { 2 }], "{engine}");
    }
    assert_eq!(cells(&connection, "SELECT count(*) FROM kept").await, [["6"]]);
    run("TRUNCATE TABLE letters").await;
    run("CREATE TABLE again AS SELECT a.id FROM events a JOIN events b ON a.id = b.id").await;
    assert_eq!(cells(&connection, "SELECT count(*) FROM letters").await, [["2"]], "each once, however often it was read");
    run("INSERT INTO kept SELECT * FROM events WHERE day = 3").await;
    assert_eq!(cells(&connection, "SELECT count(*) FROM letters").await, [["2"]]);
    // Nothing is committed of a statement that fails.
    error(&connection, "INSERT INTO kept SELECT id, day / (id - 1) FROM events WHERE day = 1").await;
    assert_eq!(cells(&connection, "SELECT count(*) FROM letters").await, [["2"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_without_a_table_if_allowed() {
    let cluster = Cluster::start_as(Options { executors: 2, read_files: true, ..Options::default() }).await;
    let connection = cluster.connect().await;
    let path = |name: &str| cluster.data().join(name).display().to_string();
    for day in 1..3 {
        fixtures::numbers(&cluster.data().join(format!("numbers/day={day}")), 2, 100);
    }
    write(&cluster.data().join("one.csv"), "id,name\n1,a\n2,\n");
    write(&cluster.data().join("json/a.jsonl"), "{\"id\": 1, \"Deep\": {\"x\": 2}}\n");
    let numbers = format!("SELECT day, count(*), sum(n) FROM read_parquet('{}') WHERE day > 1 GROUP BY day", path("numbers"));
    assert_eq!(everywhere(&connection, &numbers).await, [["2", "200", "19900"]]);
    let joined =
        format!("SELECT c.id, deep['x'] FROM READ_CSV('{}') AS c JOIN read_json('{}') j ON c.id = j.id", path("one.csv"), path("json"));
    assert_eq!(everywhere(&connection, &joined).await, [["1", "2"]]);
    for (sql, word) in [
        ("SELECT * FROM read_csv('/etc/passwd')", "allowed_locations"),
        ("SELECT * FROM read_csv('s3://lake/x')", "allowed_locations"),
        ("SELECT * FROM read_csv(1)", "one location"),
        ("SELECT * FROM read_xml('x')", "read_xml"),
    ] {
        let message = error(&connection, sql).await;
        assert!(message.contains(word), "{sql}: {message}");
    }
    let message = error(&connection, &format!("SELECT * FROM read_parquet('{}')", path("nothing"))).await;
    assert!(message.contains("nothing"), "{message}");

    let strict = Cluster::start(1).await;
    let connection = strict.connect().await;
    for sql in ["SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM files.read_csv.\"/etc/passwd\""] {
        error(&connection, sql).await;
    }
    let message = error(&connection, "SELECT * FROM read_csv('x')").await;
    assert!(message.contains("turned off"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_text_is_read_by_several_tasks() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let rows = 1_500_000u64;
    let mut text = String::from("id,twice,name\n");
    for id in 0..rows {
        text.push_str(&format!("{id},{},name {}\n", id * 2, id % 7));
    }
    write(&cluster.data().join("large/a.csv"), text);
    let location = cluster.data().join("large");
    let create = format!(
        "CREATE EXTERNAL TABLE large (id BIGINT, twice BIGINT, name STRING) STORED AS CSV LOCATION '{}' TBLPROPERTIES \
         ('skip.header.line.count' = '1')",
        location.display()
    );
    connection.collect(&create).await.unwrap();
    let sum = rows * (rows - 1) / 2;
    let want = [[rows.to_string(), sum.to_string(), (2 * sum).to_string(), "7".to_owned()]];
    assert_eq!(everywhere(&connection, "SELECT count(*), sum(id), sum(twice), count(DISTINCT name) FROM large").await, want);
}
