//! The Flight SQL port: schemas are kept, strangers and hostile text are refused, a cancelled query stops.

use std::time::{Duration, Instant};

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, IpcMessage, SchemaResult};
use futures::TryStreamExt;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use windlass_client::{Connection, Credentials};
use windlass_tests::cluster::Options;
use windlass_tests::sql::cells;
use windlass_tests::{Cluster, fixtures};

async fn channel(cluster: &Cluster) -> Channel {
    Endpoint::from_shared(cluster.uri().replace("grpc://", "http://")).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_promised_is_the_schema_streamed() {
    let cluster = Cluster::start(2).await;
    fixtures::events(&cluster.data().join("events"));
    let location = cluster.data().join("events");
    let setup = cluster.connect().await;
    setup.collect(&format!("CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{}'", location.display())).await.unwrap();

    let channel = channel(&cluster).await;
    let mut raw = FlightServiceClient::new(channel.clone());
    let mut client = FlightSqlServiceClient::new(channel);
    for sql in [
        "SELECT * FROM events",
        "SELECT version(), repeat('a', 2), make_array(1, 2), named_struct('a', 1), map(['a'], [1])",
        "SELECT array_agg(name), min(id), max(ts), avg(price) FROM events",
        "SELECT arrow_cast('x', 'Utf8View'), arrow_cast('x', 'Dictionary(Int32, Utf8)'), arrow_cast('x', 'LargeUtf8'), arrow_cast(1.5, 'Float16')",
        "SELECT arrow_cast([1], 'LargeList(Int64)'), INTERVAL '1' MONTH, DATE '2024-01-01' - DATE '2023-01-01', now()",
        "SELECT id, lag(id) OVER (ORDER BY id) FROM events LIMIT 3",
        "SELECT a.id, b.id FROM events a LEFT JOIN events b ON a.id = b.id + 1 LIMIT 3",
        "SELECT * FROM events WHERE id < 0",
        "SELECT dt, count(*) FROM events GROUP BY dt",
        "SHOW TABLES",
        "SHOW COLUMNS FROM events",
        "DESCRIBE events",
        "EXPLAIN SELECT count(*) FROM events",
        "VALUES (1, 'a'), (2, NULL)",
        "SELECT table_name, column_name, data_type FROM information_schema.columns",
        "SELECT * FROM system.runtime.queries",
        "SELECT * FROM system.runtime.executors",
        "SHOW ALL",
    ] {
        let command = FlightDescriptor::new_cmd(CommandStatementQuery { query: sql.into(), transaction_id: None }.as_any().encode_to_vec());
        let result = raw.get_schema(command).await.unwrap_or_else(|error| panic!("GetSchema of {sql}: {error}")).into_inner();
        let got_schema = decode(result);
        let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("prepare {sql}: {error}"));
        assert_eq!(prepared.dataset_schema().unwrap(), &got_schema, "prepare and GetSchema of {sql}");
        let info = prepared.execute().await.unwrap_or_else(|error| panic!("GetFlightInfo of {sql}: {error}"));
        assert_eq!(info.clone().try_decode_schema().unwrap(), got_schema, "GetFlightInfo of {sql}");
        assert_eq!(info.endpoint.len(), 1, "endpoints of {sql}");
        let messages = raw.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap().into_inner().map_err(FlightError::from);
        let mut stream = FlightRecordBatchStream::new_from_flight_data(messages);
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await.unwrap_or_else(|error| panic!("DoGet of {sql}: {error}")) {
            batches.push(batch);
        }
        let streamed: SchemaRef = std::sync::Arc::clone(stream.schema().unwrap());
        assert_eq!(streamed.as_ref(), &got_schema, "DoGet of {sql}");
        assert!(batches.iter().all(|batch| batch.schema() == streamed), "batches of {sql}");
        prepared.close().await.unwrap();
    }
}

