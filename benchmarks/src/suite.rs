//! What is run: tables, how engines are told of them, and queries.

use std::fs;
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use windlass_client::{Connection, tpch};

use crate::Result;
use crate::generate::{Generated, below, generate};

mod clickbench;
mod h2o;
mod seeds;
mod skew;

/// A benchmark of one data set and a list of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// 22 queries over Hive partitions.
    Tpch,
    /// 99 queries over plain directories; `tests/tpcds/run --export DIR` writes data and queries.
    Tpcds,
    /// 10 groupings and 5 joins of 10 million rows, after db-benchmark.
    H2o,
    /// 29 queries about 10 million page views in one wide table, after ClickBench.
    Clickbench,
    /// The same groupings and joins by keys that come alike often, and by keys of which one makes a third of the rows.
    Skew,
    /// Advertising and flights: partition pruning, sums by ad, clicks joined to the impressions before them.
    Seeds,
}

/// One query of a suite.
#[derive(Debug)]
pub struct Query {
    /// `q01` and so on.
    pub name: String,
    /// Its text.
    pub sql: String,
}

/// One table of a suite, as those need it who read its files themselves.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The directory of its files.
    pub path: PathBuf,
    /// Columns that directories show, and their types as SQL spells them.
    pub keys: Vec<(&'static str, &'static str)>,
}

