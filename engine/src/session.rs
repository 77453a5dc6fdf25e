//! Defaults of a query and the few options that users may set. Every default that differs from DataFusion's or Ballista's has its reason.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ballista_core::extension::SessionConfigExt;
use datafusion::arrow::ipc::CompressionType;
use datafusion::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;

use crate::MESSAGE_BYTES_MAX;
use crate::cooperation::PauseAboveJoinsRule;
use crate::dialect::Dialect;
use crate::exact_casts::ExactCastsRule;
use crate::functions::{IgnoredNullsRule, with_functions};
use crate::guards::{GuardedArgumentsRule, GuardedConditionsRule, GuardedValuesRule};
use crate::not_in::NotInRule;
use crate::set_operations::SetOperationsRule;
use crate::single_row::SingleRowRule;
use crate::subqueries::{MarksRule, SubqueriesRule};
use crate::text_casts::TextCastsRule;
use crate::top_rows::TopRowsRule;
use crate::zeros::{ZeroKeysRule, ZerosRule};

/// Which engine runs a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// Chosen per query.
    #[default]
    Auto,
    /// In the scheduler's process.
    Local,
    /// On the executors, stages streaming to each other.
    Pipelined,
    /// On the executors, every exchange kept until the query ends.
    Staged,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Local => "local",
            Self::Pipelined => "pipelined",
            Self::Staged => "staged",
        })
    }
}

impl FromStr for EngineChoice {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "local" => Ok(Self::Local),
            "pipelined" => Ok(Self::Pipelined),
            "staged" => Ok(Self::Staged),
            _ => Err(DataFusionError::Configuration(format!("'windlass.engine' is auto, local, pipelined or staged, not '{text}'"))),
        }
    }
}

/// In which order a query's joins are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinOrder {
    /// The one that is estimated to cost least.
    #[default]
    Cost,
    /// As the query says, but no products that it does not ask for.
    Written,
}

impl fmt::Display for JoinOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cost => "cost",
            Self::Written => "written",
        })
    }
}

impl FromStr for JoinOrder {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "cost" => Ok(Self::Cost),
            "written" => Ok(Self::Written),
            _ => Err(DataFusionError::Configuration(format!("'windlass.join_order' is cost or written, not '{text}'"))),
        }
    }
}

/// How rows are packed that pass between processes while a query runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExchangeCompression {
    /// Not at all between processes of one machine, else by LZ4.
    #[default]
    Auto,
    /// Not at all, for networks that are faster than a core compresses.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard, for slow networks.
    Zstd,
}

impl ExchangeCompression {
    /// As Arrow calls it, for rows that stay on one machine or do not.
    pub fn codec(self, on_one_machine: bool) -> Option<CompressionType> {
        match self {
            Self::Auto if on_one_machine => None,
            Self::None => None,
            Self::Auto | Self::Lz4 => Some(CompressionType::LZ4_FRAME),
            Self::Zstd => Some(CompressionType::ZSTD),
        }
    }
}

impl fmt::Display for ExchangeCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for ExchangeCompression {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(DataFusionError::Configuration(format!("'windlass.exchange_compression' is auto, none, lz4 or zstd, not '{text}'"))),
        }
    }
}

/// Which materialized views queries read in the place of the tables below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UseMaterializedViews {
    /// None.
    Off,
    /// Fresh ones whose tables have files that nobody else can change.
    #[default]
    On,
    /// Also those of external tables, as far as the catalog knows these.
    All,
}

impl fmt::Display for UseMaterializedViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::All => "all",
        })
    }
}

impl FromStr for UseMaterializedViews {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "off" | "false" => Ok(Self::Off),
            "on" | "true" => Ok(Self::On),
            "all" => Ok(Self::All),
            _ => Err(DataFusionError::Configuration(format!("'windlass.use_materialized_views' is off, on or all, not '{text}'"))),
        }
    }
}

