//! What to fetch of a blob, and what of its files is here: decided from the table of contents alone. Pure.

use std::ops::Range;

use crate::image::chunked::{File, Table, is_skipped};

/// Bytes that a request puts on the wire besides those that it asks for.
const REQUEST: u64 = 2048;

/// Holes of up to so many bytes between what is needed are fetched, too: while a request is answered, about so many could come, and registries bill and limit requests. Where
/// that makes too much of a layer, only those count that are no larger than what a request costs.
pub(super) const HOLES: [u64; 2] = [16 << 10, REQUEST];

/// Of a larger file that is fetched, what stands before it is fetched from the blob, too, where a list of headers has that: who has no room for it wants to know that the list is
/// right. It lies beside the file.
const LARGE: u64 = 1 << 20;

/// The most requests for one layer. Where there would be more, the smallest holes between them are fetched, too.
const MAX_REQUESTS: usize = 1000;

/// What of a layer is fetched by ranges, and which of its files are here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// For each file of the table, whether it is here.
    pub(super) here: Vec<bool>,
    /// Where what lies between the files ends, where that is to be read from the blob; `None` where a list of headers has it.
    pub(super) between: Option<u64>,
    /// The ranges of the blob to ask for, in order.
    pub(super) runs: Vec<Range<u64>>,
}

impl Plan {
    /// Plans for the files of which `here` says that they are not here. What lies between the files ends at `between`. Holes
    /// of up to `hole` bytes are fetched.
    pub(super) fn new(table: &Table, here: Vec<bool>, between: Option<u64>, hole: u64) -> Self {
        let spans = spans(table.files(), &here, between);
        Self { here, between, runs: coalesce(spans, hole, MAX_REQUESTS) }
    }

    /// Bytes that are asked for.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Bytes that go over the wire for it.
    pub(super) fn cost(&self) -> u64 {
        self.bytes() + self.runs.len() as u64 * REQUEST
    }
}

/// Where the first piece of a file begins in the blob and its last one ends; `None` for an empty one.
pub(super) fn place(file: &File) -> Option<Range<u64>> {
    Some(file.chunks.first()?.offset..file.chunks.last()?.end)
}

/// Whether a file is so large that its header is fetched with it, whoever else has that.
pub(super) fn brings_its_header(file: &File, here: bool) -> bool {
    !here && file.size > LARGE
}

/// What is needed of the blob, in order; neighbours are one.
fn spans(files: &[File], here: &[bool], between: Option<u64>) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    let mut add = |span: Range<u64>| match spans.last_mut() {
        _ if span.is_empty() => {}
        Some(last) if last.end == span.start => last.end = span.end,
        _ => spans.push(span),
    };
    let mut floor = 0;
    for (file, here) in files.iter().zip(here) {
        let Some(place) = place(file) else { continue };
        if between.is_some() || brings_its_header(file, *here) {
            add(floor..place.start);
        }
        floor = place.end;
        file.chunks.iter().filter(|chunk| !here && !is_skipped(chunk)).for_each(|chunk| add(chunk.offset..chunk.end));
    }
    if let Some(end) = between.filter(|end| *end > floor) {
        add(floor..end);
    }
    spans
}

