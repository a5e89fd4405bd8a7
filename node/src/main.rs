//! Temporary entry.
fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("engine-worker") => aitbc_node::engine::worker_main(),
        _ => std::process::ExitCode::SUCCESS,
    }
}
