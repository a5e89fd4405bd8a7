//! What follows from a GPU's architecture: how much faster than 32-bit floating point it multiplies narrower numbers.
//!
//! A factor is a rate over that of fp32 in the catalogue, dense, on the fastest unit that the architecture has for it:
//! packed dot products where there are no matrix units, matrix units where there are. A factor of one stands for "no
//! instruction for it": the numbers are widened first.
//!
//! The sources say where to look a factor up. They were named from memory and not opened when this was written.

/// One architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// Its name in the catalogue.
    pub name: &'static str,
    /// Rate of 8-bit integer products over that of fp32.
    pub int8: f32,
    /// The same of the architecture's chips without matrix units, where there are such.
    pub int8_without_matrix_units: Option<f32>,
    /// Rate of fp16 over that of fp32 where the catalogue has no figure.
    pub fp16: f32,
    /// Where the factors can be looked up.
    pub source: &'static str,
}

const fn of(name: &'static str, int8: f32, fp16: f32, source: &'static str) -> Architecture {
    Architecture { name, int8, int8_without_matrix_units: None, fp16, source }
}

const CUDA_TABLE: &str = "CUDA C++ Programming Guide, table of arithmetic throughput";
const NO_DOT: &str = "instruction set reference: no packed 8-bit dot product";

