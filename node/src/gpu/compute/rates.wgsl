// What `aitbc bench gpu` runs. Every kernel's result follows exactly from its input: whole numbers, also where the arithmetic
// is of floating point, so small that nothing is rounded.

// Reads all of the input once a round, neighbours side by side.
@compute @workgroup_size(256)
fn read_all(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.threads {
        return;
    }
    var sum = vec4<u32>();
    for (var round = 0u; round < params.rounds; round++) {
        for (var at = id.x; at < params.count; at += params.threads) {
            sum = (sum ^ input[at]) + vec4<u32>(params.addend);
        }
    }
    output[id.x] = sum;
}

// Reads 64 bytes a round, somewhere in the input: where, follows from all that was read before, as in a challenge's walk.
@compute @workgroup_size(256)
fn read_random(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.threads {
        return;
    }
    let rows = params.count / 4u;
    // Neighbours begin far apart.
    var sum = vec4<u32>(id.x * 0x9e3779b1u);
    for (var round = 0u; round < params.rounds; round++) {
        // The top bits of a product are mixed well, the others less.
        let at = (sum.x ^ (sum.x >> 15u)) % rows * 4u;
        sum = ((sum ^ input[at]) + vec4<u32>(params.addend)) * vec4<u32>(0x01000193u);
        sum = ((sum ^ input[at + 1u]) + vec4<u32>(params.addend)) * vec4<u32>(0x01000193u);
        sum = ((sum ^ input[at + 2u]) + vec4<u32>(params.addend)) * vec4<u32>(0x01000193u);
        sum = ((sum ^ input[at + 3u]) + vec4<u32>(params.addend)) * vec4<u32>(0x01000193u);
    }
    output[id.x] = sum;
}

// Four chains of four multiply-adds a round: 32 operations.
@compute @workgroup_size(256)
fn fp32(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.threads {
        return;
    }
    let start = vec4<f32>(input[id.x % params.count] & vec4<u32>(15u));
    let one = f32(params.addend);
    let factor = vec4<f32>(one);
    var a = start;
    var b = start + vec4<f32>(one);
    var c = start + vec4<f32>(one * 2.0);
    var d = start + vec4<f32>(one * 3.0);
    for (var round = 0u; round < params.rounds; round++) {
        a = fma(a, factor, start);
        b = fma(b, factor, start);
        c = fma(c, factor, start);
        d = fma(d, factor, start);
    }
    output[id.x] = vec4<u32>(a) + vec4<u32>(b) + vec4<u32>(c) + vec4<u32>(d);
}

// Four dot products of four bytes each: 32 operations.
@compute @workgroup_size(256)
fn int8(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.threads {
        return;
    }
    let start = input[id.x % params.count];
    var other = start ^ vec4<u32>(params.addend);
    var sum = vec4<i32>();
    for (var round = 0u; round < params.rounds; round++) {
        sum.x += dot4I8Packed(start.x, other.x);
        sum.y += dot4I8Packed(start.y, other.y);
        sum.z += dot4I8Packed(start.z, other.z);
        sum.w += dot4I8Packed(start.w, other.w);
        other += vec4<u32>(params.addend);
    }
    output[id.x] = bitcast<vec4<u32>>(sum);
}