/// Options of ours, under the prefix `windlass`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindlassOptions {
    /// In whose SQL statements are written.
    pub dialect: Dialect,
    /// Whether small sides of joins are read first, so that scans can leave partitions out.
    pub dynamic_partition_pruning: bool,
    /// Which engine runs queries.
    pub engine: EngineChoice,
    /// How rows are packed between processes of the pipelined engine.
    pub exchange_compression: ExchangeCompression,
    /// In which order joins are made.
    pub join_order: JoinOrder,
    /// Bytes a query may scan to be run in the scheduler when the engine is `auto`.
    pub local_scan_bytes_max: u64,
    /// Partitions a scan may keep after pruning.
    pub max_partitions_per_scan: usize,
    /// Bytes that each part of a query may scan which is run before the rest is planned; 0 is none.
    pub prelude_scan_bytes_max: u64,
    /// Seconds a query may run; 0 is no limit.
    pub query_timeout_s: u64,
    /// Which materialized views queries read in the place of the tables below them.
    pub use_materialized_views: UseMaterializedViews,
}

impl Default for WindlassOptions {
    fn default() -> Self {
        Self {
            dialect: Dialect::Generic,
            dynamic_partition_pruning: true,
            engine: EngineChoice::Auto,
            exchange_compression: ExchangeCompression::Auto,
            join_order: JoinOrder::Cost,
            // What one core decodes in some tens of milliseconds: a distributed query spends that on launching stages.
            local_scan_bytes_max: 4 * 1024 * 1024,
            max_partitions_per_scan: 100_000,
            // A dimension, or the footers of some thousand files; one core reads either well within a second.
            prelude_scan_bytes_max: 16 * 1024 * 1024,
            query_timeout_s: 0,
            use_materialized_views: UseMaterializedViews::On,
        }
    }
}

impl WindlassOptions {
    /// The options in a configuration that [`session_config`] made, or the defaults.
    pub fn of(options: &ConfigOptions) -> Self {
        options.extensions.get::<Self>().cloned().unwrap_or_default()
    }
}

impl ConfigExtension for WindlassOptions {
    const PREFIX: &'static str = "windlass";
}

impl ExtensionOptions for WindlassOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        fn number<T: FromStr>(key: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| DataFusionError::Configuration(format!("'windlass.{key}' is a whole number, not '{value}'")))
        }
        match key {
            "dialect" => self.dialect = value.parse()?,
            "dynamic_partition_pruning" => {
                self.dynamic_partition_pruning = value.to_ascii_lowercase().parse().map_err(|_| {
                    DataFusionError::Configuration(format!("'windlass.dynamic_partition_pruning' is true or false, not '{value}'"))
                })?;
            }
            "engine" => self.engine = value.parse()?,
            "exchange_compression" => self.exchange_compression = value.parse()?,
            "join_order" => self.join_order = value.parse()?,
            "local_scan_bytes_max" => self.local_scan_bytes_max = number(key, value)?,
            "max_partitions_per_scan" => self.max_partitions_per_scan = number(key, value)?,
            "prelude_scan_bytes_max" => self.prelude_scan_bytes_max = number(key, value)?,
            "query_timeout_s" => self.query_timeout_s = number(key, value)?,
            "use_materialized_views" => self.use_materialized_views = value.parse()?,
            _ => return Err(DataFusionError::Configuration(format!("option 'windlass.{key}' does not exist"))),
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        [
            ("windlass.dialect", self.dialect.to_string()),
            ("windlass.dynamic_partition_pruning", self.dynamic_partition_pruning.to_string()),
            ("windlass.engine", self.engine.to_string()),
            ("windlass.exchange_compression", self.exchange_compression.to_string()),
            ("windlass.join_order", self.join_order.to_string()),
            ("windlass.local_scan_bytes_max", self.local_scan_bytes_max.to_string()),
            ("windlass.max_partitions_per_scan", self.max_partitions_per_scan.to_string()),
            ("windlass.prelude_scan_bytes_max", self.prelude_scan_bytes_max.to_string()),
            ("windlass.query_timeout_s", self.query_timeout_s.to_string()),
            ("windlass.use_materialized_views", self.use_materialized_views.to_string()),
        ]
        .map(|(key, value)| ConfigEntry { key: key.to_owned(), value: Some(value), description: describe(key) })
        .into()
    }
}

