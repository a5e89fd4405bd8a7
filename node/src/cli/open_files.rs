//! How many files and sockets this process may have open.

/// What a relay needs: its connections, and the database beside them.
#[cfg(unix)]
const RELAY_NEEDS: u64 = 4096;

/// Raises the limit as far as the system lets it, and says so where that is too low for a relay.
#[cfg(unix)]
pub(super) fn raise(relay: bool) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files was not raised");
    }
    if let Some(current) = getrlimit(Resource::Nofile).current
        && relay
        && current < RELAY_NEEDS
    {
        tracing::warn!(
            "only {current} files and sockets may be open: a relay takes up to 1,024 connections; raise the hard limit \
             (ulimit -Hn, or LimitNOFILE= of systemd) to {RELAY_NEEDS}"
        );
    }
}

#[cfg(not(unix))]
pub(super) fn raise(_: bool) {}