/// Fetches holes between spans, too, where they are of up to `hole` bytes, or where there would be more than `most`.
fn coalesce(spans: Vec<Range<u64>>, hole: u64, most: usize) -> Vec<Range<u64>> {
    let mut holes: Vec<u64> = spans.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
    holes.sort_unstable_by(|a, b| b.cmp(a));
    // So many of the largest holes may stay.
    let fetched = holes.get(most.saturating_sub(1)).copied().unwrap_or(0).max(hole);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for span in spans {
        match runs.last_mut() {
            Some(last) if span.start - last.end <= fetched => last.end = span.end,
            _ => runs.push(span),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::chunked::random;

    /// A table of files with these places in the blob, one piece each.
    fn table(places: &[Range<u64>]) -> Table {
        let entry = |(number, place): (usize, &Range<u64>)| {
            format!(r#"{{"type":"reg","name":"{number}","size":7,"offset":{},"endOffset":{}}}"#, place.start, place.end)
        };
        let entries: Vec<String> = places.iter().enumerate().map(entry).collect();
        Table::parse(format!("{{\"version\":1,\"entries\":[{}]}}", entries.join(",")).as_bytes(), u64::MAX).unwrap()
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are compared, some of them of one")]
    fn what_is_asked_for() {
        let table = table(&[100_000..200_000, 210_000..300_000, 500_000..900_000, 901_000..902_000]);
        let plan = |here: [bool; 4], between| Plan::new(&table, here.into(), between, HOLES[0]).runs;
        let none: [Range<u64>; 0] = [];
        // Only files; small holes are fetched.
        assert_eq!(plan([true; 4], None), none);
        assert_eq!(plan([false, false, true, true], None), [100_000..300_000]);
        assert_eq!(plan([false, true, true, false], None), [100_000..200_000, 901_000..902_000]);
        assert_eq!(plan([false; 4], None), [100_000..300_000, 500_000..902_000]);
        // Also what is between them.
        assert_eq!(plan([false; 4], Some(910_000)), [0..910_000]);
        let between = [0..100_000, 200_000..210_000, 300_000..500_000];
        assert_eq!(plan([true; 4], Some(910_000)), [&between[..], &[900_000..910_000]].concat());
        assert_eq!(plan([true, true, true, false], Some(902_000)), [&between[..], &[900_000..902_000]].concat());
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are compared, some of them of one")]
    fn the_header_of_a_large_file_comes_with_it() {
        let table = |size: u64| {
            let of = |name: &str, size: u64, start: u64| {
                format!(r#"{{"type":"reg","name":"{name}","size":{size},"offset":{start},"endOffset":{}}}"#, start + 50_000)
            };
            let entries = [of("a", 7, 10_000), of("b", size, 60_300), of("c", 7, 200_000)].join(",");
            Table::parse(format!("{{\"version\":1,\"entries\":[{entries}]}}").as_bytes(), u64::MAX).unwrap()
        };
        let plan = |size: u64, here: [bool; 3]| Plan::new(&table(size), here.into(), None, HOLES[0]).runs;
        assert_eq!(plan(LARGE + 1, [true, false, true]), [60_000..110_300]);
        assert_eq!(plan(LARGE, [true, false, true]), [60_300..110_300]);
        assert_eq!(plan(LARGE + 1, [true, true, false]), [200_000..250_000]);
    }

    #[test]
    fn every_byte_that_is_needed_is_asked_for_once_and_in_order() {
        let mut state = 7;
        let mut below = |limit: u64| random(&mut state) as u64 % limit;
        for _ in 0..300 {
            let (mut at, mut places, mut here) = (0, Vec::new(), Vec::new());
            for _ in 0..below(40) {
                let start = at + below(30_000);
                at = start + 1 + below(30_000);
                places.push(start..at);
                here.push(below(2) == 0);
            }
            let between = (below(2) == 0).then(|| at + below(100));
            let hole = HOLES[below(2) as usize];
            let plan = Plan::new(&table(&places), here.clone(), between, hole);
            assert!(plan.runs.windows(2).all(|pair| pair[0].end + hole < pair[1].start), "{:?}", plan.runs);
            assert!(plan.runs.iter().all(|run| run.start < run.end));
            let covered = |span: &Range<u64>| span.is_empty() || plan.runs.iter().any(|run| run.start <= span.start && span.end <= run.end);
            let mut floor = 0;
            for (place, here) in places.iter().zip(&here) {
                assert!(*here || covered(place), "{place:?} of {:?}", plan.runs);
                assert!(between.is_none() || covered(&(floor..place.start)));
                floor = place.end;
            }
            assert!(between.is_none_or(|end| covered(&(floor..end))));
            // No more than a small hole is fetched in vain between two that are needed.
            let spans = spans(table(&places).files(), &here, between);
            let needed: u64 = spans.iter().map(|span| span.end - span.start).sum();
            let holes = (spans.len() - plan.runs.len()) as u64;
            assert!(plan.bytes() <= needed + hole * holes, "{} of {needed}, with {holes} holes", plan.bytes());
        }
    }

    #[test]
    fn there_are_no_more_requests_than_are_allowed() {
        let spans: Vec<Range<u64>> = (0..100).map(|n| n * 100_000..n * 100_000 + 1000 + n).collect();
        for most in [1, 2, 7, 99, 100, 1000] {
            let runs = coalesce(spans.clone(), HOLES[0], most);
            assert!(runs.len() <= most, "{} of {most}", runs.len());
            assert_eq!((runs[0].start, runs.last().unwrap().end), (0, 9_901_099));
        }
        assert_eq!(coalesce(spans.clone(), HOLES[0], 100), spans);
    }
}