/// Options that users may set, with what they do. Everything else is refused: most other options break a distributed plan, reach other
/// users' resources or the file system.
pub const SETTABLE: &[(&str, &str)] = &[
    ("windlass.dialect", "in whose SQL statements are written: generic (DataFusion's), spark, hive, presto or ansi"),
    ("windlass.dynamic_partition_pruning", "read small sides of joins first, so that scans can leave partitions out"),
    ("windlass.engine", "where queries run: auto, local (in the scheduler), pipelined or staged (on the executors)"),
    ("windlass.exchange_compression", "how the pipelined engine packs rows between processes: auto, lz4, none or zstd"),
    ("windlass.join_order", "order of joins: cost (the cheapest by estimates) or written (as in the query)"),
    ("windlass.local_scan_bytes_max", "bytes a query may scan to be run in the scheduler when the engine is auto"),
    ("windlass.max_partitions_per_scan", "partitions a scan may keep after pruning; more is an error"),
    (
        "windlass.prelude_scan_bytes_max",
        "bytes that a subquery or a side of a join may scan to be run before the rest is planned; 0 is none",
    ),
    ("windlass.query_timeout_s", "seconds a query may run; 0 is no limit"),
    (
        "windlass.use_materialized_views",
        "read fresh materialized views instead of their tables: off, on, or all (those of external tables, too)",
    ),
    ("datafusion.execution.target_partitions", "partitions a stage is cut into; defaults to the cluster's slots"),
    (PARTITIONS_PER_TASK, "partitions that a task of the staged engine takes at most; 0 is as many as its executor has free slots"),
    ("datafusion.execution.batch_size", "rows per batch"),
    ("datafusion.execution.time_zone", "zone of now() and of TIMESTAMP WITH TIME ZONE, as an offset"),
    ("datafusion.execution.enable_ansi_mode", "errors instead of NULL where the SQL standard wants them"),
    ("datafusion.execution.parquet.pushdown_filters", "evaluate filters while decoding Parquet"),
    ("datafusion.optimizer.prefer_hash_join", "hash joins instead of sort-merge joins, which can spill"),
    ("datafusion.optimizer.hash_join_single_partition_threshold", "bytes up to which a join's build side is broadcast"),
    ("datafusion.optimizer.enable_sort_pushdown", "the order of rows within files is used where rows are sorted"),
    ("datafusion.sql_parser.parse_float_as_decimal", "read 1.5 as DECIMAL instead of DOUBLE"),
    ("datafusion.sql_parser.default_null_ordering", "where NULL sorts: nulls_max, nulls_min, nulls_first or nulls_last"),
    ("datafusion.explain.format", "format of EXPLAIN: indent, tree, pgjson or graphviz"),
    ("datafusion.explain.logical_plan_only", "EXPLAIN shows the logical plan only"),
    ("datafusion.explain.physical_plan_only", "EXPLAIN shows the physical plan only"),
    ("datafusion.explain.show_statistics", "EXPLAIN shows estimated rows and bytes"),
    ("datafusion.explain.show_schema", "EXPLAIN shows schemas"),
];

/// Options that change what a query means. The dialect does, too, but a view has its own.
const MEANING: [&str; 4] = [
    "datafusion.execution.time_zone",
    "datafusion.execution.enable_ansi_mode",
    "datafusion.sql_parser.parse_float_as_decimal",
    "datafusion.sql_parser.default_null_ordering",
];

/// Names and default values of the options that change what a query means.
pub fn meaning() -> Vec<(String, String)> {
    meaning_of(session_config(1).options())
}

/// Names and values of the options that change what a query means.
pub fn meaning_of(options: &ConfigOptions) -> Vec<(String, String)> {
    let entries = options.entries().into_iter().filter(|entry| MEANING.contains(&entry.key.as_str()));
    entries.map(|entry| (entry.key, entry.value.unwrap_or_default())).collect()
}

/// Ballista reads it as a number wherever it binds tasks.
const PARTITIONS_PER_TASK: &str = "ballista.scheduler.max_partitions_per_task";

/// Most partitions a stage may be asked for: an exchange makes the square of it in shuffle blocks.
const TARGET_PARTITIONS_MAX: usize = 4096;

fn describe(name: &str) -> &'static str {
    SETTABLE.iter().find(|(key, _)| *key == name).map_or("", |(_, doc)| doc)
}

