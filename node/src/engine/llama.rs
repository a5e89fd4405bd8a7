//! A model in llama.cpp: loading it, where it truly lies, how fast it decodes.

use super::{
    frames::{Gpu, Load, Loaded},
    sampling,
};
use llama_cpp_2::{
    LlamaBackendDevice, LlamaBackendDeviceType, LlamaContextLoadError, LlamaModelLoadError,
    context::{
        LlamaContext,
        params::{LlamaContextParams, LlamaPoolingType},
    },
    gguf::GgufContext,
    list_llama_ggml_backend_devices,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};
use std::{
    num::NonZeroU32,
    path::Path,
    time::{Duration, Instant},
};

/// Most tokens in one decode step.
pub(super) const BATCH_TOKENS: u32 = 512;
/// Most tokens of a text that is turned into a vector: it is read in one piece.
const EMBEDDING_TOKENS: u32 = 2048;
/// Most sequences that llama.cpp decodes together (`LLAMA_MAX_SEQ`).
const MAX_SEQUENCES: u32 = 256;
/// How many tokens, and how long at most, the measurement of the speed decodes. The fastest window counts: what else the
/// machine does while a model loads says nothing of the device.
const MEASURED_TOKENS: i32 = 41;
const MEASURED_WINDOW: i32 = 8;
const MEASURED_TIME: Duration = Duration::from_secs(2);

