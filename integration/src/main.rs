//! `cargo xtask`: the demo, the tests and the benchmarks of selkie.
fn main() {}
