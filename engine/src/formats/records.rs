//! Bytes of a file, decompressed and cut into records.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion_datasource::file_compression_type::FileCompressionType;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::sync::mpsc;

use super::Delimited;

/// Bytes of a file that one request asks for. Short requests end soon, however slowly their rows are taken.
const REQUEST_BYTES: u64 = 4 * 1024 * 1024;
/// Requests for one file at the same time.
const REQUESTS_MAX: usize = 2;
/// Bytes that are decompressed at once.
const PLAIN_BYTES: usize = 256 * 1024;
/// So many of them may wait for the decoder.
const PLAIN_BUFFERS_MAX: usize = 4;
/// Bytes of records that are decoded together, unless one record is longer.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Longest record. A file without any end of a line would fill the memory otherwise.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How a file of this name is compressed.
fn compression(file: &str) -> FileCompressionType {
    let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "gz" | "gzip" => FileCompressionType::GZIP,
        "bz2" => FileCompressionType::BZIP2,
        "zst" | "zstd" => FileCompressionType::ZSTD,
        "xz" => FileCompressionType::XZ,
        _ => FileCompressionType::UNCOMPRESSED,
    }
}

pub(super) fn is_compressed(file: &str) -> bool {
    compression(file).is_compressed()
}

/// The bytes of a file from a place on, decompressed.
pub(super) fn bytes(store: Arc<dyn ObjectStore>, file: &ObjectMeta, from: u64) -> BoxStream<'static, Result<Bytes>> {
    let (path, size) = (file.location.clone(), file.size);
    let kind = compression(path.as_ref());
    let starts = (from..size).step_by(usize::try_from(REQUEST_BYTES).expect("4 MiB can be counted"));
    let chunks = futures::stream::iter(starts).map(move |start| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move { store.get_range(&path, start..(start + REQUEST_BYTES).min(size)).await }
    });
    let chunks = chunks.buffered(REQUESTS_MAX).map_err(DataFusionError::from).boxed();
    // An empty file has no rows, as for whoever does not write one into the compressor.
    if kind.is_compressed() && size > 0 { decompressed(kind, chunks) } else { chunks }
}

/// Decompresses on a thread that may wait. DataFusion's decoders for streams end with the first part of a file that `cat` has put together;
/// those for readers go on.
fn decompressed(kind: FileCompressionType, mut chunks: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
    let (compressed, input) = mpsc::channel(REQUESTS_MAX);
    let (plain, output) = mpsc::channel(PLAIN_BUFFERS_MAX);
    let feeding = SpawnedTask::spawn(async move {
        while let Some(chunk) = chunks.next().await {
            if compressed.send(chunk).await.is_err() {
                return;
            }
        }
    });
    // It ends when one of the channels does, which is at the latest when the stream is dropped.
    let decoding = SpawnedTask::spawn_blocking(move || {
        let failed = |error: io::Error| match error.downcast::<DataFusionError>() {
            Ok(cause) => cause,
            Err(error) => DataFusionError::Execution(format!("it cannot be decompressed: {error}")),
        };
        let mut reader = match kind.convert_read(Chunks { input, current: Bytes::new() }) {
            Ok(reader) => reader,
            Err(error) => return drop(plain.blocking_send(Err(error))),
        };
        loop {
            let mut buffer = vec![0; PLAIN_BYTES];
            let read = match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    buffer.truncate(length);
                    Ok(Bytes::from(buffer))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(failed(error)),
            };
            let is_end = read.is_err();
            if plain.blocking_send(read).is_err() || is_end {
                return;
            }
        }
    });
    let next = |(mut output, feeding, decoding): (mpsc::Receiver<_>, SpawnedTask<()>, SpawnedTask<()>)| async {
        match output.recv().await {
            Some(bytes) => Ok(Some((bytes?, (output, feeding, decoding)))),
            // One that panicked ends the bytes as well as one that is done.
            None => decoding
                .join()
                .await
                .and(feeding.join().await)
                .map(|()| None)
                .map_err(|panic| DataFusionError::ExecutionJoin(Box::new(panic))),
        }
    };
    futures::stream::try_unfold((output, feeding, decoding), next).boxed()
}

