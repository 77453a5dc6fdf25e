//! ORC files made columns, by `orc-rust`. What it is given is checked and fetched here: it would fetch each stream by a request of its own, also
//! those of indexes, and believe any length.
//!
//! Reading order: `wire` (messages), `tail` (what the end of a file says), `statistics` (of which the catalog keeps this), `stripes` (which of
//! them are read, and when), this file (what becomes of them).

mod statistics;
mod stripes;
mod tail;
mod wire;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use bytes::buf::{Buf, Reader};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileOpenFuture;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::metrics::PruningMetrics;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use orc_rust::array_decoder::NaiveStripeDecoder;
use orc_rust::projection::ProjectionMask;
use orc_rust::proto;
use orc_rust::reader::ChunkReader;
use orc_rust::schema::{DataType as OrcType, RootDataType};
use orc_rust::stripe::{Stripe, StripeMetadata};
use prost::Message;

pub use self::statistics::footer;
use self::stripes::{Choice, Stripes};
use self::tail::{FOOTER_BYTES_MAX, Tail, broken, caught, decompressed, in_blocks};
use self::wire::{Stream, StripeFooter, StripeInformation};
use super::source::range;
use crate::evolution::{EvolvedColumns, FileColumns, Mismatch};

/// Most bytes of a stripe, as it lies in the file, that are held to read the wanted columns.
const STRIPE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Zones whose times are those of UTC: the library would convert them one by one.
const UTC: [&str; 5] = ["", "UTC", "GMT", "Etc/UTC", "Etc/GMT"];

/// What a scan wants of a file.
pub(super) struct Request {
    /// The columns that the files of the table have.
    pub(super) all: SchemaRef,
    pub(super) wanted: SchemaRef,
    /// Rows for which it does not hold may be left out; that is counted.
    pub(super) condition: Option<(Arc<dyn PhysicalExpr>, PruningMetrics)>,
    pub(super) batch_rows: usize,
}

/// Opens a file. Of a range, it is the stripes that begin there.
pub(super) fn open(store: Arc<dyn ObjectStore>, file: &PartitionedFile, request: Request) -> FileOpenFuture {
    let (meta, range) = (file.object_meta.clone(), range(file));
    let Request { all, wanted, condition, batch_rows } = request;
    async move {
        let Some(tail) = Tail::read(store.as_ref(), &meta).await? else { return Ok(stream::empty().boxed()) };
        let columns = Columns::find(&tail, &tail.schema(Some(&all), |column| tail.precision(column)), &wanted)?;
        let indices = columns.places.iter().map(|place| tail.root().children()[*place].data_type().column_index());
        let read = tail.root().project(&ProjectionMask::roots(tail.root(), indices));
        let choice = match condition {
            Some(condition) => Choice::new(&tail, store.as_ref(), &meta.location, all, condition).await?,
            None => None,
        };
        let stripes = tail.footer.stripes.clone().into_iter().enumerate();
        let stripes = stripes.filter(|(_, stripe)| range.as_ref().is_none_or(|range| range.contains(&stripe.offset()))).collect();
        let scan = Scan { store, path: meta.location, tail, read, columns, batch_rows };
        Ok(Stripes::new(Arc::new(scan), stripes, choice).rows())
    }
    .boxed()
}

/// The columns of a file that are read, and what becomes of them.
struct Columns {
    /// In the order of the file.
    places: Vec<usize>,
    /// What the library makes of them, and what they stand for.
    stored: SchemaRef,
    in_file: SchemaRef,
    wanted: SchemaRef,
    /// One for each that is wanted.
    values: Vec<Arc<dyn PhysicalExpr>>,
}

impl Columns {
    fn find(tail: &Tail, file: &Schema, wanted: &SchemaRef) -> Result<Self> {
        let columns = FileColumns::new(file);
        let misfit = |error: Mismatch| DataFusionError::Execution(error.to_string());
        let mut places = BTreeSet::new();
        for field in wanted.fields() {
            columns.find(field).map_err(misfit)?;
            places.extend(columns.position(&field.name().to_lowercase()).map_err(misfit)?);
        }
        let places: Vec<_> = places.into_iter().collect();
        let in_file = Arc::new(file.project(&places)?);
        let stored = |(place, field): (&usize, &FieldRef)| match tail.root().children()[*place].data_type() {
            OrcType::Long { .. } => Arc::new(field.as_ref().clone().with_data_type(DataType::Int64)),
            _ => Arc::clone(field),
        };
        let stored = Arc::new(Schema::new(places.iter().zip(in_file.fields()).map(stored).collect::<Vec<_>>()));
        let adapter = EvolvedColumns::default().create(Arc::clone(wanted), Arc::clone(&in_file))?;
        let value = |(place, name): (usize, &str)| adapter.rewrite(Arc::new(Column::new(name, place)));
        let values = wanted.fields().iter().map(|field| field.name().as_str()).enumerate().map(value).collect::<Result<_>>()?;
        Ok(Self { places, stored, in_file, wanted: Arc::clone(wanted), values })
    }

    /// Makes of columns as they are in the file those that are wanted.
    fn of(&self, read: &RecordBatch) -> Result<RecordBatch> {
        let rows = read.num_rows();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = read.columns().iter().zip(self.in_file.fields()).map(|(column, field)| cast(column, field.data_type()));
        let read = RecordBatch::try_new_with_options(Arc::clone(&self.in_file), columns.collect::<Result<_, _>>()?, &options)?;
        let values = self.values.iter().map(|value| value.evaluate(&read)?.into_array(rows)).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.wanted), values, &options)?)
    }
}

