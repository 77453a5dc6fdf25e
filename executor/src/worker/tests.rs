//! Two executors and a scheduler's session, over real connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, WorkerResolver, display_plan_ascii};
use futures::StreamExt;
use http_body::Frame;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use url::Url;
use windlass_engine::functions::with_functions;
use windlass_engine::pipelined::fate::is_panic;
use windlass_engine::pipelined::{QueryId, QueryToken, attempt_config, worker_url};
use windlass_engine::session::{session_config, state_builder};
use windlass_engine::{Locations, RuntimeOptions, build_runtime};

use super::aging::{Age, Ages};
use super::plan::RowsRead;
use super::*;

/// Rows of the larger table.
const ROWS: i64 = 200_000;

const MIB: usize = 1 << 20;

struct Cluster {
    runners: Vec<Arc<StageRunner>>,
    urls: Vec<Url>,
    channels: WorkerChannels,
    runtime: Arc<RuntimeEnv>,
    dir: tempfile::TempDir,
    key: Option<Secret>,
}

#[derive(Clone)]
struct Fixed(Vec<Url>);

impl WorkerResolver for Fixed {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

/// The identity, except that it panics on the last row of the larger table.
fn boom() -> ScalarUDF {
    let panics = |args: &[ColumnarValue]| {
        let values = args[0].to_array(1)?;
        assert!(!values.as_primitive::<Int64Type>().iter().any(|value| value == Some(ROWS)), "that row is bad");
        Ok(ColumnarValue::Array(values))
    };
    create_udf("boom", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(panics))
}

fn functions(builder: SessionStateBuilder) -> SessionStateBuilder {
    let mut builder = with_functions(builder);
    builder.scalar_functions().get_or_insert_default().push(Arc::new(boom()));
    builder
}

impl Cluster {
    async fn start(query_bytes: usize, key: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = key.map(Secret::new);
        let locations = Locations::new([dir.path().display().to_string()]).unwrap();
        let runtime = |name: &str| {
            let options = RuntimeOptions {
                memory_limit_bytes: 256 << 20,
                spill_dir: dir.path().join(name),
                spill_limit_bytes: 1 << 30,
                metadata_cache_bytes: 1 << 20,
            };
            build_runtime(&options, &locations).unwrap()
        };
        let (mut runners, mut urls) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let limits = Limits { memory_bytes: 256 * MIB, query_bytes };
            let options = Options { slots: 2, limits, cluster_key: key.clone(), functions };
            let runner = Arc::new(StageRunner::start(options, &runtime(name), Handle::current()).unwrap());
            let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            urls.push(worker_url("127.0.0.1", incoming.local_addr().unwrap().port()).unwrap());
            let router = runner.add_to(Server::builder().add_routes(Routes::default()));
            tokio::spawn(router.serve_with_incoming(incoming));
            runners.push(runner);
        }
        let cluster = Self { runners, urls, channels: WorkerChannels::new(Handle::current()), runtime: runtime("s"), dir, key };
        cluster.write_tables().await;
        cluster
    }

    /// `facts` (k from 1 to [`ROWS`], g, v) in 4 files, `names` (g, name) in 2.
    async fn write_tables(&self) {
        let context = SessionContext::new();
        for (table, files, sql) in [
            ("facts", 4, format!("SELECT value k, value % 1000 g, (value * 7) % 13 v FROM generate_series(1, {ROWS}) WHERE value % 4 = ")),
            ("names", 2, "SELECT value g, 'group ' || value AS name FROM generate_series(0, 899) WHERE value % 2 = ".to_owned()),
        ] {
            std::fs::create_dir(self.dir.path().join(table)).unwrap();
            for file in 0..files {
                let path = self.dir.path().join(table).join(format!("{file}.parquet")).display().to_string();
                let copy = format!("COPY ({sql}{file}) TO '{path}' STORED AS PARQUET");
                context.sql(&copy).await.unwrap().collect().await.unwrap();
            }
        }
    }

