use std::collections::BTreeMap;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use proptest::prelude::*;
use windlass_proto::Kind;

use super::types::type_name;
use super::*;
use crate::catalog::KeyType;
use crate::predicate::Comparison;

fn ours(sql: &str) -> DdlStatement {
    match parse(sql) {
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
    parse(sql).expect_err(sql)
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
        assert_eq!(parse(sql), Ok(None), "{sql}");
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
        ("INSERT INTO t VALUES (1)", "writes are not available"),
        ("CREATE TABLE t STORED AS PARQUET AS SELECT 1", "writes are not available"),
        ("CREATE TABLE t (a int) STORED AS ORC", "'ORC' is not supported: only PARQUET"),
        ("CREATE TABLE t (a int) USING csv", "'csv' is not supported: only PARQUET"),
        ("CREATE TABLE t (a int) ROW FORMAT DELIMITED FIELDS TERMINATED BY ','", "'TEXTFILE'"),
        ("CREATE TABLE t (a int) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'", "OpenCSVSerde"),
        ("CREATE TABLE t (a int) CLUSTERED BY (a) INTO 4 BUCKETS", "CLUSTERED"),
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
    assert_eq!(at("CREATE TABLE t (a int)\n  STORED AS ORC"), (2, 13));
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
    assert_eq!(alteration("ALTER VIEW v AS SELECT 1 -- one\n;"), Alteration::Query("SELECT 1".to_owned()));
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
fn a_view_keeps_its_query_as_written() {
    let DdlStatement::CreateView(view) =
        ours("CREATE OR REPLACE VIEW d.v (a, B COMMENT 'é') COMMENT 'x' AS\n  SELECT 'ü', 2 >> 1 -- inner\n  FROM t;\n")
    else {
        panic!("not a view")
    };
    assert_eq!(view.query, "SELECT 'ü', 2 >> 1 -- inner\n  FROM t");
    assert_eq!(view.columns[1], ViewColumn { name: "b".to_owned(), comment: Some("é".to_owned()) });
    assert_eq!(ours(&view.to_string()), DdlStatement::CreateView(view));
    assert!(parse(&format!("CREATE VIEW v AS SELECT {}1{}", "(".repeat(60), ")".repeat(60))).is_ok());
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
    ) {
        let table = CreateTable {
            table: TableName { catalog: Some("hive".to_owned()), database: Some("d".to_owned()), name },
            if_not_exists: false,
            external: location.is_some(),
            columns: Some(types.into_iter().enumerate().map(|(i, (data_type, comment))| Column { name: format!("c {i}"), data_type, comment }).collect()),
            keys: keys.map(|keys| keys.into_iter().enumerate().map(|(i, key_type)| Key { name: format!("k{i}"), key_type: Some(key_type), comment: None }).collect()),
            keys_by_name: false,
            comment,
            location,
            properties,
        };
        prop_assert_eq!(parse(&table.to_string()), Ok(Some(DdlStatement::CreateTable(table))));
    }
}