/// Why a model cannot be loaded. What llama.cpp says about it is on stderr.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("llama.cpp did not start: {0}")]
    Backend(#[from] llama_cpp_2::LlamaCppError),
    #[error("llama.cpp refuses the model file: {0}")]
    Model(#[from] LlamaModelLoadError),
    #[error("no memory for a context of {context} tokens for each of {slots} slots, or a faulty model: {source}")]
    Context { context: u32, slots: u32, source: LlamaContextLoadError },
    #[error("the system refuses the engine its file or a thread: {0}")]
    System(#[from] std::io::Error),
    #[error("the model does not decode: {0}")]
    Decode(#[from] llama_cpp_2::DecodeError),
}

/// A loaded model with the context of its sequences. It lives as long as the process.
pub(super) struct Llama {
    pub(super) backend: &'static LlamaBackend,
    pub(super) model: &'static LlamaModel,
    pub(super) context: LlamaContext<'static>,
    pub(super) loaded: Loaded,
    threads: i32,
}

/// Loads the model that `load` names. `progress` is told the share in percent.
pub(super) fn load(load: &Load, progress: impl Fn(u8) + Clone + 'static) -> Result<Llama, LoadError> {
    // Says plainly what llama.cpp would only answer with a null pointer.
    std::fs::File::open(&load.path)?;
    let backend: &'static LlamaBackend = Box::leak(Box::new(LlamaBackend::init()?));
    let gpu = list_llama_ggml_backend_devices().into_iter().find(|device| {
        matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    });
    let wishes = layer_wishes(load, gpu.is_some());
    let mut tried = 0;
    loop {
        let wish = wishes[tried];
        tried += 1;
        match load_with(load, backend, wish, progress.clone()) {
            Ok((model, context)) => return finish(load, backend, model, context, gpu.as_ref(), wish),
            Err(error) if tried == wishes.len() => return Err(error),
            Err(error) => {
                tracing::warn!(layers = wish, %error, "the model does not fit on the GPU, trying fewer layers");
            }
        }
    }
}

/// Numbers of GPU layers to try, one after the other.
fn layer_wishes(load: &Load, gpu: bool) -> Vec<u32> {
    match (gpu, load.gpu_layers) {
        (false, _) => vec![0],
        (true, Some(layers)) => vec![layers],
        (true, None) => {
            let blocks = block_count(&load.path).unwrap_or(0);
            let mut wishes = vec![u32::MAX, blocks / 4 * 3, blocks / 2, blocks / 4, 0];
            wishes.dedup();
            wishes
        }
    }
}

fn block_count(path: &Path) -> Option<u32> {
    let file = GgufContext::from_file(path)?;
    let key =
        (0..file.n_kv()).find(|&index| file.key_at(index).is_some_and(|key| key.ends_with(".block_count")))?;
    // 4 is GGUF_TYPE_UINT32; another type would end the process.
    (file.kv_type(key) == 4).then(|| file.val_u32(key))
}

fn load_with(
    load: &Load,
    backend: &'static LlamaBackend,
    gpu_layers: u32,
    progress: impl Fn(u8) + 'static,
) -> Result<(&'static LlamaModel, LlamaContext<'static>), LoadError> {
    let mut last = None;
    let params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers).with_progress_callback(move |share| {
        let percent = (share.clamp(0.0, 1.0) * 100.0) as u8;
        if last != Some(percent) {
            last = Some(percent);
            progress(percent);
        }
        true
    });
    let model = LlamaModel::load_from_file(backend, &load.path, &params)?;
    let context = context_tokens(load, &model);
    let slots = load.slots.clamp(1, MAX_SEQUENCES);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(context.saturating_mul(slots)))
        .with_n_seq_max(slots)
        .with_kv_unified(false)
        .with_n_batch(BATCH_TOKENS.max(slots))
        .with_n_ubatch(BATCH_TOKENS)
        .with_n_threads(threads(load))
        .with_n_threads_batch(threads(load));
    let model: &'static LlamaModel = Box::leak(Box::new(model));
    let context =
        model.new_context(backend, params).map_err(|source| LoadError::Context { context, slots, source })?;
    Ok((model, context))
}

/// What the owner wishes, within what the model was trained for.
fn context_tokens(load: &Load, model: &LlamaModel) -> u32 {
    match model.n_ctx_train() {
        0 => load.context,
        trained => load.context.min(trained),
    }
    .max(16)
}

fn threads(load: &Load) -> i32 {
    i32::try_from(load.threads.clamp(1, 512)).expect("clamped")
}

fn finish(
    load: &Load,
    backend: &'static LlamaBackend,
    model: &'static LlamaModel,
    mut context: LlamaContext<'static>,
    gpu: Option<&LlamaBackendDevice>,
    wish: u32,
) -> Result<Llama, LoadError> {
    let layers = model.n_layer().saturating_add(1);
    // The rule of llama.cpp itself: no devices, no layers; at most all layers and the output.
    let gpu_layers = if gpu.is_some() { wish.min(layers) } else { 0 };
    let mut warnings = Vec::new();
    if let Some(gpu) = gpu
        && gpu_layers < layers
        && load.gpu_layers.is_none()
    {
        warnings.push(format!(
            "only {gpu_layers} of {layers} layers fit on {}: set a smaller context, fewer slots or a smaller model",
            gpu.description
        ));
    }
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let speed = if is_embedder(&architecture) { 0 } else { measure(model, &mut context)? };
    let quantisation = model.meta_val_str("general.file_type").ok().and_then(|kind| quantisation(&kind));
    let loaded = Loaded {
        gpu: gpu
            .filter(|_| gpu_layers > 0)
            .map(|gpu| Gpu { name: gpu.description.clone(), memory_bytes: gpu.memory_total as u64 }),
        gpu_layers,
        layers,
        context: context_tokens(load, model),
        slots: load.slots.clamp(1, MAX_SEQUENCES),
        vocabulary: u32::try_from(model.n_vocab()).unwrap_or(0),
        speed,
        architecture: architecture.chars().take(64).collect(),
        quantisation: quantisation.map(str::to_owned),
        warnings,
    };
    Ok(Llama { backend, model, context, loaded, threads: threads(load) })
}

/// Whether models of this architecture only turn texts into vectors.
pub(super) fn is_embedder(architecture: &str) -> bool {
    architecture.contains("bert") || architecture.ends_with("-embedding")
}

/// Decodes one stream for a moment; milli-tokens a second.
fn measure(model: &LlamaModel, context: &mut LlamaContext<'_>) -> Result<u32, LoadError> {
    let mut batch = LlamaBatch::new(1, 1);
    let mut token = LlamaToken::new(model.vocab().bos().0.max(0));
    let begin = Instant::now();
    let mut window = Instant::now();
    let mut best = 0.0_f64;
    for position in 0..MEASURED_TOKENS.min(i32::try_from(context.n_ctx()).unwrap_or(i32::MAX) - 1) {
        batch.clear();
        batch.add(token, position, &[0], true).expect("the batch holds one token");
        context.decode(&mut batch)?;
        token = LlamaToken::new(sampling::greedy(context.get_logits_ith(0)).cast_signed());
        if position == 0 {
            // The first step also warms caches up.
            window = Instant::now();
        } else if position % MEASURED_WINDOW == 0 || begin.elapsed() > MEASURED_TIME {
            let tokens = f64::from((position - 1) % MEASURED_WINDOW + 1);
            best = best.max(tokens * 1000.0 / window.elapsed().as_secs_f64().max(1e-6));
            window = Instant::now();
            if begin.elapsed() > MEASURED_TIME {
                break;
            }
        }
    }
    context.clear_kv_cache();
    Ok(best as u32)
}

impl Llama {
    /// A context that turns texts into vectors, and the most tokens of a text.
    pub(super) fn embedding_context(&self) -> Result<(LlamaContext<'static>, u32), LlamaContextLoadError> {
        let tokens = self.loaded.context.min(EMBEDDING_TOKENS);
        let own = self.model.meta_val_str(&format!("{}.pooling_type", self.loaded.architecture));
        // 0 is no pooling and 4 a ranking; both give no vector of a text.
        let pooling = match own.as_deref() {
            Ok("1" | "2" | "3") => LlamaPoolingType::Unspecified,
            _ => LlamaPoolingType::Mean,
        };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(tokens))
            .with_n_seq_max(1)
            .with_n_batch(tokens)
            .with_n_ubatch(tokens)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads)
            .with_embeddings(true)
            .with_pooling_type(pooling);
        Ok((self.model.new_context(self.backend, params)?, tokens))
    }
}

/// The name of a `general.file_type` (`enum llama_ftype` in llama.h).
fn quantisation(file_type: &str) -> Option<&'static str> {
    Some(match file_type.parse::<u32>().ok()? {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        _ => return None,
    })
}
