//! How this node calls HTTP servers: one TLS provider, no hidden waits.

use std::time::Duration;

/// Longest wait for a connection, name look-up and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client builder with ring as the provider of TLS. Callers bound the waits after connecting themselves: reqwest's
/// own read timeout goes on while nobody reads, and back-pressure is not a stall.
pub fn client_builder() -> reqwest::ClientBuilder {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("aitbc/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
}

/// What went wrong, down to the cause and without the URL, which the caller names if it may be shown.
pub fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
