//! Runs inside a namespace of the laboratory; see `aitbc_tests::lab::agent`. A program of its own, so that it needs
//! nothing of the node and starts at once.

#[cfg(target_os = "linux")]
#[path = "../lab/agent.rs"]
pub mod agent;

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    Ok(agent::serve()?)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the laboratory needs Linux' network namespaces");
}
