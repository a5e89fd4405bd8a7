#!/usr/bin/env python3
"""Exports two PyTorch models to tests/fixtures/private and writes what PyTorch itself answers.

Written with Python 3.11, torch 2.3.1 and onnx 1.17.0; `make concrete` installs both among other things:

    python tests/private/torch_models.py

Data: `digits-test.csv` beside the fixtures (see train.py). The models are trained for a moment only: what is compared is
how they are read, not how good they are.
"""

import csv
import json
import pathlib

import torch
from torch import nn

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "private"
ROWS = 20


class Convolution(nn.Module):
    """Images come as 64 numbers, as a client has them."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.answer = nn.Linear(4 * 4 * 4, 10)

    def forward(self, values):
        image = values.reshape(1, 1, 8, 8) / 16
        return self.answer(torch.flatten(self.features(image), 1))


def perceptron():
    """With a batch norm, which stays a node of its own after a dense layer, and a function of each kind."""
    return nn.Sequential(
        nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 10)
    )


def train(model, rows, labels, single):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(30):
        scores = torch.cat([model(row[None]) for row in rows]) if single else model(rows)
        loss = nn.functional.cross_entropy(scores, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def write(name, model, rows):
    torch.onnx.export(
        model, (rows[:1],), FIXTURES / f"{name}.onnx", input_names=["values"], output_names=["scores"], opset_version=17
    )
    with torch.no_grad():
        scores = [model(row[None])[0].tolist() for row in rows]
    (FIXTURES / f"{name}.json").write_text(json.dumps({"rows": rows.tolist(), "scores": scores}) + "\n", "ascii")


def main():
    torch.manual_seed(7)
    torch.set_num_threads(1)
    with (FIXTURES / "digits-test.csv").open(encoding="ascii") as file:
        table = list(csv.reader(file))[1:]
    rows = torch.tensor([[float(value) for value in row[:-1]] for row in table])
    labels = torch.tensor([int(row[-1]) for row in table])
    for name, model, single in [("torch-mlp", perceptron(), False), ("torch-conv", Convolution(), True)]:
        train(model, rows, labels, single)
        write(name, model, rows[:ROWS])


if __name__ == "__main__":
    main()
