use std::collections::BTreeMap;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::{TokenWithSpan, Tokenizer};
use proptest::prelude::*;
use windlass_engine::Dialect;
use windlass_engine::formats::{FileFormat, Storage};
use windlass_engine::layout::{Layout, SortColumn};
use windlass_proto::Kind;

use super::types::type_name;
use super::*;
use crate::catalog::KeyType;
use crate::predicate::Comparison;

fn ours(sql: &str) -> DdlStatement {
    match parse(sql, Dialect::Generic) {
        Ok(Some(statement)) => statement,
        other => panic!("{sql}: {other:?}"),
    }
}

fn table(sql: &str) -> CreateTable {
    match ours(sql) {
        DdlStatement::CreateTable(table) => table,
        other => panic!("{sql}: {other:?}"),
    }
}

fn error(sql: &str) -> ParseError {
    parse(sql, Dialect::Generic).expect_err(sql)
}

fn name(text: &str) -> TableName {
    let mut parts: Vec<_> = text.split('.').map(str::to_owned).collect();
    let name = parts.pop().unwrap_or_default();
    let database = parts.pop();
    TableName { catalog: parts.pop(), database, name }
}

#[test]
fn other_statements_are_left_to_others() {
    for sql in [
        "SELECT 1",
        "",
        "-- nothing",
        "EXPLAIN SELECT 1",
        "SET x = 1",
        "SHOW ALL",
        "SHOW datafusion.execution.batch_size",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "DESCRIBE SELECT 1",
        "PREPARE p AS SELECT 1",
    ] {
        assert_eq!(parse(sql, Dialect::Generic), Ok(None), "{sql}");
    }
}

#[test]
fn names_are_lower_case_and_may_be_quoted() {
    let drop = |sql: &str| match ours(sql) {
        DdlStatement::Drop { table, .. } => table,
        other => panic!("{other:?}"),
    };
    assert_eq!(drop("drop table T"), name("t"));
    assert_eq!(drop("/* old */ DROP TABLE if exists Sales.`My Orders` ; -- done"), name("sales.my orders"));
    assert_eq!(drop("DROP TABLE \"Hive\".sales.\"Order\""), name("hive.sales.order"));
    assert_eq!(ours("USE database"), DdlStatement::Use(DatabaseName { catalog: None, name: "database".to_owned() }));
    assert_eq!(
        ours("USE DATABASE hive.Sales;"),
        DdlStatement::Use(DatabaseName { catalog: Some("hive".to_owned()), name: "sales".to_owned() })
    );
}

#[test]
fn show_and_describe() {
    let like = |text: &str| Some(Pattern(text.to_owned()));
    let database = |name: &str| Some(DatabaseName { catalog: None, name: name.to_owned() });
    let tables = |database, like, views_only| DdlStatement::ShowTables { database, like, views_only };
    assert_eq!(ours("SHOW TABLES"), tables(None, None, false));
    assert_eq!(ours("SHOW TABLES 'a*|b'"), tables(None, like("a*|b"), false));
    assert_eq!(ours("show views from d like '%x'"), tables(database("d"), like("%x"), true));
    assert_eq!(ours("SHOW COLUMNS IN t FROM d"), DdlStatement::ShowColumns(name("d.t")));
    assert_eq!(ours("SHOW STATS FOR d.t"), DdlStatement::ShowStats(name("d.t")));
    assert_eq!(ours("SHOW CREATE TABLE d.t"), DdlStatement::ShowCreate(name("d.t")));
    let condition = Condition { key: "dt".to_owned(), comparison: Comparison::Equal, value: Some("2024-01-01".to_owned()) };
    assert_eq!(
        ours("SHOW PARTITIONS t PARTITION (DT = DATE '2024-01-01')"),
        DdlStatement::ShowPartitions { table: name("t"), conditions: vec![condition] }
    );
    for sql in ["DESCRIBE EXTENDED t", "DESC FORMATTED TABLE t", "DESCRIBE TABLE EXTENDED t"] {
        assert_eq!(ours(sql), DdlStatement::Describe { table: name("t"), extended: true }, "{sql}");
    }
    assert_eq!(ours("DESC extended"), DdlStatement::Describe { table: name("extended"), extended: false });
}

