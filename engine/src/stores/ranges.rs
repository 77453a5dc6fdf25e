//! How many ranges of one object are read: those that lie close by one request, long ones by several.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::Result;

/// Ranges that lie no further apart are read by one request: a gap of this length takes less time than another answer.
const GAP_BYTES_MAX: u64 = 1024 * 1024;
/// Longest range of one request. One connection to a bucket is slower than several.
const REQUEST_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Requests of one read at the same time.
const REQUESTS_MAX: usize = 10;

/// The bytes of each range. `fetch` makes one request.
pub(crate) async fn read<F>(ranges: &[Range<u64>], fetch: impl Fn(Range<u64>) -> F + Send) -> Result<Vec<Bytes>>
where
    F: Future<Output = Result<Bytes>> + Send,
{
    let requests = requests(ranges);
    let parts: Vec<Bytes> = stream::iter(requests.clone()).map(fetch).buffered(REQUESTS_MAX).try_collect().await?;
    Ok(ranges.iter().map(|range| cut(range, &requests, &parts)).collect())
}

/// Ranges in order that do not overlap and cover `ranges`.
fn requests(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged = Vec::<Range<u64>>::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last) if range.start <= last.end + GAP_BYTES_MAX && range.end - last.start <= REQUEST_BYTES_MAX => last.end = range.end,
            Some(last) => {
                let start = range.start.max(last.end);
                merged.push(start..range.end);
            }
            None => merged.push(range),
        }
    }
    merged.into_iter().flat_map(split).collect()
}

/// A range in parts of about the same length.
fn split(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let length = range.end - range.start;
    let part = length.div_ceil(length.div_ceil(REQUEST_BYTES_MAX));
    let starts = (range.start..range.end).step_by(usize::try_from(part).unwrap_or(usize::MAX));
    starts.map(move |start| start..(start + part).min(range.end))
}

fn cut(range: &Range<u64>, requests: &[Range<u64>], parts: &[Bytes]) -> Bytes {
    let first = requests.partition_point(|request| request.end <= range.start);
    // A file may be shorter than was asked for, and its bytes end there.
    let piece = |request: &Range<u64>, part: &Bytes| {
        let place = |at: u64| usize::try_from(at - request.start).unwrap_or(usize::MAX).min(part.len());
        part.slice(place(range.start.max(request.start))..place(range.end.min(request.end)))
    };
    let mut pieces = requests[first..].iter().zip(&parts[first..]).take_while(|(request, _)| request.start < range.end);
    match (pieces.next(), range.is_empty()) {
        (Some((request, part)), false) if range.end <= request.end => piece(request, part),
        (Some((request, part)), false) => {
            let mut whole = BytesMut::from(piece(request, part));
            pieces.for_each(|(request, part)| whole.extend_from_slice(&piece(request, part)));
            whole.freeze()
        }
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn near_ranges_are_one_request_and_long_ones_several() {
        let object: Vec<u8> = (0..40 * 1024 * 1024_u32).map(|at| (at / 1021) as u8).collect();
        let mib = |count: u64| count * 1024 * 1024;
        let check = async |ranges: &[Range<u64>], expected: usize| {
            let asked = Mutex::new(Vec::new());
            let found = read(ranges, |range| {
                asked.lock().unwrap().push(range.clone());
                let bytes = Bytes::copy_from_slice(&object[range.start as usize..range.end as usize]);
                async { Ok(bytes) }
            });
            for (range, found) in ranges.iter().zip(found.await.unwrap()) {
                assert!(found == object[range.start as usize..range.end as usize], "{range:?}");
            }
            let asked = asked.into_inner().unwrap();
            assert_eq!(asked.len(), expected, "{asked:?}");
            assert!(asked.iter().all(|range| range.end - range.start <= REQUEST_BYTES_MAX), "{asked:?}");
        };
        check(&[], 0).await;
        check(&[5..5, 9..9], 0).await;
        check(&[900..1000, 10..20, 15..30, 0..1], 1).await;
        check(&[0..10, mib(2)..mib(2) + 10], 2).await;
        check(std::slice::from_ref(&(0..mib(20))), 3).await;
        // A long one that overlaps what is read before it, and one that lies in two requests.
        check(&[0..mib(7), mib(6)..mib(12), mib(6)..mib(8), mib(39)..mib(40)], 3).await;
        // Merging ends where a request would be too long.
        check(&[0..mib(5), mib(5)..mib(10), mib(10)..mib(11)], 2).await;
    }
}
