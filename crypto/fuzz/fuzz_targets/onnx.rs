//! Models for private inference: no bytes make reading one panic. A first corpus: `tests/fixtures/private/*.onnx`.

#![no_main]

use aitbc_crypto::fhe::graph::Graph;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(graph) = Graph::read(bytes) {
        let _ = graph.evaluate(&vec![0.5; graph.columns()]);
    }
});