/// Chunks of a file as a reader that waits for them.
struct Chunks {
    input: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.input.blocking_recv() {
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// What ends a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    terminator: u8,
    /// The quote and the escape inside of which a terminator ends nothing.
    quoted: Option<(u8, Option<u8>)>,
    /// Records at the beginning of the file that are not data.
    header: usize,
}

impl Ends {
    /// Lines.
    pub(super) fn lines() -> Self {
        Self { terminator: b'\n', quoted: None, header: 0 }
    }

    pub(super) fn of(text: &Delimited) -> Self {
        let quoted = text.quote.filter(|_| text.multiline).map(|quote| (quote, text.escape));
        Self { terminator: text.terminator, quoted, header: text.header_lines }
    }
}

/// Whole records that are decoded together.
#[derive(Debug)]
pub(super) struct Block {
    data: Vec<u8>,
    /// Each without its end.
    records: Vec<Range<usize>>,
    /// Where the block begins in the decompressed file.
    offset: u64,
    /// Number of the first record, from 1 and headers included; none where reading began inside of the file.
    first: Option<u64>,
}

impl Block {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// All records with their ends.
    pub(super) fn data(&self) -> &[u8] {
        &self.data[self.records.first().map_or(0, |first| first.start)..]
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(|record| &self.data[record.clone()])
    }

    pub(super) fn record(&self, index: usize) -> &[u8] {
        &self.data[self.records[index].clone()]
    }

    /// Some of the records. Their places are right if it is one.
    pub(super) fn only(&self, indices: &[usize]) -> Self {
        let (mut data, mut records) = (Vec::new(), Vec::with_capacity(indices.len()));
        for index in indices {
            let start = data.len();
            data.extend_from_slice(self.record(*index));
            records.push(start..data.len());
            data.push(b'\n');
        }
        let first = indices.first().copied().unwrap_or_default();
        let offset = self.offset + self.records.get(first).map_or(0, |record| record.start as u64);
        Self { data, records, offset, first: self.line(first) }
    }

    /// Number of a record, from 1 and headers included, if reading began where the file does.
    pub(super) fn line(&self, index: usize) -> Option<u64> {
        self.first.map(|first| first + index as u64)
    }

    /// Where a record is, for errors.
    pub(super) fn place(&self, index: usize) -> String {
        let start = self.records[index].start;
        let at = self.offset + start as u64;
        match self.first {
            Some(first) => format!("line {} (byte {at})", first + index as u64),
            None => format!("byte {at}"),
        }
    }
}

/// The records of a file, or those that begin in a range of its bytes.
pub(super) fn blocks(
    store: Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    range: Option<Range<u64>>,
    ends: Ends,
    rows: usize,
) -> BoxStream<'static, Result<Block>> {
    let range = range.unwrap_or(0..u64::MAX);
    // One byte earlier: a record that begins exactly there has an end before it.
    let from = range.start.saturating_sub(1);
    let input = bytes(store, file, from);
    let splitter = Splitter::new(ends, range, from, rows);
    let next = |(mut input, mut splitter): (BoxStream<'static, Result<Bytes>>, Splitter)| async move {
        loop {
            if let Some(block) = splitter.block() {
                return Ok(Some((block, (input, splitter))));
            }
            if splitter.is_done {
                return Ok(None);
            }
            match input.try_next().await? {
                Some(bytes) => splitter.push(&bytes)?,
                None => splitter.end(),
            }
        }
    };
    futures::stream::try_unfold((input, splitter), next).boxed()
}

/// Finds records in bytes that come piece by piece.
struct Splitter {
    ends: Ends,
    /// Where records that are wanted begin.
    range: Range<u64>,
    /// Records in a block.
    rows: usize,
    buffer: Vec<u8>,
    /// Place of the buffer's first byte in the file.
    offset: u64,
    /// Bytes of the buffer that were looked at.
    scanned: usize,
    /// Where the record begins whose end is looked for.
    start: usize,
    records: Vec<Range<usize>>,
    /// Number of the first of `records`.
    first: Option<u64>,
    /// Number of the record that begins at `start`.
    number: Option<u64>,
    in_quotes: bool,
    /// Whether the bytes up to the first end belong to a record that began before the range.
    is_partial: bool,
    header: usize,
    is_done: bool,
}

