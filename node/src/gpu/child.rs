//! The child process in which graphics drivers are asked, measured and made to prove.

use super::{
    adapters::{Adapter, adapter, known},
    compute::{
        Gpu,
        rates::{self, What},
    },
    proving,
    worker::Answer,
};
use serde::Serialize;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// The child's main function.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = match arguments.as_slice() {
        ["adapters"] => tell(&Answer::Ok(list())),
        ["rate", index, what] => tell(&measured(index, what)),
        [proving::PROVE, place] => proving::main(place),
        _ => return ExitCode::from(2),
    };
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell<T: Serialize>(answer: &Answer<T>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.flush()
}

fn list() -> Vec<Adapter> {
    known().into_iter().map(|(_, adapter)| adapter).collect()
}

fn measured(index: &str, what: &str) -> Answer<Option<f64>> {
    let (wgpu, _) = match adapter(index) {
        Ok(found) => found,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let Some(what) = What::ALL.into_iter().find(|known| known.word() == what) else {
        return Answer::Failed(format!("{what} is no rate"));
    };
    match Gpu::open(&wgpu).and_then(|gpu| rates::rate(&gpu, what)) {
        Ok(rate) => Answer::Ok(rate),
        Err(error) => Answer::Failed(error.to_string()),
    }
}
