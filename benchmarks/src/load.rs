//! Many clients at once: how many queries get done, and how long each waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::Result;
use crate::contender::{Contender, Setting, Started};
use crate::generate::below;
use crate::oracle::{answered, within};
use crate::process::{forget_peaks, peaks};
use crate::report::{Measurement, Report, load_average, milliseconds};

/// What stands for a query of one partition, of another key each time.
const LOOKUP: &str = "lookup";
/// Lookups that are compared with the oracle's before any is timed.
const LOOKUPS_CHECKED: u64 = 16;
/// Before times count: connections, caches, and clients that all start at once.
const WARM_UP: Duration = Duration::from_secs(1);

/// What the three have in common.
#[derive(Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    setting: Setting,
    /// Seconds that each step takes.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// `windlass-bench concurrency`.
#[derive(Debug, clap::Args)]
pub struct ConcurrencyArgs {
    #[command(flatten)]
    common: Common,
    /// Numbers of clients, a step each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    clients: Vec<usize>,
    /// Queries that clients mostly ask: names of the suite's, or `lookup`.
    #[arg(long, value_delimiter = ',', default_value = "lookup,q06,q14,q22")]
    light: Vec<String>,
    /// Queries that they ask at times.
    #[arg(long, value_delimiter = ',', default_value = "q09,q18,q21")]
    heavy: Vec<String>,
    /// How many of a hundred are heavy.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=100))]
    heavy_percent: u64,
}

/// `windlass-bench fairness`.
#[derive(Debug, clap::Args)]
pub struct FairnessArgs {
    #[command(flatten)]
    common: Common,
    /// The light query: the name of one of the suite's, or `lookup`.
    #[arg(long, default_value = "q06")]
    light: String,
    /// The heavy ones, which run without a pause.
    #[arg(long, value_delimiter = ',', default_value = "q09,q21")]
    heavy: Vec<String>,
    /// Numbers of clients with heavy queries, a step each; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2])]
    beside: Vec<usize>,
    /// Milliseconds between two light queries.
    #[arg(long, default_value_t = 50)]
    pause: u64,
}

/// `windlass-bench lookup`.
#[derive(Debug, clap::Args)]
pub struct LookupArgs {
    #[command(flatten)]
    common: Common,
    /// Numbers of clients, a step each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    clients: Vec<usize>,
}

