//! The `aitbc` binary: parses, runs, and turns an outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The engine's child is this same binary: no runtime and no settings there.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == aitbc_node::engine::WORKER_COMMAND) {
        return aitbc_node::engine::worker_main();
    }
    aitbc_node::cli::main()
}
