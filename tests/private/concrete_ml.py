#!/usr/bin/env python3
"""What Concrete ML takes for the models of tests/fixtures/private, on the same rows.

    python tests/private/concrete_ml.py --rows 5        # one JSON document

Needs Python 3.8 to 3.12 and `concrete-ml==1.9.0`; `make bench` makes the environment where that can be had. The split of the
data and the shapes of the models are those of train.py; Concrete ML quantises them its own way: the linear model to 8
bits after training, the network to 3 bits while it trains (Brevitas), as its documentation proposes for digits.
"""

import argparse
import json
import statistics
import time
import warnings

import numpy as np
from concrete.ml.sklearn import LogisticRegression, NeuralNetClassifier
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn, manual_seed

SEED = 7


def measure(model, train, rows):
    """Compiles a model, and the stages of one encrypted answer each: medians in seconds, sizes in bytes."""
    start = time.perf_counter()
    circuit = model.compile(train)
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    circuit.keygen(force=True)
    keys = time.perf_counter() - start
    stages = {"encrypt": [], "server": [], "decrypt": []}
    size = 0
    for row in rows:
        quantised = model.quantize_input(row[None, :])
        times = [time.perf_counter()]
        sealed = circuit.encrypt(quantised)
        times.append(time.perf_counter())
        answer = circuit.run(sealed)
        times.append(time.perf_counter())
        circuit.decrypt(answer)
        times.append(time.perf_counter())
        size = len(sealed.serialize())
        for name, (before, after) in zip(stages, zip(times, times[1:])):
            stages[name].append(after - before)
    found = {f"{name}_s": statistics.median(taken) for name, taken in stages.items()}
    found |= {"compile_s": compiled, "keys_s": keys, "input_bytes": size}
    found["evaluation_key_bytes"] = len(circuit.client.evaluation_keys.serialize())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5, help="encrypted rows that are measured")
    rows = parser.parse_args().rows
    warnings.filterwarnings("ignore")
    manual_seed(SEED)
    data = load_digits()
    train, test, wanted, held = train_test_split(
        data.data, data.target, test_size=360, stratify=data.target, random_state=SEED
    )
    train, test = train.astype(np.float32), test.astype(np.float32)
    linear = LogisticRegression(n_bits=8, C=0.01, max_iter=5000)
    linear.fit(train, wanted)
    network = NeuralNetClassifier(
        module__n_layers=2,
        module__n_w_bits=3,
        module__n_a_bits=3,
        module__n_hidden_neurons_multiplier=0.5,
        module__activation_function=nn.ReLU,
        max_epochs=60,
        verbose=0,
    )
    network.fit(train, wanted)
    found = {}
    for name, model in {"linear": linear, "network": network}.items():
        found[name] = measure(model, train, test[:rows])
        found[name]["accuracy"] = float((model.predict(test) == held).mean())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
