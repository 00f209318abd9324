//! [`patiently`]: what an outage has kept from being answered is asked again.

use anyhow::Result;

use crate::progress::Progress;

use super::Retries;
use super::proxy_error::in_a_row;
use super::registry::Retry;

/// The answer to what `ask` asks, again where an error is passing. Each pause is told. Needs a tokio runtime with its clock enabled.
///
/// # Errors
///
/// The last one, with how often it came where it is passing.
pub(super) async fn patiently<T>(
    retries: Retries,
    progress: &dyn Progress,
    is_passing: impl Fn(&anyhow::Error) -> bool,
    ask: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let mut retry = Retry::new(retries, 0);
    loop {
        let error = match ask().await {
            Err(error) if is_passing(&error) => error,
            answered => return answered,
        };
        let Some(pause) = retry.failed(None) else { return Err(in_a_row(error, retry.failures() + 1)) };
        progress.note(format!("{error:#}; asking again in {:.1} s", pause.as_secs_f32()));
        tokio::time::sleep(pause).await;
    }
}
