// What every kernel of `aitbc bench gpu` is given.

struct Params {
    // Elements (16 bytes each) of the input, and repetitions.
    count: u32,
    rounds: u32,
    threads: u32,
    // Added in each round; not a constant, or it would be computed in advance.
    addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

