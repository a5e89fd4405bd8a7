"""Turns what testnet/status gathered, one line of tab-separated fields a node, into a table or a document."""

import json
import sys

FIELDS = ["name", "container", "state", "nat", "router", "public_address", "metrics", "token", "status", "peers"]


def read(line):
    node = dict(zip(FIELDS, line.rstrip("\n").split("\t")))
    for field in FIELDS:
        node[field] = node[field] or None
    for field in ["status", "peers"]:
        node[field] = node[field] and json.loads(node[field])
    if node["nat"] is None:
        node["router"] = None
    node["metrics"] = node["metrics"] and f"http://{node['metrics']}/metrics"
    return node


def paths(node, names):
    """What the node says of its way to each other one, such as `client hole-punched quic 1.2 ms`."""
    for peer in node["peers"]["peers"]:
        name = names.get(peer["peer"], peer["peer"][-8:])
        trip = peer["round_trip_ms"]
        trip = f" {trip:.1f} ms" if trip is not None else ""
        yield f"{name} {peer['path']} {peer['transport']}{trip}"


def table(nodes):
    names = {node["status"]["node"]: node["name"] for node in nodes if node["status"]}
    rows = [["NODE", "STATE", "NAT", "ADDRESS", "REACHABLE", "OFFERS", "PATHS"]]
    for node in nodes:
        status = node["status"]
        state = node["state"] if status or node["state"] != "running" else "silent"
        nat = node["nat"] or "-"
        if node["router"] not in (None, "running"):
            nat += " (down)"
        row = [node["name"], state, nat, node["public_address"] or "-"]
        row += [status["reachability"]["verdict"], str(status["offers"])] if status else ["-", "-"]
        ways = list(paths(node, names)) if node["peers"] else []
        rows.append(row + [ways[0] if ways else "-"])
        rows += [[""] * 6 + [way] for way in ways[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def prometheus(nodes):
    print("scrape_configs:")
    for node in nodes:
        if node["metrics"] is None or node["token"] is None:
            continue
        address = node["metrics"].removeprefix("http://").removesuffix("/metrics")
        print(f"  - job_name: {node['container']}")
        print(f"    authorization: {{credentials: {json.dumps(node['token'])}}}")
        print(f"    static_configs: [{{targets: [{json.dumps(address)}], labels: {{node: {node['name']}}}}}]")


def main(form, project):
    nodes = [read(line) for line in sys.stdin]
    if form == "table":
        table(nodes)
    elif form == "prometheus":
        prometheus(nodes)
    else:
        for node in nodes:
            del node["token"]
        json.dump({"schema": "aitbc.testnet/1", "testnet": project, "nodes": nodes}, sys.stdout, indent=2)
        print()


main(*sys.argv[1:])
