//! What to fetch of a blob, and what of its files is here: decided from the table of contents alone. Pure.

use std::ops::Range;

use crate::image::chunked::{File, Table, is_skipped};

/// What a request costs besides the bytes that it asks for: about as many of headers.
const REQUEST: u64 = 512;

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
    /// Plans for the files of which `here` says that they are not here. What lies between the files ends at `between`.
    pub(super) fn new(table: &Table, here: Vec<bool>, between: Option<u64>) -> Self {
        let spans = spans(table.files(), &here, between);
        Self { here, between, runs: coalesce(spans, MAX_REQUESTS) }
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
        if between.is_some() {
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

/// Fetches holes between spans, too, where they are smaller than what a request costs, or where there would be more than `most`.
fn coalesce(spans: Vec<Range<u64>>, most: usize) -> Vec<Range<u64>> {
    let mut holes: Vec<u64> = spans.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
    holes.sort_unstable_by(|a, b| b.cmp(a));
    // So many of the largest holes may stay.
    let fetched = holes.get(most.saturating_sub(1)).copied().unwrap_or(0).max(REQUEST);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for span in spans {
        match runs.last_mut() {
            Some(last) if span.start - last.end <= fetched => last.end = span.end,
            _ => runs.push(span),
        }
    }
    runs
}