fn decode(result: SchemaResult) -> Schema {
    IpcMessage(result.schema).try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_refused_fast_and_the_process_lives() {
    let cluster = Cluster::start(1).await;
    let connection = cluster.connect().await;
    let hostile = [
        ("20,000 OR", format!("SELECT 1 WHERE {}", vec!["1 = 0"; 20_000].join(" OR "))),
        ("20,000 UNION ALL", vec!["SELECT 1"; 20_000].join(" UNION ALL ")),
        ("50,000 additions", format!("SELECT {}", vec!["1"; 50_000].join(" + "))),
        ("10 MB of text", format!("SELECT '{}'", "x".repeat(10 << 20))),
        ("10,000 parentheses", format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000))),
        ("10,000 NOT", format!("SELECT {} true", "NOT ".repeat(10_000))),
        ("10,000 minus signs", format!("SELECT {} 1", "- ".repeat(10_000))),
        ("10,000 CASE", format!("SELECT {} 1 {}", "CASE WHEN true THEN ".repeat(10_000), " END".repeat(10_000))),
        (
            "5,000 joins",
            format!("SELECT 1 FROM (SELECT 1) t0 {}", (1..5000).map(|n| format!("CROSS JOIN (SELECT 1) t{n} ")).collect::<String>()),
        ),
    ];
    for (name, sql) in hostile {
        let start = Instant::now();
        let error = connection.collect(&sql).await.err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        // The limit is for a user who waits, not for a timed test: a debug build on a busy machine gets some more.
        assert!(start.elapsed() < Duration::from_secs(10), "{name} took {:?}", start.elapsed());
        assert!(error.len() < 2000, "{name}: the error repeats the text");
    }
    let list = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    connection.collect(&format!("SELECT 1 WHERE 5 IN ({list})")).await.expect("a long IN list is no attack");
    connection.collect("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_with_the_right_password_get_in() {
    let cluster = Cluster::start_as(Options { users: vec![("ann", "right horse")], ..Options::default() }).await;
    let login = |user: &str, password: &str| Credentials { login: Some((user.into(), password.into())), ..Credentials::default() };
    for credentials in [Credentials::default(), login("ann", "wrong"), login("bob", "right horse"), login("ann", "")] {
        let error = Connection::connect(cluster.uri(), credentials).await;
        let error = match error {
            Err(error) => error,
            Ok(connection) => connection.collect("SELECT 1").await.expect_err("a stranger was let in"),
        };
        assert!(!error.to_string().contains("horse"), "{error}");
    }
    let connection = Connection::connect(cluster.uri(), login("ann", "right horse")).await.unwrap();
    connection.collect("SELECT 1").await.unwrap();
    assert!(!cluster.scheduler_log().contains("right horse"), "a password in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_frees_its_slots() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let directory = cluster.data().join("numbers");
    fixtures::numbers(&directory, 4, 200_000);
    connection.collect(&format!("CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{}'", directory.display())).await.unwrap();
    let endless = "SELECT sum(a.n * b.n + c.n) FROM numbers a JOIN numbers b ON a.k = b.k JOIN numbers c ON b.k = c.k";
    let mut query = connection.start(endless).await.unwrap();
    while query.progress().tasks_running == 0 {
        query.poll().await.unwrap();
    }
    query.cancel().await.unwrap();
    cluster.await_idle().await;
    let error = query.rows().try_collect::<Vec<_>>().await.expect_err("rows of a cancelled query").to_string();
    assert!(error.contains("cancel"), "{error}");

    // A client that goes away while it fetches has cancelled, too.
    let channel = channel(&cluster).await;
    let info = FlightSqlServiceClient::new(channel.clone()).execute(endless.to_owned(), None).await.unwrap();
    let mut raw = FlightServiceClient::new(channel);
    let fetch = async {
        let mut messages = raw.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap().into_inner();
        while messages.message().await.unwrap().is_some_and(|message| message.data_body.is_empty()) {}
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), fetch).await.is_err(), "the endless query ended");
    cluster.await_idle().await;

    // And so has one that only asks how far the query is, and is killed between two polls.
    let asking = cluster.connect().await;
    let mut query = asking.start(endless).await.unwrap();
    while query.progress().tasks_running == 0 {
        query.poll().await.unwrap();
    }
    drop((query, asking));
    cluster.await_idle().await;
    await_deserted(&connection).await;
}

/// Waits until a query has ended because its client's connection has.
async fn await_deserted(connection: &Connection) {
    let deserted = "SELECT count(*) FROM system.runtime.queries WHERE state = 'CANCELLED' AND error LIKE '%connection was closed%'";
    let deadline = Instant::now() + Duration::from_secs(10);
    while cells(connection, deserted).await != [["1"]] {
        assert!(Instant::now() < deadline, "the query of a client that is gone runs on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_announced_are_delivered_before_the_scheduler_stops() {
    let mut cluster = Cluster::start(1).await;
    let directory = cluster.data().join("numbers");
    fixtures::numbers(&directory, 4, 50_000);
    let setup = cluster.connect().await;
    setup.collect(&format!("CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{}'", directory.display())).await.unwrap();

    let channel = channel(&cluster).await;
    let mut client = FlightSqlServiceClient::new(channel.clone());
    let mut announced = Vec::new();
    for engine in ["local", "staged"] {
        let sql = format!("/* windlass.engine = {engine} */ SELECT n FROM numbers");
        announced.push(client.execute(sql, None).await.unwrap());
    }
    cluster.ask_scheduler_to_stop();
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        match setup.collect("SELECT 1").await {
            Ok(_) => assert!(Instant::now() < deadline, "new statements are still taken"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("shutting down"), "{refused}");
    for info in announced {
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let batches: Vec<_> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 200_000);
    }
    let start = Instant::now();
    assert_eq!(cluster.scheduler_exit(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "nothing was left to be read, and it took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_clients_are_served_if_they_trust_the_authority() {
    let cluster = Cluster::start_as(Options { executors: 1, tls: true, users: vec![("ann", "right horse")], ..Options::default() }).await;
    let login = Some(("ann".to_owned(), "right horse".to_owned()));
    let trusting = Credentials { login: login.clone(), tls_ca: Some(Cluster::authority()) };
    let connection = Connection::connect(cluster.uri(), trusting.clone()).await.unwrap();
    connection.collect("SELECT 1").await.unwrap();
    let leaving = Connection::connect(cluster.uri(), trusting).await.unwrap();
    drop(leaving.start("SELECT sum(value) FROM generate_series(1, 1000000000000)").await.unwrap());
    drop(leaving);
    await_deserted(&connection).await;
    let stranger = Connection::connect(cluster.uri(), Credentials { login: login.clone(), tls_ca: None }).await;
    assert!(stranger.is_err(), "a certificate of an unknown authority was accepted");
    let plain = Connection::connect(&cluster.uri().replace("grpc+tls", "grpc"), Credentials { login, tls_ca: None }).await;
    assert!(plain.is_err(), "a client without TLS was served");
}
