// Mixing for the challenge: ChaCha double rounds and FNV, as `aitbc_protocol::gpu::challenge` has them.

const PRIME: u32 = 0x01000193u;

struct Mix { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn rotated(v: vec4<u32>, n: u32) -> vec4<u32> {
    return (v << vec4<u32>(n)) | (v >> vec4<u32>(32u - n));
}

fn half_round(m: Mix) -> Mix {
    var r = m;
    r.a = r.a + r.b;
    r.d = rotated(r.d ^ r.a, 16u);
    r.c = r.c + r.d;
    r.b = rotated(r.b ^ r.c, 12u);
    r.a = r.a + r.b;
    r.d = rotated(r.d ^ r.a, 8u);
    r.c = r.c + r.d;
    r.b = rotated(r.b ^ r.c, 7u);
    return r;
}

fn permuted(m: Mix, double_rounds: u32) -> Mix {
    var r = m;
    for (var i = 0u; i < double_rounds; i++) {
        r = half_round(r);
        r = half_round(Mix(r.a, r.b.yzwx, r.c.zwxy, r.d.wxyz));
        r = Mix(r.a, r.b.wxyz, r.c.zwxy, r.d.yzwx);
    }
    return r;
}

fn absorbed(m: Mix, row: Mix) -> Mix {
    let prime = vec4<u32>(PRIME);
    return Mix((m.a * prime) ^ row.a, (m.b * prime) ^ row.b, (m.c * prime) ^ row.c, (m.d * prime) ^ row.d);
}