/// A file that is read.
struct Scan {
    store: Arc<dyn ObjectStore>,
    path: Path,
    tail: Tail,
    /// The columns that are read, as the library has them.
    read: RootDataType,
    columns: Columns,
    batch_rows: usize,
}

impl Scan {
    /// Fetches what is wanted of a stripe. Its rows are made when they are asked for.
    async fn stripe(self: Arc<Self>, stripe: StripeInformation) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let mut left = usize::try_from(stripe.number_of_rows()).map_err(|_| broken("a stripe has more rows than can be counted"))?;
        if self.columns.places.is_empty() {
            let counted = std::iter::from_fn(move || {
                let rows = left.min(self.batch_rows);
                left -= rows;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let none = || RecordBatch::try_new_with_options(Arc::clone(&self.columns.in_file), Vec::new(), &options);
                (rows > 0).then(|| self.columns.of(&none()?))
            });
            return Ok(stream::iter(counted).boxed());
        }
        let mut decoder = Some(self.decoder(&stripe).await?);
        let batches = std::iter::from_fn(move || {
            let next = decoder.as_mut().map(|decoder| caught(|| decoder.next().transpose()))?;
            let batch = match next {
                Ok(Some(batch)) => {
                    left = left.saturating_sub(batch.num_rows());
                    self.columns.of(&batch)
                }
                Ok(None) if left == 0 => return None,
                Ok(None) => Err(broken("a stripe has fewer rows than its footer says")),
                Err(error) => Err(error),
            };
            if batch.is_err() {
                decoder = None;
            }
            Some(batch)
        });
        Ok(stream::iter(batches).boxed())
    }

    async fn decoder(&self, stripe: &StripeInformation) -> Result<NaiveStripeDecoder> {
        if !(1..=FOOTER_BYTES_MAX).contains(&stripe.footer_length()) {
            return Err(broken("a stripe has no footer, or a longer one than there can be"));
        }
        let footer_start = stripe.offset() + stripe.index_length() + stripe.data_length();
        let footer = self.store.get_range(&self.path, footer_start..footer_start + stripe.footer_length()).await?;
        let footer = StripeFooter::decode(decompressed(footer, self.tail.compression())?);
        let mut footer = footer.map_err(|_| broken("the footer of a stripe cannot be decoded"))?;
        if footer.columns.len() != self.tail.footer.types.len() || footer.columns.iter().any(|column| !(0..=3).contains(&column.kind())) {
            return Err(broken("a stripe has columns that are not encoded in a known way"));
        }
        let zone = footer.writer_timezone.take().filter(|zone| !UTC.contains(&zone.as_str()));
        if let Some(unknown) = zone.as_ref().filter(|zone| zone.starts_with(['+', '-']) || zone.parse::<Tz>().is_err()) {
            return Err(DataFusionError::Execution(format!("it was written in time zone '{unknown}', which is not known")));
        }
        footer.writer_timezone = zone;

        let mut start = stripe.offset();
        let mut ranges = Vec::new();
        let is_wanted = |stream: &Stream| stream.is_data() && self.read.contains_column_index(stream.column() as usize);
        let mut streams = std::mem::take(&mut footer.streams);
        for stream in &streams {
            let end = start.checked_add(stream.length()).filter(|end| *end <= footer_start);
            let end = end.ok_or_else(|| broken("a stripe is shorter than its streams"))?;
            if is_wanted(stream) {
                ranges.push(start..end);
            }
            start = end;
        }
        streams.retain(is_wanted);
        footer.streams = streams;
        let bytes = footer.streams.iter().map(Stream::length).sum::<u64>();
        if bytes > STRIPE_BYTES_MAX {
            let message =
                format!("the columns that are read take {bytes} bytes of one of its stripes, more than {STRIPE_BYTES_MAX}: read fewer");
            return Err(DataFusionError::ResourcesExhausted(message));
        }
        let fetched = self.store.get_ranges(&self.path, &ranges).await?;
        let mut wanted = Wanted(HashMap::new());
        let mut place = 0;
        let footer = in_blocks(&footer.encode_to_vec(), self.tail.compression().map(|_| 1));
        for part in fetched.into_iter().filter(|part| !part.is_empty()) {
            let length = part.len() as u64;
            wanted.0.insert(place, part);
            place += length;
        }
        if place != bytes {
            return Err(broken("a stripe ends early"));
        }
        // The stripe as the library shall see it: nothing but what is wanted.
        let seen = proto::StripeInformation {
            data_length: Some(bytes),
            footer_length: Some(footer.len() as u64),
            number_of_rows: stripe.number_of_rows,
            ..proto::StripeInformation::default()
        };
        wanted.0.insert(bytes, footer);
        caught(|| {
            let seen = StripeMetadata::try_from(&seen)?;
            let stripe = Stripe::new(&mut wanted, &self.tail.library, &self.read, &seen)?;
            NaiveStripeDecoder::new(stripe, Arc::clone(&self.columns.stored), self.batch_rows)
        })
    }
}

/// Streams that lie one behind the other, then the footer, by where they begin.
struct Wanted(HashMap<u64, Bytes>);

impl ChunkReader for Wanted {
    type T = Reader<Bytes>;

    fn len(&self) -> u64 {
        self.0.values().map(|part| part.len() as u64).sum()
    }

    fn get_read(&self, start: u64) -> io::Result<Self::T> {
        self.0.get(&start).map(|part| part.clone().reader()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn get_bytes(&self, start: u64, length: u64) -> io::Result<Bytes> {
        match self.0.get(&start).filter(|part| part.len() as u64 == length) {
            Some(part) => Ok(part.clone()),
            None if length == 0 => Ok(Bytes::new()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