/// Every architecture in the catalogue.
pub const ARCHITECTURES: &[Architecture] = &[
    // AMD
    of("GCN 1.0", 1.0, 1.0, NO_DOT),
    of("GCN 2.0", 1.0, 1.0, NO_DOT),
    of("GCN 3.0", 1.0, 1.0, NO_DOT),
    of("GCN 4.0", 1.0, 1.0, NO_DOT),
    of("GCN 5.0", 1.0, 2.0, "Vega instruction set reference: packed fp16, no 8-bit dot product"),
    of("GCN 5.1", 4.0, 2.0, "Vega 7 nm instruction set reference: V_DOT4_I32_I8; Radeon Instinct MI50 data sheet"),
    of("RDNA 1.0", 1.0, 2.0, "RDNA instruction set reference: dot products are not in every chip"),
    of("RDNA 2.0", 4.0, 2.0, "RDNA 2 instruction set reference: V_DOT4_I32_I8"),
    of("RDNA 3.0", 2.0, 2.0, "RDNA 3 instruction set reference: V_WMMA_I32_16X16X16_IU8; RX 7900 XTX data sheet"),
    of("RDNA 3.5", 2.0, 2.0, "RDNA 3.5 instruction set reference: V_WMMA_I32_16X16X16_IU8"),
    of("RDNA 4.0", 8.0, 2.0, "RX 9070 XT data sheet: 389 TOPS dense beside 48.7 TFLOPS"),
    of("CDNA 1.0", 8.0, 8.0, "Instinct MI100 brochure: 184.6 TOPS beside 23.1 TFLOPS"),
    of("CDNA 2.0", 8.0, 8.0, "Instinct MI250X data sheet: 383 TOPS beside 47.9 TFLOPS"),
    of("CDNA 3.0", 16.0, 8.0, "Instinct MI300X data sheet: 2615 TOPS beside 163.4 TFLOPS"),
    // Apple: no published rate of 8-bit products.
    of("Apple family 5", 1.0, 2.0, "Metal Shading Language: no packed 8-bit dot product"),
    of("Apple family 6", 1.0, 2.0, "Metal Shading Language: no packed 8-bit dot product"),
    of("Apple family 7", 1.0, 1.0, "Metal Shading Language: no packed 8-bit dot product"),
    of("Apple family 8", 1.0, 1.0, "Metal Shading Language: no packed 8-bit dot product"),
    of("Apple family 9", 1.0, 1.0, "Metal Shading Language: no packed 8-bit dot product"),
    of("Apple family 10", 1.0, 1.0, "no rate of the neural accelerators is published"),
    // Arm
    of("Bifrost", 1.0, 2.0, "Mali data sheet: 8-bit dot products only from Mali-G76 on"),
    of("Valhall", 4.0, 2.0, "Mali data sheet: operations a cycle and core, fp32 and int8 dot product"),
    of("Arm 5th Gen", 4.0, 2.0, "Mali data sheet: operations a cycle and core, fp32 and int8 dot product"),
    // Others of phones and boards
    of("Adreno 6xx", 1.0, 2.0, "no rate is published"),
    of("Adreno 7xx", 4.0, 2.0, "cl_qcom_dot_product8: four products an instruction"),
    of("Adreno 8xx", 4.0, 2.0, "cl_qcom_dot_product8: four products an instruction"),
    of("Rogue", 1.0, 2.0, "no rate is published"),
    of("Photon", 1.0, 2.0, "no rate is published"),
    of("VideoCore VI", 1.0, 1.0, "VideoCore VI instruction set: no packed 8-bit dot product"),
    of("VideoCore VII", 1.0, 2.0, "VideoCore VII instruction set: no packed 8-bit dot product"),
    of("Maleoon", 1.0, 1.0, "nothing is published"),
    // Intel
    of("Generation 7.0", 1.0, 1.0, NO_DOT),
    of("Generation 7.5", 1.0, 1.0, NO_DOT),
    of("Generation 8.0", 1.0, 2.0, NO_DOT),
    of("Generation 9.0", 1.0, 2.0, NO_DOT),
    of("Generation 9.5", 1.0, 2.0, NO_DOT),
    of("Generation 11.0", 1.0, 2.0, NO_DOT),
    of("Generation 12.1", 4.0, 2.0, "Xe-LP instruction set reference: DP4A"),
    of("Generation 12.2", 4.0, 2.0, "Xe-LP instruction set reference: DP4A"),
    of("Xe-LP", 4.0, 2.0, "Xe-LP instruction set reference: DP4A"),
    of("Xe-LPG", 4.0, 2.0, "Xe-LPG: DP4A, no matrix units"),
    of(
        "Xe-LPG+",
        16.0,
        2.0,
        "Xe-HPG instruction set reference: DPAS, 4096 operations a cycle and core beside 256",
    ),
    of("Xe-HPG", 16.0, 2.0, "Xe-HPG instruction set reference: DPAS, 4096 operations a cycle and core beside 256"),
    of("Xe2-HPG", 16.0, 2.0, "Arc B580 data sheet: 233 TOPS; DPAS, 4096 operations a cycle and core beside 256"),
    of("Xe2-LPG", 16.0, 2.0, "DPAS, 4096 operations a cycle and core beside 256"),
    of("Xe3-LPG", 16.0, 2.0, "DPAS, 4096 operations a cycle and core beside 256"),
    // NVIDIA
    of("Kepler", 1.0, 1.0, CUDA_TABLE),
    of("Kepler 2.0", 1.0, 1.0, CUDA_TABLE),
    of("Maxwell", 1.0, 1.0, CUDA_TABLE),
    of("Maxwell 2.0", 1.0, 1.0, CUDA_TABLE),
    of("Pascal", 4.0, 1.0, "CUDA C++ Programming Guide: __dp4a from compute capability 6.1 on"),
    of("Volta", 4.0, 2.0, "CUDA C++ Programming Guide: __dp4a; matrix units for fp16 only"),
    Architecture {
        name: "Turing",
        int8: 16.0,
        int8_without_matrix_units: Some(4.0),
        fp16: 2.0,
        source: "Tesla T4 data sheet: 130 TOPS beside 8.1 TFLOPS; __dp4a in the chips without matrix units",
    },
    of("Ampere", 8.0, 1.0, "GeForce RTX 3090 (GA102 whitepaper): 284 TOPS dense beside 35.6 TFLOPS"),
    of("Ada Lovelace", 8.0, 1.0, "GeForce RTX 4090 (Ada whitepaper): 660.6 TOPS dense beside 82.6 TFLOPS"),
    of("Hopper", 29.6, 4.0, "H100 SXM5 data sheet: 1979 TOPS dense beside 66.9 TFLOPS"),
    of("Blackwell", 8.0, 1.0, "GeForce RTX 5090 (Blackwell whitepaper): 838 TOPS dense beside 104.8 TFLOPS"),
    of("Blackwell 2.0", 8.0, 1.0, "GeForce RTX 5090 (Blackwell whitepaper): 838 TOPS dense beside 104.8 TFLOPS"),
];

/// Chips that differ from their architecture, with the factor of 8-bit integer products and its source.
const CHIPS: &[(&str, f32, &str)] = &[
    ("GA100", 32.0, "A100 data sheet: 624 TOPS dense beside 19.5 TFLOPS"),
    ("GA10B", 16.0, "Jetson AGX Orin data sheet: 85 TOPS dense of the GPU beside 5.3 TFLOPS"),
    ("GP100", 1.0, "CUDA C++ Programming Guide: no __dp4a at compute capability 6.0"),
    ("GP10B", 1.0, "CUDA C++ Programming Guide: no fast __dp4a at compute capability 6.2"),
];

/// The architecture of this name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.name == name)
}

impl Architecture {
    /// The factor of 8-bit integer products for `chip`, which has matrix units or not.
    pub fn int8_of(&self, chip: &str, matrix_units: bool) -> f32 {
        if let Some((_, factor, _)) = CHIPS.iter().find(|(name, ..)| *name == chip) {
            return *factor;
        }
        if matrix_units { self.int8 } else { self.int8_without_matrix_units.unwrap_or(self.int8) }
    }
}
