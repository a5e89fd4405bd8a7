# Sourced by the scripts beside it: which testnet is meant, what its containers are called, and what they need.
# shellcheck shell=bash

project=${AITBC_TESTNET:-aitbc-testnet}
[[ $project =~ ^[a-z0-9][a-z0-9_-]+$ ]] || {
    echo "${0##*/}: error: AITBC_TESTNET is \"$project\": at least two of a-z, 0-9, - and _, a letter or digit first" >&2
    exit 2
}
# shellcheck disable=SC2034 # the scripts that source this use them
nodes=(relay provider-1 provider-2 provider-3 client)
# shellcheck disable=SC2034
routers=(nat-1 nat-2 nat-3 nat-client)
model=smollm2:135m

# Says what is wrong and how to go on, and ends the script.
fail() {
    echo "${0##*/}: error: $*" >&2
    exit 1
}

# The comment at the head of a script is its help.
help_of() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"
}

usage() {
    echo "${0##*/}: $* (see ${0##*/} --help)" >&2
    exit 2
}

need_docker() {
    command -v docker >/dev/null ||
        fail "there is no docker: install Docker Engine (on Debian: apt-get install docker.io)"
    local said
    said=$(docker info 2>&1 >/dev/null) && return
    fail "no Docker engine answers: start it (systemctl start docker, or dockerd as root), and be root or in the" \
        "group docker; it said: $said"
}

need_python() {
    command -v python3 >/dev/null || fail "there is no python3, which reads the nodes' JSON: install it"
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    else
        docker-compose "$@"
    fi
}

container() {
    echo "$project-$1"
}

state_of() {
    local state
    state=$(docker container inspect --format '{{.State.Status}}' "$(container "$1")" 2>/dev/null) || state=missing
    echo "$state"
}

need_testnet() {
    need_docker
    [[ $(state_of client) != missing ]] || fail "no testnet called $project is here: run testnet/up first"
}

# aitbc NODE ARGUMENT…: a command of the command line inside a node's container.
aitbc() {
    local node=$1
    shift
    docker exec "$(container "$node")" aitbc "$@"
}

# Address of a node's home as the others see it: its router's, or its own where it has none.
public_address() {
    local owner=nat-${1#provider-}
    [[ $1 != relay ]] || owner=relay
    docker container inspect --format \
        "{{with index .NetworkSettings.Networks \"${project}_internet\"}}{{.IPAMConfig.IPv4Address}}{{end}}" \
        "$(container "$owner")"
}

# The node that a person means by "relay", "client", "2" or "provider-2".
node_named() {
    case $1 in
    relay | client | provider-[123]) echo "$1" ;;
    [123]) echo "provider-$1" ;;
    *) usage "\"$1\" is no node: relay, client, 1, 2 or 3" ;;
    esac
}

# What keeps a node from being ready, in words; nothing if it is.
missing_at() {
    { aitbc "$1" status --json 2>/dev/null || true; } | python3 -c '
import json, sys
node = sys.argv[1]
try:
    status = json.load(sys.stdin)
except ValueError:
    sys.exit(print(f"{node} does not answer yet"))
provider = status["provider"] or {}
if node.startswith("provider") and not provider.get("offer"):
    print(f"{node} offers nothing yet:", provider.get("waiting_for") or "its model is loading")
elif node != "relay" and not status["peers"]:
    print(f"{node} has no peers yet")
' "$1"
}

# Waits until every node answers, every provider offers the model, and the client finds all of them.
wait_ready() {
    local deadline=$((SECONDS + ${AITBC_TESTNET_PATIENCE:-180})) node missing said='' found
    while :; do
        for node in "${nodes[@]}"; do
            missing=$(missing_at "$node")
            [[ -z $missing ]] || break
        done
        if [[ -z $missing ]]; then
            found=$({ aitbc client find --json "$model" 2>/dev/null || true; } | python3 -c '
import json, sys
text = sys.stdin.read()
print(sum(found["excluded"] is None for found in json.loads(text)["candidates"]) if text else 0)')
            ((found < 3)) || return 0
            missing="the client finds $found of 3 providers"
        fi
        [[ $missing == "$said" ]] || echo "waiting: $missing" >&2
        said=$missing
        ((SECONDS < deadline)) ||
            fail "$missing; look at testnet/status and at docker logs $(container "$node")"
        sleep 1
    done
}
