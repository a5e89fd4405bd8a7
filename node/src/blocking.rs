//! Work that blocks: the disk, signatures of long texts.

use tokio::task::JoinError;

/// Does `work` off the runtime. In a simulated city it is done at once and in the caller: there threads may not decide
/// what happens first.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::city::laboratory::is_open() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
