//! The `aitbc` binary: parses, runs, and turns an outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The children are this same binary: no runtime and no settings there.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == aitbc_node::engine::WORKER_COMMAND) {
        return aitbc_node::engine::worker_main();
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == aitbc_node::gpu::worker::WORKER_COMMAND) {
        return aitbc_node::gpu::child::main();
    }
    aitbc_node::cli::main()
}
