//! Which stripes of an ORC file are read, and when.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Statistics;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::PruningMetrics;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;

use super::Scan;
use super::tail::Tail;
use super::wire::StripeInformation;
use crate::bounds::may_satisfy;

/// Most bytes of a stripe, as it lies in the file, that is fetched while rows are still made of the one before.
const AHEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// Which stripes may hold rows that are wanted.
pub(super) struct Choice {
    columns: SchemaRef,
    /// By stripe, of the columns.
    said: Vec<Statistics>,
    condition: Arc<dyn PhysicalExpr>,
    counted: PruningMetrics,
}

impl Choice {
    /// None if the file does not say enough. Errors: those of the store.
    pub(super) async fn new(
        tail: &Tail,
        store: &dyn ObjectStore,
        file: &Path,
        columns: SchemaRef,
        (condition, counted): (Arc<dyn PhysicalExpr>, PruningMetrics),
    ) -> Result<Option<Self>> {
        let said = super::statistics::stripes(tail, store, file, &columns).await?;
        Ok(said.map(|said| Self { columns, said, condition, counted }))
    }

    /// By what is known now: joins and sorts learn what they want while they run.
    fn may_want(&self, place: usize) -> bool {
        let wanted = || may_satisfy(Arc::clone(&self.condition), &self.columns, &[self.said.get(place)?])?.first().copied();
        // A condition that statistics cannot answer is left to those who see the rows.
        let wanted = wanted().unwrap_or(true);
        match wanted {
            true => self.counted.add_matched(1),
            false => self.counted.add_pruned(1),
        }
        wanted
    }
}

/// The stripes of a file that are still to be read.
pub(super) struct Stripes {
    scan: Arc<Scan>,
    left: Peekable<vec::IntoIter<(usize, StripeInformation)>>,
    choice: Option<Choice>,
    ahead: Option<SpawnedTask<Result<Rows>>>,
}

impl Stripes {
    /// Those at these places of the file.
    pub(super) fn new(scan: Arc<Scan>, stripes: Vec<(usize, StripeInformation)>, choice: Option<Choice>) -> Self {
        Self { scan, left: stripes.into_iter().peekable(), choice, ahead: None }
    }

    /// Reads one after the other.
    pub(super) fn rows(self) -> Rows {
        stream::try_unfold(self, Self::next).try_flatten().boxed()
    }

    async fn next(mut self) -> Result<Option<(Rows, Self)>> {
        let Some(fetching) = self.ahead.take().or_else(|| self.fetch(u64::MAX)) else { return Ok(None) };
        let rows = fetching.join().await.map_err(|cause| DataFusionError::ExecutionJoin(Box::new(cause)))??;
        self.ahead = self.fetch(AHEAD_BYTES_MAX);
        Ok(Some((rows, self)))
    }

    /// Begins to fetch the next stripe, if it has no more than so many bytes.
    fn fetch(&mut self, bytes: u64) -> Option<SpawnedTask<Result<Rows>>> {
        let is_small = |(_, stripe): &(usize, StripeInformation)| stripe.data_length() <= bytes;
        while self.left.peek().is_some_and(is_small) {
            let (place, stripe) = self.left.next()?;
            if self.choice.as_ref().is_none_or(|choice| choice.may_want(place)) {
                return Some(SpawnedTask::spawn(Arc::clone(&self.scan).stripe(stripe)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
