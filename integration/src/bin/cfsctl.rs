//! `cfsctl`, the reference tool of the composefs project, built from its crate at the version that
//! `Cargo.lock` pins, so that tests compare against the very code that other tools ship.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    composefs_ctl::run_from_iter(std::env::args_os().skip(1)).await
}
