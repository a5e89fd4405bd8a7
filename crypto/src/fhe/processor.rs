//! What bootstraps run on.

/// What bootstraps run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// All cores that the owner gives.
    Cpu,
    /// The first GPU that CUDA shows, in builds with the feature `cuda`.
    Cuda,
}

impl Processor {
    /// Whether this build can use it and this machine has it.
    pub fn is_there(self) -> bool {
        match self {
            Self::Cpu => true,
            #[cfg(feature = "cuda")]
            Self::Cuda => super::cuda::is_there(),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda => false,
        }
    }
}