impl Splitter {
    fn new(ends: Ends, range: Range<u64>, from: u64, rows: usize) -> Self {
        let at_start = range.start == 0;
        Self {
            range,
            rows: rows.max(1),
            buffer: Vec::new(),
            offset: from,
            scanned: 0,
            start: 0,
            records: Vec::new(),
            first: None,
            number: at_start.then_some(1),
            in_quotes: false,
            is_partial: !at_start,
            header: if at_start { ends.header } else { 0 },
            is_done: false,
            ends,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let is_first = self.offset == 0 && self.buffer.is_empty() && self.number == Some(1);
        let mark = if is_first && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        self.buffer.extend_from_slice(bytes);
        (self.scanned, self.start) = (self.scanned + mark, self.start + mark);
        while self.scanned < self.buffer.len() && !self.is_done {
            match self.ends.quoted {
                None => {
                    let found = self.buffer[self.scanned..].iter().position(|byte| *byte == self.ends.terminator);
                    let Some(length) = found else {
                        self.scanned = self.buffer.len();
                        break;
                    };
                    self.scanned += length + 1;
                    self.found(self.scanned - 1);
                }
                Some((quote, escape)) => {
                    let byte = self.buffer[self.scanned];
                    self.scanned += 1;
                    if self.in_quotes && Some(byte) == escape {
                        self.scanned += 1;
                    } else if byte == quote {
                        self.in_quotes = !self.in_quotes;
                    } else if byte == self.ends.terminator && !self.in_quotes {
                        self.found(self.scanned - 1);
                    }
                }
            }
        }
        match self.buffer.len().saturating_sub(self.start) > RECORD_BYTES_MAX {
            true => {
                let at = self.offset + self.start as u64;
                Err(DataFusionError::Execution(format!("the record at byte {at} is longer than {RECORD_BYTES_MAX} bytes")))
            }
            false => Ok(()),
        }
    }

    /// A record ends before `end`.
    fn found(&mut self, end: usize) {
        let start = std::mem::replace(&mut self.start, end + 1);
        if std::mem::take(&mut self.is_partial) {
            self.is_done = self.offset + self.start as u64 >= self.range.end;
            return;
        }
        let number = self.number;
        self.number = number.map(|number| number + 1);
        if self.header > 0 {
            self.header -= 1;
        } else {
            if self.records.is_empty() {
                self.first = number;
            }
            let without_return = self.ends.terminator == b'\n' && end > start && self.buffer[end - 1] == b'\r';
            self.records.push(start..end - usize::from(without_return));
        }
        self.is_done = self.offset + self.start as u64 >= self.range.end;
    }

    fn end(&mut self) {
        if !self.is_done && !self.is_partial && self.start < self.buffer.len() {
            self.found(self.buffer.len());
        }
        self.is_done = true;
    }

    fn block(&mut self) -> Option<Block> {
        let is_full = self.records.len() >= self.rows || self.start >= BLOCK_BYTES || self.is_done;
        if !is_full || self.records.is_empty() {
            return None;
        }
        let taken = self.rows.min(self.records.len());
        let rest = self.records.split_off(taken);
        let records = std::mem::replace(&mut self.records, rest);
        // What follows the last record that is taken: the next one, or what is not read yet.
        let cut = self.records.first().map_or_else(|| self.start.min(self.buffer.len()), |next| next.start);
        let remaining = self.buffer.split_off(cut);
        let data = std::mem::replace(&mut self.buffer, remaining);
        for record in &mut self.records {
            *record = record.start - cut..record.end - cut;
        }
        self.start -= cut.min(self.start);
        self.scanned -= cut.min(self.scanned);
        let block = Block { data, offset: self.offset, first: self.first, records };
        self.offset += cut as u64;
        self.first = self.first.map(|first| first + taken as u64);
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_that_are_cut_off_by_a_panic_are_no_end() {
        let chunks = futures::stream::iter(0..3).map(|number| {
            assert!(number < 2, "on purpose");
            Ok(Bytes::from_static(b"abc"))
        });
        let plain: Vec<_> = decompressed(FileCompressionType::UNCOMPRESSED, chunks.boxed()).collect().await;
        let (last, bytes) = plain.split_last().unwrap();
        assert_eq!(bytes.iter().flatten().flatten().copied().collect::<Vec<_>>(), b"abcabc");
        assert!(matches!(last, Err(DataFusionError::ExecutionJoin(_))), "{last:?}");
    }
}
