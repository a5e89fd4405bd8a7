// As `fp32` of `rates.wgsl`, in half precision; of its own, for not every GPU reads it.

@compute @workgroup_size(256)
fn fp16(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.threads {
        return;
    }
    let start = vec4<f16>(input[id.x % params.count] & vec4<u32>(1u));
    let one = f16(params.addend);
    let factor = vec4<f16>(one);
    var a = start;
    var b = start + vec4<f16>(one);
    var c = start + vec4<f16>(one * 2.0h);
    var d = start + vec4<f16>(one * 3.0h);
    // Half precision counts exactly to 2,048: back to where it was every 1,024 rounds.
    let back = vec4<f16>(f16(1024.0)) * start;
    for (var round = 0u; round < params.rounds; round += 1024u) {
        for (var part = 0u; part < 1024u; part++) {
            a = fma(a, factor, start);
            b = fma(b, factor, start);
            c = fma(c, factor, start);
            d = fma(d, factor, start);
        }
        a -= back;
        b -= back;
        c -= back;
        d -= back;
    }
    output[id.x] = vec4<u32>(a) + vec4<u32>(b) + vec4<u32>(c) + vec4<u32>(d);
}
