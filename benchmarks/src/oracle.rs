//! Who knows the right rows, and whether an answer has them.

use std::path::Path;
use std::time::Duration;

use windlass_client::machine;

use crate::Result;
use crate::answer::Answer;
use crate::contender::Contender;
use crate::contender::peer::{Reply, System};
use crate::suite::Suite;

/// Whose rows are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OracleKind {
    /// DuckDB's, of another make than everything here.
    Duckdb,
    /// DataFusion's in one process.
    Datafusion,
    /// The first contender's: for data that only a cluster can read. Says that the others agree with it, no more.
    First,
}

/// Who answers each query first.
pub enum Oracle {
    /// A system of its own.
    Other(Box<Contender>),
    /// The first contender.
    First,
}

impl OracleKind {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Duckdb => "duckdb",
            Self::Datafusion => "datafusion",
            Self::First => "first",
        }
    }

    /// Starts it, with all cores.
    pub async fn start(self, suite: Suite, data: &Path) -> Result<Oracle> {
        let contender = match self {
            Self::Duckdb => Contender::peer(System::Duckdb, None, machine::cores(), suite, data).await?,
            Self::Datafusion => Contender::datafusion(machine::cores(), suite, data).await?,
            Self::First => return Ok(Oracle::First),
        };
        Ok(Oracle::Other(Box::new(contender)))
    }
}

impl Oracle {
    /// The right answer.
    pub async fn answer(&self, sql: &str, contenders: &[Contender], timeout: Duration) -> Result<Answer, String> {
        let contender = match self {
            Self::Other(contender) => contender,
            Self::First => contenders.first().ok_or("there is no contender")?,
        };
        let (answer, _) = answered(contender, sql, timeout).await.map_err(|error| format!("the oracle failed: {error}"))?;
        Ok(answer)
    }
}

/// Runs a query for its rows; tells how long they took to arrive, too.
pub async fn answered(contender: &Contender, sql: &str, timeout: Duration) -> Result<(Answer, Duration), String> {
    let Reply { took, batches, .. } = within(contender, sql, true, timeout).await?;
    let answer = Answer::new(&batches.unwrap_or_default()).map_err(|error| format!("cannot read the rows: {error}"))?;
    Ok((answer, took))
}

/// Runs a query that has failed when time is up.
pub async fn within(contender: &Contender, sql: &str, wanted: bool, timeout: Duration) -> Result<Reply, String> {
    let ran = tokio::time::timeout(timeout, contender.run(sql, wanted)).await;
    ran.map_err(|_| format!("no answer within {} s", timeout.as_secs()))?.map_err(|error| error.to_string())
}
