// Derives items of the data set: `challenge::item`.

struct Params {
    key: array<vec4<u32>, 2>,
    // The first item, how many, where they go in the buffer, and the rows of the cache less one.
    first: u32,
    count: u32,
    offset: u32,
    mask: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> cache: array<Mix>;
@group(0) @binding(2) var<storage, read_write> data: array<Mix>;

fn row(number: u32) -> Mix {
    return cache[number & params.mask];
}

@compute @workgroup_size(64)
fn items(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.count {
        return;
    }
    let index = params.first + id.x;
    var mix = row(index);
    mix.a.x ^= index;
    mix.c ^= params.key[0];
    mix.d ^= params.key[1];
    mix = permuted(mix, 4u);
    // 256 reads: 16 times one for each word.
    for (var base = 0u; base < 256u; base += 16u) {
        mix = absorbed(mix, row((mix.a.x ^ index ^ (base + 0u)) * PRIME));
        mix = absorbed(mix, row((mix.a.y ^ index ^ (base + 1u)) * PRIME));
        mix = absorbed(mix, row((mix.a.z ^ index ^ (base + 2u)) * PRIME));
        mix = absorbed(mix, row((mix.a.w ^ index ^ (base + 3u)) * PRIME));
        mix = absorbed(mix, row((mix.b.x ^ index ^ (base + 4u)) * PRIME));
        mix = absorbed(mix, row((mix.b.y ^ index ^ (base + 5u)) * PRIME));
        mix = absorbed(mix, row((mix.b.z ^ index ^ (base + 6u)) * PRIME));
        mix = absorbed(mix, row((mix.b.w ^ index ^ (base + 7u)) * PRIME));
        mix = absorbed(mix, row((mix.c.x ^ index ^ (base + 8u)) * PRIME));
        mix = absorbed(mix, row((mix.c.y ^ index ^ (base + 9u)) * PRIME));
        mix = absorbed(mix, row((mix.c.z ^ index ^ (base + 10u)) * PRIME));
        mix = absorbed(mix, row((mix.c.w ^ index ^ (base + 11u)) * PRIME));
        mix = absorbed(mix, row((mix.d.x ^ index ^ (base + 12u)) * PRIME));
        mix = absorbed(mix, row((mix.d.y ^ index ^ (base + 13u)) * PRIME));
        mix = absorbed(mix, row((mix.d.z ^ index ^ (base + 14u)) * PRIME));
        mix = absorbed(mix, row((mix.d.w ^ index ^ (base + 15u)) * PRIME));
    }
    data[params.offset + id.x] = permuted(mix, 4u);
}
