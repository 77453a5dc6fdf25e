//! What is run: tables, how engines are told of them, and queries.

use std::fs;
use std::path::{Path, PathBuf};

use datafusion::prelude::{ParquetReadOptions, SessionContext};
use windlass_client::{Connection, tpch};

use crate::Result;

/// A benchmark of one data set and a list of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// 22 queries over Hive partitions; the data is generated if it does not exist.
    Tpch,
    /// 99 queries over plain directories; `tests/tpcds/run --export DIR` writes data and queries.
    Tpcds,
}

/// One query of a suite.
#[derive(Debug)]
pub struct Query {
    /// `q01` and so on.
    pub name: String,
    /// Its text.
    pub sql: String,
}

impl Suite {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpch => "tpch",
            Self::Tpcds => "tpcds",
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
        Ok(data.canonicalize()?)
    }

    /// The directories of the tables, each named as its table.
    pub fn directories(self, data: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Self::Tpch => Ok(tpch::TABLES.iter().map(|table| data.join(table.name)).collect()),
            Self::Tpcds => sorted(&data.join("tables")),
        }
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
        };
        if let Some(unknown) = wanted.iter().find(|name| !queries.iter().any(|query| query.name == **name)) {
            return Err(format!("no query '{unknown}' in {}; they are named as in q01", self.name()).into());
        }
        queries.retain(|query| wanted.is_empty() || wanted.contains(&query.name));
        Ok(queries)
    }

    /// Makes the tables in a database of a Windlass cluster, replacing older ones, and uses it.
    pub async fn create(self, connection: &Connection, data: &Path) -> Result<()> {
        let database = format!("{}_bench", self.name());
        for statement in
            [format!("DROP DATABASE IF EXISTS {database} CASCADE"), format!("CREATE DATABASE {database}"), format!("USE {database}")]
        {
            connection.collect(&statement).await?;
        }
        let statements = match self {
            Self::Tpch => tpch::TABLES.iter().flat_map(|table| table.ddl(data)).collect(),
            Self::Tpcds => {
                let table =
                    |path: &PathBuf| format!("CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}'", file_name(path), path.display());
                sorted(&data.join("tables"))?.iter().map(table).collect::<Vec<_>>()
            }
        };
        for statement in statements {
            connection.collect(&statement).await?;
        }
        Ok(())
    }

    /// Registers the tables as DataFusion's own listing tables, with the keys that the directories show.
    pub async fn register(self, context: &SessionContext, data: &Path) -> Result<()> {
        match self {
            Self::Tpch => {
                for table in tpch::TABLES {
                    let keys: Vec<&str> = table.partitioned_by.iter().map(|key| key.name).collect();
                    let partitioned = if keys.is_empty() { String::new() } else { format!("PARTITIONED BY ({})", keys.join(", ")) };
                    let path = data.join(table.name);
                    let statement =
                        format!("CREATE EXTERNAL TABLE {} STORED AS PARQUET {partitioned} LOCATION '{}/'", table.name, path.display());
                    context.sql(&statement).await?;
                }
            }
            Self::Tpcds => {
                for path in sorted(&data.join("tables"))? {
                    context.register_parquet(file_name(&path), &*path.to_string_lossy(), ParquetReadOptions::default()).await?;
                }
            }
        }
        Ok(())
    }
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