/// One client's share of a step.
struct Client {
    session: Contender,
    /// A name and a text for the how-manieth query.
    next: Box<dyn Fn(u64) -> (&'static str, String) + Send + Sync>,
    /// Between two queries.
    pause: Duration,
}

/// What a client saw: the kind of query, when it was done, and its time or error.
type Seen = Vec<(&'static str, Result<f64, String>)>;

/// A contender at work.
struct Bench {
    common: Common,
    data: PathBuf,
    contenders: Vec<Contender>,
    report: Report,
}

/// Clients that ask light and heavy queries in a fixed mixture: throughput and latencies of both kinds.
pub async fn concurrency(args: ConcurrencyArgs) -> Result<()> {
    let mut bench = Bench::open(args.common, "concurrency", args.light.iter().chain(&args.heavy)).await?;
    let (light, heavy) = (bench.texts(&args.light)?, bench.texts(&args.heavy)?);
    Bench::print_header("clients");
    for number in 0..bench.contenders.len() {
        for clients in &args.clients {
            let mut step = Vec::new();
            for client in 0..*clients as u64 {
                let (light, heavy, heavy_percent) = (Arc::clone(&light), Arc::clone(&heavy), args.heavy_percent);
                let next = move |turn| {
                    let row = (client << 32) | turn;
                    let (kind, texts) = if below(1, row, 100) < heavy_percent { ("heavy", &heavy) } else { ("light", &light) };
                    (kind, texts.get(below(2, row, texts.len() as u64) as usize).map_or_else(String::new, |text| text(row)))
                };
                step.push(Client { session: bench.session(number).await?, next: Box::new(next), pause: Duration::ZERO });
            }
            bench.step(number, &format!("clients {clients}"), step, Vec::new()).await?;
        }
    }
    Ok(())
}

/// A light query's times alone, and beside heavy ones.
pub async fn fairness(args: FairnessArgs) -> Result<()> {
    let mut bench = Bench::open(args.common, "fairness", args.heavy.iter().chain([&args.light])).await?;
    let (light, heavy) = (bench.texts(std::slice::from_ref(&args.light))?, bench.texts(&args.heavy)?);
    Bench::print_header("beside");
    for number in 0..bench.contenders.len() {
        let mut alone = None;
        for beside in &args.beside {
            let mut others = Vec::new();
            for client in 0..*beside as u64 {
                let heavy = Arc::clone(&heavy);
                let next =
                    move |turn| ("heavy", heavy.get((client + turn) as usize % heavy.len()).map_or_else(String::new, |text| text(turn)));
                others.push(Client { session: bench.session(number).await?, next: Box::new(next), pause: Duration::ZERO });
            }
            let light = Arc::clone(&light);
            let next = move |turn| ("light", light.first().map_or_else(String::new, |text| text(turn)));
            let client = Client { session: bench.session(number).await?, next: Box::new(next), pause: Duration::from_millis(args.pause) };
            let name = format!("beside {beside} heavy");
            bench.step(number, &name, vec![client], others).await?;
            let p95 =
                bench.report.results.iter().rfind(|one| one.query == format!("light, {name}")).and_then(|one| one.percentile_ms(95.0));
            match (alone, p95) {
                (Some(alone), Some(p95)) => println!("{}\tp95 of the light query {name}: {:.1} times", bench.name(number), p95 / alone),
                (None, p95) => alone = p95,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Lookups in one partition each, from warm connections.
pub async fn lookup(args: LookupArgs) -> Result<()> {
    let mut bench = Bench::open(args.common, "lookup", [&LOOKUP.to_owned()]).await?;
    let lookup = bench.texts(&[LOOKUP.to_owned()])?;
    Bench::print_header("clients");
    for number in 0..bench.contenders.len() {
        for clients in &args.clients {
            let mut step = Vec::new();
            for client in 0..*clients as u64 {
                let lookup = Arc::clone(&lookup);
                let next = move |turn| (LOOKUP, lookup.first().map_or_else(String::new, |text| text((client << 32) | turn)));
                step.push(Client { session: bench.session(number).await?, next: Box::new(next), pause: Duration::ZERO });
            }
            bench.step(number, &format!("clients {clients}"), step, Vec::new()).await?;
        }
    }
    Ok(())
}

/// A query's text for the how-manieth time.
type Text = Box<dyn Fn(u64) -> String + Send + Sync>;

impl Bench {
    /// Starts everybody and checks the rows of all queries by these names on every contender.
    async fn open<'a>(common: Common, what: &str, names: impl IntoIterator<Item = &'a String>) -> Result<Self> {
        let timeout = common.setting.timeout();
        let Started { data, contenders, oracle, report } = common.setting.open(&format!("{what}-{}", common.setting.suite.name())).await?;
        let bench = Self { common, data, contenders, report };
        for name in names {
            let texts = bench.texts(std::slice::from_ref(name))?;
            let turns = if name == LOOKUP { LOOKUPS_CHECKED } else { 1 };
            for sql in texts.iter().flat_map(|text| (0..turns).map(text)) {
                let right = oracle.answer(&sql, &bench.contenders, timeout).await?;
                for contender in &bench.contenders {
                    let (answer, _) =
                        answered(contender, &sql, timeout).await.map_err(|error| format!("{name} on {}: {error}", contender.name))?;
                    if let Some(difference) = answer.difference(&right) {
                        return Err(format!("{name} on {}: {difference}", contender.name).into());
                    }
                }
            }
        }
        Ok(bench)
    }

    /// The queries of these names.
    fn texts(&self, names: &[String]) -> Result<Arc<[Text]>> {
        let mut texts: Vec<Text> = Vec::new();
        for name in names {
            let suite = self.common.setting.suite;
            if name == LOOKUP {
                suite.lookup(0).ok_or_else(|| format!("{} has no lookup; tpch and seeds have", suite.name()))?;
                texts.push(Box::new(move |turn| suite.lookup(turn).unwrap_or_default()));
            } else {
                let sql = suite.queries(&self.data, std::slice::from_ref(name))?.pop().map(|query| query.sql).unwrap_or_default();
                texts.push(Box::new(move |_| sql.clone()));
            }
        }
        Ok(texts.into())
    }

    fn name(&self, number: usize) -> &str {
        self.contenders.get(number).map_or("", |contender| &contender.name)
    }

    async fn session(&self, number: usize) -> Result<Contender> {
        self.contenders.get(number).ok_or("no such contender")?.session().await
    }

    fn print_header(step: &str) {
        println!("contender\t{step}\tquery\tdone\tfailed\tper second\tp50 ms\tp95 ms\tp99 ms\tmost ms");
    }

    /// Runs clients for a while beside others that keep going; prints and records what they saw, by kind of query.
    async fn step(&mut self, number: usize, name: &str, clients: Vec<Client>, others: Vec<Client>) -> Result<()> {
        let contender = self.contenders.get(number).ok_or("no such contender")?;
        let timeout = self.common.setting.timeout();
        let over = Arc::new(AtomicBool::new(false));
        let load = load_average();
        forget_peaks(&contender.pids);
        let start = Instant::now();
        let end = start + WARM_UP + Duration::from_secs(self.common.seconds);
        let go = |client: Client| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let mut seen: Seen = Vec::new();
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) || Instant::now() > end {
                        break;
                    }
                    let (kind, sql) = (client.next)(turn);
                    let asked = Instant::now();
                    let outcome = within(&client.session, &sql, false, timeout).await;
                    if asked > start + WARM_UP {
                        seen.push((kind, outcome.map(|_| milliseconds(asked.elapsed()))));
                    }
                    tokio::time::sleep(client.pause).await;
                }
                seen
            })
        };
        let others: Vec<_> = others.into_iter().map(go).collect();
        let clients: Vec<_> = clients.into_iter().map(go).collect();
        let mut seen: Seen = join_all(clients).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let seconds = (start + WARM_UP).elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        seen.extend(join_all(others).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten());

        let mut kinds: Vec<_> = seen.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let mut one = Measurement { load, seconds: Some(seconds), ..Measurement::new(&format!("{kind}, {name}"), &contender.name) };
            let outcomes = seen.iter().filter(|(other, _)| *other == kind).map(|(_, outcome)| outcome);
            let mut failed = 0;
            for outcome in outcomes {
                match outcome {
                    Ok(took) => one.runs_ms.push(*took),
                    Err(error) => (failed, one.error) = (failed + 1, Some(error.clone())),
                }
            }
            one.peak_bytes = peaks(&contender.pids);
            let done = one.runs_ms.len();
            let times =
                [50.0, 95.0, 99.0, 100.0].map(|percent| one.percentile_ms(percent).map_or_else(|| "-".into(), |time| format!("{time:.1}")));
            let rate = done as f64 / seconds;
            println!("{}\t{name}\t{kind}\t{done}\t{failed}\t{rate:.1}\t{}", contender.name, times.join("\t"));
            if let Some(error) = &one.error {
                eprintln!("{kind}, {name} on {}: {failed} failed, the last: {error}", contender.name);
            }
            self.report.results.push(one);
        }
        self.common.setting.write(&self.report)
    }
}
