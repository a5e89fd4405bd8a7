//! Bootstraps on an NVIDIA GPU, through tfhe's CUDA backend.
//!
//! Sums and switches to the small key stay on the processor, which has the weights and the cut that this crate makes; what
//! goes over is some kilobytes a bootstrap. One GPU is used, the first that CUDA shows.

use tfhe::core_crypto::{
    gpu::{
        CudaStreams, check_valid_cuda_malloc, cuda_programmable_bootstrap_lwe_ciphertext, get_number_of_gpus,
        glwe_ciphertext_list::CudaGlweCiphertextList,
        is_cuda_available,
        lwe_bootstrap_key::CudaLweBootstrapKey,
        lwe_ciphertext_list::CudaLweCiphertextList,
        vec::{CudaVec, GpuIndex},
    },
    prelude::{
        GlweCiphertextOwned, LweBootstrapKeyOwned, LweCiphertextCount, LweCiphertextListOwned, LweDimension,
    },
};

const FIRST: u32 = 0;

/// Whether CUDA shows a GPU.
pub(super) fn is_there() -> bool {
    is_cuda_available() && get_number_of_gpus() > 0
}

/// The bootstrapping key of a client in the memory of the GPU.
pub(super) struct Key {
    streams: CudaStreams,
    bootstrap: CudaLweBootstrapKey,
}

impl Key {
    /// Copies a key over; `None` where the GPU has not that much memory.
    pub(super) fn new(key: &LweBootstrapKeyOwned<u64>) -> Option<Self> {
        let bytes = 8 * key.as_ref().len() as u64;
        if !check_valid_cuda_malloc(bytes, GpuIndex::new(FIRST)) {
            return None;
        }
        let streams = CudaStreams::new_single_gpu(GpuIndex::new(FIRST));
        // Ciphertexts are centered before they come here.
        let bootstrap = CudaLweBootstrapKey::from_lwe_bootstrap_key(key, None, &streams);
        Some(Self { streams, bootstrap })
    }

    /// Bootstraps ciphertexts of the small key, all with one table.
    pub(super) fn bootstrap(
        &self,
        switched: &LweCiphertextListOwned<u64>,
        table: &GlweCiphertextOwned<u64>,
        output: LweDimension,
    ) -> LweCiphertextListOwned<u64> {
        let count = switched.lwe_ciphertext_count().0;
        let streams = &self.streams;
        let places: Vec<u64> = (0..count as u64).collect();
        let (places, tables) = (self.numbers(&places), self.numbers(&vec![0; count]));
        let input = CudaLweCiphertextList::from_lwe_ciphertext_list(switched, streams);
        let table = CudaGlweCiphertextList::from_glwe_ciphertext(table, streams);
        let (modulus, count) = (switched.ciphertext_modulus(), LweCiphertextCount(count));
        let mut results = CudaLweCiphertextList::new(output, count, modulus, streams);
        cuda_programmable_bootstrap_lwe_ciphertext(
            &input,
            &mut results,
            &table,
            &tables,
            &places,
            &places,
            &self.bootstrap,
            streams,
        );
        results.to_lwe_ciphertext_list(streams)
    }

    fn numbers(&self, numbers: &[u64]) -> CudaVec<u64> {
        #[expect(unsafe_code, reason = "the library has no other way to copy numbers to a GPU")]
        // SAFETY: `numbers` outlives the copy, for which is waited before it can go.
        let copied = unsafe { CudaVec::from_cpu_async(numbers, &self.streams, 0) };
        self.streams.synchronize();
        copied
    }
}