    async fn context(&self, distributed: bool, options: &[(&str, &str)]) -> SessionContext {
        let mut config = session_config(2);
        let ours = [("datafusion.catalog.create_default_catalog_and_schema", "true"), ("datafusion.sql_parser.dialect", "duckdb")];
        for (name, value) in ours.iter().chain(options) {
            config.options_mut().set(name, value).unwrap();
        }
        let builder = |config| functions(state_builder(config, Arc::clone(&self.runtime)));
        let state = match distributed {
            false => builder(config).build(),
            true => {
                let token = QueryToken { query: QueryId::new(uuid::Uuid::new_v4().to_string()), attempt: 1 };
                let mut config = attempt_config(config, &token, self.key.as_ref(), &self.channels).unwrap();
                config.set_distributed_worker_resolver(Fixed(self.urls.clone()));
                config.set_distributed_file_scan_config_bytes_per_partition(1).unwrap();
                builder(config).with_distributed_planner().build()
            }
        };
        let context = SessionContext::new_with_state(state);
        for table in ["facts", "names"] {
            let path = self.dir.path().join(table).display().to_string();
            context.register_parquet(table, format!("{path}/"), ParquetReadOptions::default()).await.unwrap();
        }
        context
    }

    async fn plan(&self, sql: &str, options: &[(&str, &str)]) -> Result<(Arc<dyn ExecutionPlan>, SessionContext)> {
        let context = self.context(true, options).await;
        let plan = context.sql(sql).await?.create_physical_plan().await?;
        Ok((plan, context))
    }

    async fn stream(&self, sql: &str, options: &[(&str, &str)]) -> Result<SendableRecordBatchStream> {
        let (plan, context) = self.plan(sql, options).await?;
        let shown = display_plan_ascii(plan.as_ref(), false);
        assert!(shown.contains("[Stage"), "not distributed: {shown}");
        execute_stream(plan, context.task_ctx())
    }

    async fn rows(&self, sql: &str, options: &[(&str, &str)]) -> Result<String> {
        let mut stream = self.stream(sql, options).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch?);
        }
        Ok(pretty_format_batches(&batches)?.to_string())
    }

    /// Everything is given back: tasks, threads' work, memory.
    async fn is_quiet(&self) {
        let left = || {
            let left = self.runners.iter().map(|runner| {
                let work = runner.threads.as_ref().unwrap().alive_tasks();
                (runner.queries.tasks(), work, runner.memory().reserved())
            });
            left.filter(|left| *left != (0, 0, 0)).collect::<Vec<_>>()
        };
        let start = Instant::now();
        while !left().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(2), "left after 2 s: {:?} (tasks, work, memory)", left());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

const QUERIES: &[&str] = &[
    "SELECT g, count(*), sum(v), min(k), avg(v) FROM facts GROUP BY g ORDER BY g",
    "SELECT name, count(*) n, sum(v) FROM facts JOIN names ON facts.g = names.g GROUP BY name ORDER BY n DESC, name LIMIT 20",
    "SELECT f.k, n.name FROM facts f LEFT JOIN names n ON f.g = n.g WHERE f.k % 997 = 3 ORDER BY f.k",
    "SELECT count(*) FROM facts a JOIN facts b ON a.k = b.k + 1 WHERE a.v = b.v",
    "SELECT g, k, row_number() OVER (PARTITION BY g ORDER BY v, k) r FROM facts WHERE g < 5 ORDER BY g, r LIMIT 50",
    "SELECT count(*) FROM facts WHERE g NOT IN (SELECT g FROM names)",
    "SELECT x, count(*) FROM (SELECT g x FROM facts UNION ALL SELECT g FROM names) GROUP BY x ORDER BY x LIMIT 30",
    "SELECT array_transform(make_array(g, v), e -> e + 1) a, count(*) FROM facts WHERE g < 3 GROUP BY 1 ORDER BY 1",
];

