// Walks lanes through the data set: `challenge::walk`. The buffers of the data set and `fetch`, which chooses among them,
// stand before this: there are as many as the set needs.

struct Params {
    key: array<vec4<u32>, 2>,
    // The first lane, how many, the items of the data set, and those of one buffer.
    first: u32,
    count: u32,
    items: u32,
    per_buffer: u32,
    // Steps of a lane.
    steps: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> states: array<Mix>;

@compute @workgroup_size(64)
fn lanes(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.count {
        return;
    }
    var state = Mix(vec4<u32>(params.first + id.x, 0u, 0u, 0u), vec4<u32>(), params.key[0], params.key[1]);
    state = permuted(state, 4u);
    for (var step = 0u; step < params.steps; step++) {
        state = absorbed(state, fetch(state.a.x % params.items));
        state = permuted(state, 1u);
    }
    states[id.x] = state;
}