impl Suite {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpch => "tpch",
            Self::Tpcds => "tpcds",
            Self::H2o => "h2o",
            Self::Clickbench => "clickbench",
            Self::Skew => "skew",
            Self::Seeds => "seeds",
        }
    }

    /// The data directory: generated, or checked to be there.
    pub fn data(self, wanted: Option<&Path>, scale: f64) -> Result<PathBuf> {
        let data = wanted.map_or_else(|| PathBuf::from(format!("{}-data", self.name())), Path::to_path_buf);
        match self {
            Self::Tpch if !data.join("lineitem").exists() => {
                eprintln!("generating TPC-H at scale {scale} in {}", data.display());
                tpch::generate(&data, scale, &|_| ())?;
            }
            Self::Tpcds if !data.join("queries").exists() => {
                return Err(format!("no TPC-DS in '{0}'; write it with: tests/tpcds/run --export {0}", data.display()).into());
            }
            _ => {}
        }
        if let Some(tables) = self.generated() {
            generate(&data, tables, scale)?;
        }
        Ok(data.canonicalize()?)
    }

    /// The directories of the tables, each named as its table.
    pub fn directories(self, data: &Path) -> Result<Vec<PathBuf>> {
        Ok(self.tables(data)?.into_iter().map(|table| table.path).collect())
    }

    /// The tables.
    pub fn tables(self, data: &Path) -> Result<Vec<Table>> {
        if let Some(tables) = self.generated() {
            let table = |table: &Generated| Table {
                name: table.name.into(),
                path: data.join(table.name),
                keys: table.key.iter().map(|key| (key.name, key.sql_type)).collect(),
            };
            return Ok(tables.iter().map(table).collect());
        }
        if self == Self::Tpch {
            let table = |table: &tpch::Table| Table {
                name: table.name.into(),
                path: data.join(table.name),
                keys: table.partitioned_by.iter().map(|key| (key.name, "int")).collect(),
            };
            return Ok(tpch::TABLES.iter().map(table).collect());
        }
        let table = |path: PathBuf| Table { name: file_name(&path), path, keys: Vec::new() };
        Ok(sorted(&data.join("tables"))?.into_iter().map(table).collect())
    }

    /// The queries in order: all, or those named.
    pub fn queries(self, data: &Path, wanted: &[String]) -> Result<Vec<Query>> {
        let mut queries = match self {
            Self::Tpch => tpch::queries().map(|(name, sql)| Query { name: name.to_owned(), sql: sql.to_owned() }).into(),
            Self::Tpcds => {
                let mut queries = Vec::new();
                for file in sorted(&data.join("queries"))? {
                    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    queries.push(Query { name, sql: fs::read_to_string(file)? });
                }
                queries
            }
            Self::H2o => named(include_str!("../queries/h2o.sql")),
            Self::Clickbench => named(include_str!("../queries/clickbench.sql")),
            Self::Skew => named(include_str!("../queries/skew.sql")),
            Self::Seeds => named(include_str!("../queries/seeds.sql")),
        };
        if let Some(unknown) = wanted.iter().find(|name| !queries.iter().any(|query| query.name == **name)) {
            let known = queries.iter().map(|query| query.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("no query '{unknown}' in {}; there are: {known}", self.name()).into());
        }
        queries.retain(|query| wanted.is_empty() || wanted.contains(&query.name));
        Ok(queries)
    }

    /// The how-manieth of many queries that read one partition each; not every suite has them.
    pub fn lookup(self, turn: u64) -> Option<String> {
        match self {
            Self::Tpch => {
                let (year, month) = (1993 + below(1, turn, 5), 1 + below(2, turn, 12));
                let part = 1 + below(3, turn, 200_000);
                Some(format!(
                    "SELECT count(*), sum(l_extendedprice) FROM lineitem WHERE l_shipyear = {year} AND l_shipmonth = {month} AND l_partkey = {part}"
                ))
            }
            Self::Seeds => {
                let (day, ad) = (1 + below(1, turn, 30), below(2, turn, 5_000));
                Some(format!(
                    "SELECT count(*), sum(impressions) FROM impressions WHERE event_date = DATE '2026-06-{day:02}' AND ad_id = 'ad-{ad:05}'"
                ))
            }
            _ => None,
        }
    }

    /// The database that [`create`](Self::create) makes in a Windlass cluster.
    pub fn database(self) -> String {
        format!("{}_bench", self.name())
    }

    /// Makes the tables in a database of a Windlass cluster, replacing older ones. The cluster finds the data in `location`.
    pub async fn create(self, connection: &Connection, data: &Path, location: &str) -> Result<()> {
        let database = self.database();
        let location = location.trim_end_matches('/').replace('\'', "''");
        let mut statements =
            vec![format!("DROP DATABASE IF EXISTS {database} CASCADE"), format!("CREATE DATABASE {database}"), format!("USE {database}")];
        match self {
            Self::Tpch => statements.extend(tpch::TABLES.iter().flat_map(|table| table.ddl(Path::new(&location)))),
            Self::Tpcds => statements.extend(
                self.tables(data)?
                    .iter()
                    .map(|table| format!("CREATE EXTERNAL TABLE {0} STORED AS PARQUET LOCATION '{location}/tables/{0}'", table.name)),
            ),
            _ => {
                for table in self.generated().into_iter().flatten() {
                    statements.extend(table.ddl(&format!("{location}/{}", table.name))?);
                }
            }
        }
        for statement in statements {
            connection.collect(&statement).await?;
        }
        Ok(())
    }

    /// Registers the tables as DataFusion's own listing tables, with the keys that the directories show.
    pub async fn register(self, context: &SessionContext, data: &Path) -> Result<()> {
        for table in self.tables(data)? {
            let keys = table.keys.iter().map(|(name, sql_type)| {
                let data_type = match *sql_type {
                    "int" => DataType::Int32,
                    "date" => DataType::Date32,
                    _ => DataType::Utf8,
                };
                ((*name).to_owned(), data_type)
            });
            let options = ParquetReadOptions::default().table_partition_cols(keys.collect());
            context.register_parquet(table.name, table.path.to_string_lossy(), options).await?;
        }
        Ok(())
    }

    /// The tables of a suite whose data is made of row numbers.
    fn generated(self) -> Option<&'static [Generated]> {
        match self {
            Self::Tpch | Self::Tpcds => None,
            Self::H2o => Some(&h2o::TABLES),
            Self::Clickbench => Some(&clickbench::TABLES),
            Self::Skew => Some(&skew::TABLES),
            Self::Seeds => Some(&seeds::TABLES),
        }
    }
}

/// Queries of a file: each follows a line of its name and what it is about, `-- q01: text`.
fn named(text: &str) -> Vec<Query> {
    let mut queries: Vec<Query> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("-- ").and_then(|line| line.split_once(':')) {
            Some((name, _)) => queries.push(Query { name: name.to_owned(), sql: String::new() }),
            None => queries.iter_mut().last().into_iter().for_each(|query| query.sql.extend([line, "\n"])),
        }
    }
    queries
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