#[test]
fn patterns() {
    let cases = [
        ("orders", "orders", true),
        ("ord%", "orders", true),
        ("%d%s", "orders", true),
        ("o_ders", "orders", true),
        ("ord", "orders", false),
        ("O*", "orders", true),
        ("a|ord*", "orders", true),
        ("my_*", "myxt", false),
        ("", "t", false),
        ("%a%a%a%b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
    ];
    for (pattern, name, matches) in cases {
        assert_eq!(Pattern(pattern.to_owned()).matches(name), matches, "{pattern} {name}");
    }
}

#[test]
fn hive_table_with_clauses_in_any_order() {
    let table = table(
        "CREATE EXTERNAL TABLE IF NOT EXISTS d.events (Id BIGINT COMMENT 'it''s the key', tags array<string>, m map<string,array<struct<a:int,B:decimal(5,2)>>>)
         LOCATION 's3://b/events' TBLPROPERTIES ('a'='1', b.c=2) STORED AS PARQUET
         PARTITIONED BY (dt DATE, region varchar(2) COMMENT 'r') COMMENT \"all of them\"",
    );
    let columns = table.columns.expect("declared");
    assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id", "tags", "m"]);
    assert_eq!(columns[0].comment.as_deref(), Some("it's the key"));
    assert_eq!(type_name(&columns[2].data_type), "map<string,array<struct<`a`:int,`B`:decimal(5,2)>>>");
    let keys = table.keys.expect("declared");
    assert_eq!(keys.iter().map(|key| key.key_type).collect::<Vec<_>>(), [Some(KeyType::Date), Some(KeyType::String)]);
    assert_eq!(table.location.as_deref(), Some("s3://b/events"));
    assert_eq!(table.comment.as_deref(), Some("all of them"));
    assert_eq!(table.properties, BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b.c".to_owned(), "2".to_owned())]));
    assert!(table.external && table.if_not_exists && !table.keys_by_name);
}

#[test]
fn layouts_in_every_spelling() {
    let sorted = |name: &str, descending| SortColumn { name: name.to_owned(), descending };
    let layout =
        Layout { bucketed_by: vec!["a".to_owned(), "b".to_owned()], buckets: 8, sorted_by: vec![sorted("c", true), sorted("a", false)] };
    for clauses in [
        "CLUSTERED BY (a, `B`) SORTED BY (c DESC, A) INTO 8 BUCKETS STORED AS PARQUET",
        "SORTED BY (c DESC NULLS LAST, a ASC NULLS FIRST) STORED AS PARQUET CLUSTERED BY (A, b) INTO 8 BUCKETS",
        "WITH (bucketed_by = ARRAY['a', 'b'], bucket_count = 8, sorted_by = ARRAY['c DESC', 'a'])",
    ] {
        assert_eq!(table(&format!("CREATE TABLE t (a int, b int, c int) {clauses}")).storage.layout, layout, "{clauses}");
    }
    assert!(error("CREATE TABLE t (a int) SORTED BY (a NULLS LAST)").message.contains("NULLS FIRST"));
    assert!(error("CREATE TABLE t (a int) CLUSTERED BY (a) INTO many BUCKETS").message.contains("number of buckets"));
}

#[test]
fn formats_in_every_spelling() {
    let storage = |clauses: &str| table(&format!("CREATE EXTERNAL TABLE t (a INT) {clauses} LOCATION '/x'"));
    let of = |clauses: &str| storage(clauses).storage;
    let made = |format, serde: &[(&str, &str)]| Storage {
        layout: Layout::default(),
        format,
        serde: serde.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    assert_eq!(of(""), made(FileFormat::Parquet, &[]));
    let delimited = "ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' ESCAPED BY '\\' COLLECTION ITEMS TERMINATED BY ';' LINES TERMINATED BY '\\n' \
                     NULL DEFINED AS '\\N'";
    let words = [("field.delim", ","), ("escape.delim", "\\"), ("line.delim", "\\n"), ("serialization.null.format", "\\N")];
    for clauses in [delimited.to_owned(), format!("STORED AS TEXTFILE {delimited}")] {
        assert_eq!(of(&clauses), made(FileFormat::Text, &words));
    }
    let open = "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' WITH SERDEPROPERTIES ('separatorChar' = '|')";
    assert_eq!(of(&format!("{open} STORED AS TEXTFILE")), made(FileFormat::Csv, &[("escapeChar", "\\"), ("separatorChar", "|")]));
    assert_eq!(of(&format!("{open} STORED AS CSV")), made(FileFormat::Csv, &[("separatorChar", "|")]));
    assert_eq!(of("STORED AS TSV"), made(FileFormat::Csv, &[("separatorChar", "\\t")]));
    let input = "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe' STORED AS INPUTFORMAT 'org.apache.hadoop.mapred.TextInputFormat' \
                 OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat'";
    assert_eq!(of(input), made(FileFormat::Json, &[]));
    let classes = "ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.orc.OrcSerde' STORED AS INPUTFORMAT \
                   'org.apache.hadoop.hive.ql.io.orc.OrcInputFormat' OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.orc.OrcOutputFormat'";
    for orc in [classes, "STORED AS ORC", "USING orc"] {
        assert_eq!(of(orc), made(FileFormat::Orc, &[]), "{orc}");
    }
    let spark = storage("USING csv OPTIONS (header 'true', sep ';', mode 'PERMISSIVE', other 'x')");
    assert_eq!(spark.storage, made(FileFormat::Csv, &[("separatorChar", ";")]));
    assert_eq!(
        spark.properties.keys().map(String::as_str).collect::<Vec<_>>(),
        ["other", "skip.header.line.count", "windlass.bad_records"]
    );
    for (clauses, message) in [
        ("ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' STORED AS AVRO", "no delimiters"),
        ("ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' STORED AS AVRO", "CSV files, not for AVRO"),
    ] {
        let error = error(&format!("CREATE TABLE t (a INT) {clauses}"));
        assert!(error.message.contains(message), "{clauses}: {error}");
    }
}

#[test]
fn keys_by_name_come_from_columns_or_directories() {
    let spark = table("CREATE TABLE t (a INT, dt DATE, b STRING) USING parquet OPTIONS (path '/x', k 'v') PARTITIONED BY (dt)");
    assert_eq!(spark.columns.as_ref().map(Vec::len), Some(2));
    assert_eq!(spark.keys, Some(vec![Key { name: "dt".to_owned(), key_type: Some(KeyType::Date), comment: None }]));
    assert_eq!((spark.location.as_deref(), spark.properties.len(), spark.keys_by_name), (Some("/x"), 1, true));
    let datafusion = table("CREATE EXTERNAL TABLE t STORED AS PARQUET PARTITIONED BY (y, m) LOCATION '/x/'");
    assert_eq!(datafusion.keys.map(|keys| keys.into_iter().map(|key| key.key_type).collect::<Vec<_>>()), Some(vec![None, None]));
    assert!(error("CREATE TABLE t (a INT) PARTITIONED BY (dt)").message.contains("'dt' has no type"));
    assert!(error("CREATE TABLE t (a INT, dt INT) PARTITIONED BY (dt INT)").message.contains("'dt' is declared twice"));
    assert!(error("CREATE TABLE t (a INT) PARTITIONED BY (dt DOUBLE)").message.contains("cannot be double"));
}

#[test]
fn types_in_every_spelling() {
    let utc = || Some("UTC".into());
    let cases = [
        ("string", DataType::Utf8),
        ("varchar(10)", DataType::Utf8),
        ("char(3)", DataType::Utf8),
        ("tinyint", DataType::Int8),
        ("smallint", DataType::Int16),
        ("integer", DataType::Int32),
        ("long", DataType::Int64),
        ("real", DataType::Float32),
        ("double precision", DataType::Float64),
        ("decimal", DataType::Decimal128(10, 0)),
        ("numeric(38, 10)", DataType::Decimal128(38, 10)),
        ("boolean", DataType::Boolean),
        ("varbinary", DataType::Binary),
        ("date", DataType::Date32),
        ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("timestamp(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("timestamp with time zone", DataType::Timestamp(TimeUnit::Microsecond, utc())),
        ("timestamp(9) with time zone", DataType::Timestamp(TimeUnit::Nanosecond, utc())),
        ("bigint unsigned", DataType::UInt64),
        ("array(varchar)", DataType::new_list(DataType::Utf8, true)),
        (
            "row(a int, b array<array<int>>)",
            DataType::Struct(
                vec![
                    Field::new("a", DataType::Int32, true),
                    Field::new("b", DataType::new_list(DataType::new_list(DataType::Int32, true), true), true),
                ]
                .into(),
            ),
        ),
    ];
    for (sql, expected) in cases {
        let columns = table(&format!("CREATE TABLE t (a {sql} COMMENT 'x', b int NOT NULL)")).columns.expect("declared");
        assert_eq!(columns[0].data_type, expected, "{sql}");
        assert_eq!(columns.len(), 2, "{sql}");
    }
    for sql in ["decimal(77,0)", "decimal(5,6)", "frobnicate", "interval"] {
        assert!(error(&format!("CREATE TABLE t (a {sql})")).message.contains("unknown type"), "{sql}");
    }
    let deep = format!("CREATE TABLE t (a {}int{})", "array<".repeat(20_000), ">".repeat(20_000));
    assert!(error(&deep).message.contains("32 levels"));
}

#[test]
fn what_is_not_done_says_so_and_where() {
    let cases = [
        ("LOAD DATA INPATH 'x' INTO TABLE t", "LOAD DATA"),
        ("CREATE TABLE t (a int) STORED AS RCFILE", "'RCFILE' is not supported: only PARQUET"),
        ("CREATE TABLE t (a int) USING xml", "'xml' is not supported: only PARQUET"),
        ("CREATE TABLE t (a int) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'", "RegexSerDe"),
        ("CREATE TABLE t (a int) SKEWED BY (a) ON (1)", "SKEWED"),
        ("CREATE FUNCTION f AS 'x'", "CREATE FUNCTION"),
        ("ALTER TABLE t DROP COLUMN a", "DROP COLUMN"),
        ("ANALYZE TABLES IN d COMPUTE STATISTICS", "name one table"),
        ("ANALYZE t WITH (partitions = ARRAY['a'])", "PARTITION (key = value)"),
        ("SHOW STATS FOR (SELECT 1)", "name a table"),
    ];
    for (sql, text) in cases {
        let error = error(sql);
        assert!(error.kind == Kind::Unsupported && error.message.contains(text), "{sql}: {error}");
    }
    let at = |sql: &str| {
        let error = error(sql);
        (error.line, error.column)
    };
    assert_eq!(at("CREATE TABLE t (a int)\n  STORED AS RCFILE"), (2, 13));
    assert_eq!(at("DROP TABLE"), (1, 11));
    assert_eq!(at("CREATE VIEW v AS\nSELECT a FROM b WHERE"), (2, 22));
    assert_eq!(at("DROP TABLE t; DROP TABLE u"), (1, 15));
    assert_eq!(at("DROP TABLE 'x"), (1, 12));
    assert_eq!(error("SHOW TABLES nonsense").message, "expected the end of the statement, found 'nonsense'");
}

#[test]
fn alterations() {
    let alteration = |sql: &str| match ours(sql) {
        DdlStatement::Alter { alteration, .. } => alteration,
        other => panic!("{other:?}"),
    };
    let Alteration::AddPartitions { if_not_exists: true, partitions } = alteration(
        "ALTER TABLE t ADD IF NOT EXISTS PARTITION (dt='2024-01-01', n=-1) LOCATION '/x' PARTITION (dt='2024-01-02', n=NULL), PARTITION (dt=DATE '2024-01-03', n=3)",
    ) else {
        panic!("not ADD PARTITION")
    };
    assert_eq!(partitions.len(), 3);
    assert_eq!(partitions[0].values, [("dt".to_owned(), Some("2024-01-01".to_owned())), ("n".to_owned(), Some("-1".to_owned()))]);
    assert_eq!((partitions[0].location.as_deref(), partitions[1].values[1].1.as_deref()), (Some("/x"), None));
    let Alteration::DropPartitions { if_exists: true, specs } =
        alteration("ALTER TABLE t DROP IF EXISTS PARTITION (dt < '2024-01-01', n != 3), PARTITION (n >= 9) PURGE")
    else {
        panic!("not DROP PARTITION")
    };
    assert_eq!(specs.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(specs[0][1].comparison, Comparison::NotEqual);
    let change = |sql: &str| match alteration(sql) {
        Alteration::ChangeColumn(change) => (change.column, change.name, change.data_type, change.comment),
        other => panic!("{other:?}"),
    };
    let (a, int) = (|| "a".to_owned(), || Some(DataType::Int32));
    assert_eq!(change("ALTER TABLE t CHANGE COLUMN A b INT COMMENT 'x'"), (a(), Some("b".to_owned()), int(), Some(Some("x".to_owned()))));
    assert_eq!(change("ALTER TABLE t CHANGE a A int CASCADE"), (a(), None, int(), None));
    assert_eq!(change("ALTER TABLE t CHANGE a type int"), (a(), Some("type".to_owned()), int(), None));
    assert_eq!(change("ALTER TABLE t ALTER COLUMN a COMMENT 'x'"), (a(), None, None, Some(Some("x".to_owned()))));
    assert_eq!(change("ALTER TABLE t ALTER COLUMN a SET DATA TYPE int"), (a(), None, int(), None));
    assert_eq!(change("ALTER TABLE t RENAME COLUMN a TO b"), (a(), Some("b".to_owned()), None, None));
    assert_eq!(change("COMMENT ON COLUMN t.a IS NULL"), (a(), None, None, Some(None)));
    assert!(matches!(ours("COMMENT ON COLUMN hive.d.t.a IS ''"), DdlStatement::Alter { table, .. } if table == name("hive.d.t")));
    assert_eq!(alteration("COMMENT ON VIEW v IS 'x'"), Alteration::Comment(Some("x".to_owned())));
    assert_eq!(error("ALTER TABLE t CHANGE a a int AFTER b").kind, Kind::Unsupported);
    let day = |day: &str| vec![("dt".to_owned(), Some(day.to_owned()))];
    let moved = Alteration::SetPartitionLocation { values: day("2024-01-01"), location: "/x".to_owned() };
    assert_eq!(alteration("ALTER TABLE t PARTITION (dt='2024-01-01') SET LOCATION '/x'"), moved);
    let renamed = Alteration::RenamePartition { from: day("1"), to: day("2") };
    assert_eq!(alteration("ALTER TABLE t PARTITION (dt=1) RENAME TO PARTITION (dt=2)"), renamed);
    assert_eq!(alteration("ALTER TABLE t RENAME TO d.u"), Alteration::Rename(name("d.u")));
    assert_eq!(
        alteration("ALTER VIEW v AS SELECT 1 -- one\n;"),
        Alteration::Query { query: "SELECT 1".to_owned(), dialect: Dialect::Generic }
    );
    let column = Column { name: "c".to_owned(), data_type: DataType::Int32, comment: None };
    assert_eq!(alteration("ALTER TABLE t ADD COLUMNS (C int)"), Alteration::AddColumns(vec![column]));
    for (sql, mode) in [
        ("MSCK REPAIR TABLE t", RepairMode::Add),
        ("MSCK TABLE t DROP PARTITIONS", RepairMode::Drop),
        ("MSCK REPAIR TABLE t SYNC PARTITIONS;", RepairMode::Sync),
        ("ALTER TABLE t RECOVER PARTITIONS", RepairMode::Add),
    ] {
        assert_eq!(ours(sql), DdlStatement::Repair { table: name("t"), mode }, "{sql}");
    }
}

#[test]
fn analyses() {
    let analyze = |sql: &str| match ours(sql) {
        DdlStatement::Analyze(Analyze { table, partition, scope }) => (table, partition, scope),
        other => panic!("{other:?}"),
    };
    let text = |text: &str| text.to_owned();
    for sql in [
        "ANALYZE t",
        "ANALYZE TABLE t;",
        "analyze table T compute statistics",
        "ANALYZE TABLE t COMPUTE STATISTICS FOR ALL COLUMNS",
        "ANALYZE TABLE t COMPUTE STATISTICS FOR COLUMNS",
    ] {
        assert_eq!(analyze(sql), (name("t"), vec![], AnalyzeScope::AllColumns), "{sql}");
    }
    assert_eq!(analyze("ANALYZE TABLE t COMPUTE STATISTICS NOSCAN").2, AnalyzeScope::Size);
    for columns in ["A, b", "(a, `b`)"] {
        let sql = format!("ANALYZE TABLE d.t PARTITION (dt = '2024-01-01', n = NULL, hr) COMPUTE STATISTICS FOR COLUMNS {columns}");
        let partition = vec![(text("dt"), Some(Some(text("2024-01-01")))), (text("n"), Some(None)), (text("hr"), None)];
        assert_eq!(analyze(&sql), (name("d.t"), partition, AnalyzeScope::Columns(vec![text("a"), text("b")])), "{sql}");
    }
    for (sql, message, column) in [
        ("ANALYZE", "expected a table name, found the end", 8),
        ("ANALYZE TABLE t COMPUTE", "expected STATISTICS, found the end", 24),
        ("ANALYZE TABLE t COMPUTE STATISTICS FOR a", "expected COLUMNS, found 'a'", 40),
        ("ANALYZE TABLE t PARTITION (dt > 1)", "expected ')', found '>'", 31),
        ("ANALYZE TABLE t COMPUTE STATISTICS FOR COLUMNS a b", "expected the end of the statement, found 'b'", 50),
    ] {
        let error = error(sql);
        assert_eq!((error.message.as_str(), error.column), (message, column), "{sql}");
    }
}

#[test]
fn calls_name_their_arguments_or_do_not() {
    let call = |arguments: &str| {
        parse_call(&format!("CALL system.vacuum({arguments});"), Dialect::Generic).map(|call| match call {
            Some(Call::Vacuum(vacuum)) => vacuum,
            other => panic!("{other:?}"),
        })
    };
    let all = Vacuum { table: Some(name("d.t")), older_than: Some(Age::Ago(36 * 3_600_000)), dry_run: true };
    for arguments in [
        "table => 'd.t', older_than => INTERVAL '36' HOUR, dry_run => TRUE",
        "DRY_RUN => true, older_than => interval '36 hours', table => 'D.t'",
        "'d.`t`', INTERVAL 36 HOURS, true",
    ] {
        assert_eq!(call(arguments), Ok(all.clone()), "{arguments}");
    }
    assert_eq!(call(""), Ok(Vacuum { table: None, older_than: None, dry_run: false }));
    let since = Some(Age::At(86_400_500));
    assert_eq!(call("older_than => TIMESTAMP '1970-01-02 00:00:00.5'").unwrap().older_than, since);
    for (arguments, text) in [
        ("older_than => INTERVAL '1' MONTH", "seconds, minutes, hours, days or weeks"),
        ("older_than => INTERVAL '-1' DAY", "seconds, minutes, hours, days or weeks"),
        ("older_than => 'yesterday'", "'yesterday' is no time"),
        ("table => 'a b'", "'a b' is no name of a table"),
        ("dry_run => 1", "expected TRUE or FALSE"),
        ("'t', table => 'u'", "'table' is given twice"),
        ("retain => 1", "system.vacuum takes table, older_than, dry_run"),
    ] {
        let error = call(arguments).unwrap_err();
        assert!(error.message.contains(text), "{arguments}: {error}");
    }
    assert!(parse_call("CALL system.fly()", Dialect::Generic).unwrap_err().message.contains("no procedure 'system.fly'"));
    assert_eq!(parse_call("SELECT 1", Dialect::Generic), Ok(None));
    let of_names = |sql: &str| match parse_call(sql, Dialect::Generic) {
        Ok(Some(Call::Names(statement))) => Ok(*statement),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.message),
    };
    let crawl = Crawl { location: "s3://b/x".to_owned(), database: Some("lake".to_owned()), table_prefix: "p_".to_owned(), dry_run: true };
    let calls = ["'s3://b/x', database => 'Lake', dry_run => true, table_prefix => 'p_'", "'s3://b/x', 'lake', 'p_', true"];
    for arguments in calls {
        assert_eq!(of_names(&format!("CALL system.crawl({arguments})")), Ok(DdlStatement::Crawl(crawl.clone())), "{arguments}");
    }
    assert!(of_names("CALL system.crawl(database => 'x')").unwrap_err().contains("needs location"));
    let advance = |version| DdlStatement::Advance { table: name("d.t"), job: "j".to_owned(), version };
    assert_eq!(of_names("CALL system.advance('d.t', 'j', 7)"), Ok(advance(Some(7))));
    assert_eq!(of_names("CALL system.advance(job => 'j', table => 'd.t')"), Ok(advance(None)));
    assert!(of_names("CALL system.advance('d.t', 'j', -7)").unwrap_err().contains("expected a number"));
}

#[test]
fn versions_become_arguments_behind_names_only() {
    for (sql, expected) in [
        ("SELECT a FROM t FOR VERSION AS OF 3", "SELECT a FROM t(version_as_of => 3)"),
        (
            "SELECT a FROM `x y` version as of 3 b JOIN u FOR SYSTEM_TIME AS OF now() - 1",
            "SELECT a FROM `x y`(version_as_of => 3) b JOIN u(timestamp_as_of => now() - 1)",
        ),
        ("SELECT 1 FROM t FOR TIMESTAMP AS OF '2024' WHERE a", "SELECT 1 FROM t(timestamp_as_of => '2024') WHERE a"),
        ("SELECT 1 FROM t FOR CHANGES SINCE JOB 'j' a", "SELECT 1 FROM t(changes_since_job => 'j') a"),
        ("SELECT 1 FROM t FOR BAD RECORDS, u", "SELECT 1 FROM t(bad_records => true), u"),
        ("SELECT version AS of FROM t", "SELECT version AS of FROM t"),
        ("SELECT a, timestamp AS of, b FROM t", "SELECT a, timestamp AS of, b FROM t"),
        ("SELECT t.version AS of FROM t", "SELECT t.version AS of FROM t"),
    ] {
        let read = |sql: &str| Tokenizer::new(Dialect::Generic.grammar(), sql).tokenize_with_location().unwrap();
        let words = |tokens: &[TokenWithSpan]| {
            tokens.iter().map(|token| token.token.to_string()).filter(|token| !token.trim().is_empty()).collect::<Vec<_>>()
        };
        let mut tokens = read(sql);
        rewrite_versions(&mut tokens, Dialect::Generic);
        assert_eq!(words(&tokens), words(&read(expected)), "{sql}");
    }
}

#[test]
fn a_view_keeps_its_query_as_written() {
    let DdlStatement::CreateView(view) =
        ours("CREATE OR REPLACE VIEW d.v (a, B COMMENT 'é') COMMENT 'x' AS\n  SELECT 'ü', 2 >> 1 -- inner\n  FROM t;\n")
    else {
        panic!("not a view")
    };
    assert_eq!(view.query, "SELECT 'ü', 2 >> 1 -- inner\n  FROM t");
    assert_eq!(view.columns[1], ViewColumn { name: "b".to_owned(), comment: Some("é".to_owned()) });
    assert_eq!(ours(&view.to_string()), DdlStatement::CreateView(view));
    assert!(parse(&format!("CREATE VIEW v AS SELECT {}1{}", "(".repeat(60), ")".repeat(60)), Dialect::Generic).is_ok());
    assert!(error(&format!("CREATE VIEW v AS SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000))).message.contains("nested too deeply"));
}

fn any_type() -> impl Strategy<Value = DataType> {
    let scalars = [
        "string",
        "int",
        "bigint",
        "double",
        "decimal(12,3)",
        "date",
        "timestamp",
        "timestamp(3) with time zone",
        "binary",
        "boolean",
        "int unsigned",
    ];
    let scalar = proptest::sample::select(scalars.to_vec())
        .prop_map(|sql| table(&format!("CREATE TABLE t (a {sql})")).columns.expect("declared")[0].data_type.clone());
    scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|item| DataType::new_list(item, true)),
            proptest::collection::vec(inner, 1..3).prop_map(|types| DataType::Struct(
                types.into_iter().enumerate().map(|(i, t)| Field::new(format!("F {i}"), t, true)).collect()
            )),
        ]
    })
}

proptest! {
    /// What `SHOW CREATE TABLE` prints is read back as the same statement.
    #[test]
    fn printed_tables_parse_back(
        types in proptest::collection::vec((any_type(), proptest::option::of(".{0,8}")), 1..6),
        keys in proptest::option::of(proptest::collection::vec(proptest::sample::select(vec![KeyType::String, KeyType::Int, KeyType::Date, KeyType::Timestamp, KeyType::Decimal(9, 2)]), 1..4)),
        name in "[a-z `\"é]{1,6}",
        comment in proptest::option::of(".{0,8}"),
        location in proptest::option::of("/[a-z' ]{0,6}"),
        properties in proptest::collection::btree_map("[a-z.']{1,4}", "[^\\\\]{0,4}", 0..3),
        format in proptest::sample::select(vec![FileFormat::Parquet, FileFormat::Text, FileFormat::Csv, FileFormat::Json, FileFormat::Avro, FileFormat::Orc]),
        serde in proptest::collection::btree_map("[a-z.']{1,4}", "[^\\\\]{0,4}", 0..3),
        bucketed_by in proptest::collection::vec("[a-z `]{1,4}", 0..3),
        buckets in 1_u32..100,
        sorted_by in proptest::collection::vec(("[a-z `]{1,4}", any::<bool>()), 0..3),
    ) {
        let buckets = if bucketed_by.is_empty() { 0 } else { buckets };
        let sorted_by = sorted_by.into_iter().map(|(name, descending)| SortColumn { name, descending }).collect();
        let layout = Layout { bucketed_by, buckets, sorted_by };
        let table = CreateTable {
            table: TableName { catalog: Some("hive".to_owned()), database: Some("d".to_owned()), name },
            or_replace: comment.is_some(),
            if_not_exists: false,
            external: location.is_some(),
            columns: Some(types.into_iter().enumerate().map(|(i, (data_type, comment))| Column { name: format!("c {i}"), data_type, comment }).collect()),
            keys: keys.map(|keys| keys.into_iter().enumerate().map(|(i, key_type)| Key { name: format!("k{i}"), key_type: Some(key_type), comment: None }).collect()),
            keys_by_name: false,
            comment,
            location,
            properties,
            storage: Storage { format, serde: if format == FileFormat::Parquet { BTreeMap::new() } else { serde }, layout },
            query: None,
            like: Vec::new(),
        };
        prop_assert_eq!(parse(&table.to_string(), Dialect::Generic), Ok(Some(DdlStatement::CreateTable(table))));
    }
}

#[test]
fn views_are_printed_in_their_dialect() {
    for (dialect, sql) in [
        (Dialect::Spark, r#"CREATE VIEW v (a COMMENT 'it\'s') COMMENT 'x\\y' TBLPROPERTIES ('k' = 'it''s') AS SELECT "x" AS a"#),
        (Dialect::Presto, r#"CREATE TEMPORARY VIEW v ("a" COMMENT 'it''s \ a') AS SELECT "x" AS a FROM t"#),
        (Dialect::Generic, "CREATE OR REPLACE VIEW d.v AS SELECT `x` FROM t"),
    ] {
        let Ok(Some(DdlStatement::CreateView(view))) = parse(sql, dialect) else { panic!("{sql}") };
        let printed = view.to_string();
        assert_eq!(printed.starts_with("/* windlass.dialect = "), dialect != Dialect::Generic, "{printed}");
        assert_eq!(parse(&printed, dialect), Ok(Some(DdlStatement::CreateView(view))), "{printed}");
    }
}