/// Sets one option for a user. Errors: an option outside of [`SETTABLE`], a value it does not take.
pub fn set_option(options: &mut ConfigOptions, name: &str, value: &str) -> Result<()> {
    let name = name.to_ascii_lowercase();
    if !SETTABLE.iter().any(|(key, _)| *key == name) {
        let prefixes = SETTABLE.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
        return Err(DataFusionError::Configuration(format!("option '{name}' cannot be set; these can: {prefixes}")));
    }
    let least = match name.as_str() {
        "datafusion.execution.target_partitions" => Some(1),
        PARTITIONS_PER_TASK => Some(0),
        _ => None,
    };
    if let Some(least) = least
        && !value.parse().is_ok_and(|count: usize| (least..=TARGET_PARTITIONS_MAX).contains(&count))
    {
        return Err(DataFusionError::Configuration(format!("'{name}' is a number from {least} to {TARGET_PARTITIONS_MAX}, not '{value}'")));
    }
    let previous = options.clone();
    options.set(&name, value).inspect_err(|_| *options = previous)
}

/// What we change of DataFusion's and Ballista's defaults.
const DEFAULTS: &[(&str, &str)] = &[
    // Names.
    ("datafusion.catalog.default_catalog", "hive"),
    ("datafusion.catalog.default_schema", "default"),
    // Ours is the only catalog.
    ("datafusion.catalog.create_default_catalog_and_schema", "false"),
    // The catalog's, which has comments.
    ("datafusion.catalog.information_schema", "false"),
    // Errors point at the place in the text.
    ("datafusion.sql_parser.collect_spans", "true"),
    // An offset, because zone names need a time zone database on every executor.
    ("datafusion.execution.time_zone", "+00:00"),
    // The adaptive planner hangs when a finished stage's output is lost (Ballista #1986); the static one re-runs the stage.
    ("ballista.planner.adaptive.enabled", "false"),
    // Hash joins do not spill, but are twice as fast where they fit. The staged engine sorts for a join whose estimated build side does
    // not.
    ("datafusion.optimizer.prefer_hash_join", "true"),
    // Broadcast up to 64 MiB: every task reads and builds that side again, so more costs memory on small executors. Measured on TPC-H at
    // scale 1 against DataFusion's 1 MiB: 17 % less time.
    ("datafusion.optimizer.hash_join_single_partition_threshold", "67108864"),
    ("ballista.optimizer.broadcast_join_threshold_bytes", "67108864"),
    // As many rows where their bytes are not known, 32 bytes each. DataFusion's 131,072 shuffle both sides of most joins of a warehouse:
    // TPC-H at scale 1 takes 5 % less time with this, q18 20 % less.
    ("datafusion.optimizer.hash_join_single_partition_threshold_rows", "2097152"),
    // Scans are cut by bytes already, into no more groups than pay; DataFusion would cut them again, into as many as there are slots.
    ("datafusion.optimizer.repartition_file_scans", "false"),
    // All pools are bounded, so the pool says when a shuffle writer spills; Ballista's 256 MiB per task would be a second budget beside it.
    ("ballista.shuffle.sort_based.memory_limit_per_task_bytes", "0"),
    // No compression costs twice the time in Ballista's own measurements; zstd pays only on slow networks.
    ("ballista.shuffle.compression.codec", "lz4"),
    // A lost executor refuses connections at once: 5 tries in a second tell, where Ballista's 3 s pauses stall the reader for 9 s.
    ("ballista.client.io_retries_times", "5"),
    ("ballista.client.io_retry_wait_time_ms", "200"),
    // A host that vanished does not refuse: stop waiting for it well within the executor timeout of 12 s.
    ("ballista.client.grpc_connect_timeout_seconds", "3"),
    ("ballista.client.grpc_http2_keepalive_interval_seconds", "5"),
];

/// The configuration a session starts with, for a cluster of `slots` slots.
pub fn session_config(slots: usize) -> SessionConfig {
    let mut config = SessionConfig::new_with_ballista()
        .with_option_extension(WindlassOptions::default())
        // One partition per slot: more, and small queries spend their time on launching tasks (16 instead of 2 partitions on 2 slots made
        // TPC-H at scale 1 take 1.8 times as long); fewer, and slots idle.
        .with_target_partitions(slots.clamp(1, TARGET_PARTITIONS_MAX))
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES_MAX);
    for (name, value) in DEFAULTS {
        config.options_mut().set(name, value).expect("a test sets every default");
    }
    config
}