/// No join is broadcast, or none is shuffled.
const JOINS: [&[(&str, &str)]; 2] = [
    &[
        ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
        ("datafusion.optimizer.hash_join_single_partition_threshold_rows", "0"),
    ],
    &[],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executors_give_the_rows_of_one_process() {
    let cluster = Cluster::start(200 * MIB, Some("secret")).await;
    for (options, exchange) in JOINS.into_iter().zip(["NetworkShuffleExec", "NetworkBroadcastExec"]) {
        let (plan, _) = cluster.plan("SELECT facts.k FROM facts JOIN names ON facts.g = names.g", options).await.unwrap();
        let shown = display_plan_ascii(plan.as_ref(), false);
        assert!(shown.contains(exchange), "{shown}");
    }
    for sql in QUERIES {
        let here = cluster.context(false, &[]).await.sql(sql).await.unwrap().collect().await.unwrap();
        let here = pretty_format_batches(&here).unwrap().to_string();
        for options in JOINS {
            let there = cluster.rows(sql, options).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(here, there, "{sql}");
        }
    }
    cluster.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_anywhere_is_an_error() {
    let cluster = Cluster::start(200 * MIB, None).await;
    for sql in [
        "SELECT boom(k) FROM facts",
        "SELECT g, count(*) FROM facts WHERE boom(k) > 0 GROUP BY g",
        "SELECT g, sum(boom(k)) FROM facts GROUP BY g LIMIT 1000",
        "SELECT boom(k), count(*) FROM facts GROUP BY 1",
        "SELECT count(*) FROM facts a JOIN (SELECT k, v FROM facts WHERE boom(k) > 0) b ON a.k = b.k",
        "SELECT count(*) FROM facts JOIN (SELECT g FROM facts WHERE boom(k) > 0 AND k % 100 = 0) b ON facts.g = b.g",
        "SELECT k FROM facts WHERE boom(k) > 0 ORDER BY k DESC",
        "SELECT count(*) FROM (SELECT g, max(k) m FROM facts GROUP BY g) WHERE boom(m) > 0",
        "SELECT k, row_number() OVER (PARTITION BY g ORDER BY boom(k)) FROM facts",
    ] {
        for options in JOINS {
            for _ in 0..3 {
                let error = cluster.rows(sql, options).await.expect_err(sql);
                assert!(is_panic(&error) && error.to_string().contains("that row is bad"), "{sql}: {error}");
            }
        }
    }
    cluster.is_quiet().await;
    cluster.rows(QUERIES[0], &[]).await.expect("others are not harmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_query_stops_and_gives_back_everything() {
    let cluster = Cluster::start(200 * MIB, None).await;
    for sql in [
        "SELECT count(*) FROM facts a JOIN facts b ON a.k < b.k",
        "SELECT a.g, sum(a.v * b.v) FROM facts a JOIN facts b ON a.v = b.v GROUP BY a.g",
        "SELECT a.k FROM facts a CROSS JOIN names b CROSS JOIN facts c",
    ] {
        for options in JOINS {
            let mut stream = cluster.stream(sql, options).await.unwrap();
            let first = timeout(Duration::from_millis(300), stream.next()).await;
            assert!(!matches!(first, Ok(Some(Err(_)) | None)), "{sql}: {first:?}");
            assert!(cluster.runners.iter().any(|runner| runner.queries.tasks() > 0));
            drop(stream);
            cluster.is_quiet().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_holds_too_much_is_told_so() {
    let cluster = Cluster::start(48 * MIB, None).await;
    let wide = "(SELECT k, v, repeat('x', 700 + k % 100) s FROM facts)";
    let sql = format!("SELECT sum(length(a.s) + length(b.s)) FROM {wide} a JOIN {wide} b ON a.k = b.k");
    for options in JOINS {
        let error = cluster.rows(&sql, options).await.unwrap_err();
        assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
        cluster.is_quiet().await;
    }
    let sorted = format!("SELECT k, s FROM {wide} ORDER BY v, k");
    let mut stream = cluster.stream(&sorted, &[("datafusion.execution.batch_size", "512")]).await.unwrap();
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.expect("sorts spill").num_rows();
    }
    assert_eq!(rows as i64, ROWS);
    drop(stream);
    cluster.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_stops_does_not_end_streams_as_complete() {
    let cluster = Cluster::start(200 * MIB, None).await;
    let mut stream = cluster.stream("SELECT a.k FROM facts a JOIN names b ON a.v > b.g % 13", &[]).await.unwrap();
    stream.next().await.unwrap().unwrap();
    cluster.runners[0].close();
    let error = cluster.rows(QUERIES[0], &[]).await.unwrap_err();
    assert!(error.to_string().contains("this executor is stopping"), "{error}");
    cluster.runners[0].abandon();
    let last = timeout(Duration::from_secs(60), async {
        loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    });
    assert!(matches!(last.await.unwrap(), Some(Err(_))), "an abandoned stream must not look complete");
}

/// Says that all went well, after a task that nobody awaits has panicked.
#[derive(Clone)]
struct Optimist;

struct Complete(bool);

impl HttpBody for Complete {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers).unwrap();
        Poll::Ready((!std::mem::replace(&mut self.0, true)).then(|| Ok(Frame::trailers(trailers))))
    }
}

impl Service<Request<Body>> for Optimist {
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;
    type Response = Response<Body>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() == "/bad" {
                let _ = SpawnedTask::spawn(async { panic!("while encoding") }).await;
            }
            Ok(Response::new(Body::new(Complete(false))))
        })
    }
}

#[tokio::test]
async fn the_door_asks_who_is_there_and_vouches_for_every_end() {
    Fate::install();
    let key = Secret::new("k");
    let runtime = Arc::new(RuntimeEnv::default());
    let queries = Queries::new(Limits { memory_bytes: MIB, query_bytes: MIB }, Ages::new(Handle::current(), Duration::MAX), runtime);
    let mut door = Door::new(Optimist, Arc::clone(&queries), Some(key.clone()), Handle::current());
    let token = |query: &str| QueryToken { query: QueryId::new(query), attempt: 1 };
    let mut ask = async |path: &str, headers: HeaderMap| {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        *request.headers_mut() = headers;
        let response = door.call(request).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let mut body = response.into_body();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        Status::from_header_map(frame.trailers_ref().unwrap()).unwrap()
    };
    assert_eq!(ask("/good", HeaderMap::new()).await.code(), Code::PermissionDenied);
    assert_eq!(ask("/good", token("q").headers(None).unwrap()).await.code(), Code::PermissionDenied);
    let ours = |query| token(query).headers(Some(&key)).unwrap();
    assert_eq!(ask("/good", ours("q")).await.code(), Code::Ok);
    let status = ask("/bad", ours("q")).await;
    assert!(status.code() == Code::Internal && status.message().contains("while encoding"), "{status}");
    let task = queries.attempt(&token("r")).unwrap().task();
    assert_eq!((ask("/good", ours("r")).await.code(), queries.tasks()), (Code::Ok, 1));
    queries.close();
    assert_eq!(ask("/good", ours("r")).await.code(), Code::Ok, "queries that run go on");
    assert_eq!(ask("/good", ours("s")).await.code(), Code::Unavailable);
    queries.abandon();
    assert_eq!(ask("/good", ours("r")).await.code(), Code::Unavailable);
    drop(task);
    queries.drained().await;
}

#[tokio::test]
async fn operators_that_nobody_looked_at_do_not_run() {
    let age = Age::new(Ages::new(Handle::current(), Duration::MAX));
    let empty: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
    let (fate, read, runtime) = (Fate::default(), RowsRead::default(), RuntimeEnv::default());
    let prepare = |plan: &Arc<dyn ExecutionPlan>| plan::prepare(Arc::clone(plan), &fate, &age, &read, &runtime);
    let prepared = prepare(&empty).unwrap();
    assert!(prepared.is::<EmptyExec>() && prepared.children().is_empty(), "the shape stays");
    // Ends its rows cleanly when its input panics.
    let unknown: Arc<dyn ExecutionPlan> = Arc::new(BufferExec::new(empty, 1));
    assert!(prepare(&unknown).unwrap_err().to_string().contains("does not run BufferExec"));
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]).unwrap();
    let scan: Arc<dyn ExecutionPlan> =
        MemorySourceConfig::try_new_exec(&[vec![batch.clone(), batch.clone()]], batch.schema(), None).unwrap();
    let prepared = prepare(&scan).unwrap();
    assert_eq!(collect(prepared, Arc::new(TaskContext::default())).await.unwrap().len(), 2);
    assert_eq!(read.get(), 6, "rows of scans are counted");
}