/// A session with our functions and rules; the caller adds catalogs and planners.
pub fn state_builder(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionStateBuilder {
    with_functions(SessionStateBuilder::new())
        .with_config(config)
        .with_runtime_env(runtime)
        .with_analyzer_rule(Arc::new(ExactCastsRule))
        .with_analyzer_rule(Arc::new(IgnoredNullsRule))
        .with_analyzer_rule(Arc::new(TextCastsRule))
        .with_analyzer_rule(Arc::new(ZerosRule))
        .with_analyzer_rule(Arc::new(GuardedArgumentsRule))
        .with_analyzer_rule(Arc::new(SetOperationsRule))
        .with_analyzer_rule(Arc::new(TopRowsRule))
        .with_analyzer_rule(Arc::new(SubqueriesRule))
        .with_analyzer_rule(Arc::new(NotInRule))
        .with_analyzer_rule(Arc::new(SingleRowRule))
        .with_optimizer_rules(optimizer_rules())
        .with_physical_optimizer_rules(physical_optimizer_rules())
        .with_physical_optimizer_rule(Arc::new(GuardedConditionsRule))
        .with_physical_optimizer_rule(Arc::new(PauseAboveJoinsRule))
}

/// DataFusion's rules and Ballista's rewrite of NOT IN, without which such a join runs in a single task, marks right after those that
/// DataFusion makes, and keys of joins once they are known.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = ballista_core::optimizer::ballista_default_optimizer_rules();
    let after = rules.iter().position(|rule| rule.name() == DecorrelatePredicateSubquery::new().name());
    rules.insert(after.map_or(rules.len(), |place| place + 1), Arc::new(MarksRule));
    rules.push(Arc::new(ZeroKeysRule));
    rules
}

/// DataFusion's rules, behind ours that come first.
pub fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.insert(0, Arc::new(GuardedValuesRule));
    rules
}

#[cfg(test)]
mod tests {
    use ballista_core::extension::SessionConfigHelperExt;

    use super::*;

    #[test]
    fn defaults_are_accepted_and_reach_executors() {
        let pairs = session_config(3).to_key_value_pairs();
        let executor = session_config(1).update_from_key_value_pair(&pairs);
        let value = |name: &str| executor.options().entries().into_iter().find(|entry| entry.key == name).and_then(|entry| entry.value);
        for (name, expected) in DEFAULTS {
            assert_eq!(value(name).as_deref(), Some(*expected), "{name}");
        }
        assert_eq!(executor.target_partitions(), 3);
        assert_eq!(executor.ballista_grpc_client_max_message_size(), MESSAGE_BYTES_MAX);
        assert!(!executor.options().optimizer.enable_physical_uncorrelated_scalar_subquery);
    }

    #[test]
    fn users_set_what_is_listed_and_nothing_else() {
        let mut config = session_config(2);
        let entries = config.options().entries();
        for (name, doc) in SETTABLE {
            assert!(entries.iter().any(|entry| entry.key == *name), "{name} exists");
            assert!(!doc.is_empty());
        }
        let options = config.options_mut();
        set_option(options, "windlass.engine", "STAGED").unwrap();
        assert_eq!(WindlassOptions::of(options).engine, EngineChoice::Staged);
        for (name, value) in [
            ("windlass.dialect", "cobol"),
            ("windlass.engine", "distributed"),
            ("distributed.broadcast_joins", "false"),
            ("windlass.dynamic_partition_pruning", "perhaps"),
            ("windlass.join_order", "random"),
            ("windlass.query_timeout_s", "-1"),
            ("windlass.nothing", "1"),
            ("datafusion.execution.target_partitions", "0"),
            ("datafusion.execution.target_partitions", "100000"),
            ("ballista.scheduler.max_partitions_per_task", "few"),
            ("datafusion.execution.batch_size", "many"),
            ("datafusion.optimizer.enable_dynamic_filter_pushdown", "true"),
            ("ballista.testing.chaos_execution.enabled", "true"),
            ("datafusion.runtime.memory_limit", "1G"),
        ] {
            assert!(set_option(options, name, value).is_err(), "{name} = {value}");
        }
        assert_eq!(options.execution.target_partitions, 2);
    }
}
