#!/usr/bin/env python3
"""Trains the models of tests/fixtures/private and writes what they answer.

Written with Python 3.11, scikit-learn 1.9.1, skl2onnx 1.20.0, onnx 1.23.2, onnxruntime 1.32.0 and numpy 2.4.6:

    pip install scikit-learn==1.9.1 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0
    python tests/private/train.py                 # the fixtures
    python tests/private/train.py --growth DIR    # MLPs of widths 8 to 128 and depths 1 to 4, for measurements

Data, all shipped with scikit-learn: `load_digits`, the test part of Optical Recognition of Handwritten Digits
(E. Alpaydin, C. Kaynak, 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0); `load_iris`
(R. A. Fisher, 1936, UCI, doi 10.24432/C56C76, CC BY 4.0); `load_breast_cancer` (W. Wolberg and others, 1993, UCI,
doi 10.24432/C5DW2B, CC BY 4.0); `load_diabetes` (B. Efron and others, Least Angle Regression, 2004), of which no row
is written.
"""

import argparse
import json
import os
import pathlib

# The order of sums, and with it their last bits, depends on the number of threads.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

SEED = 7
FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "private"


def export(model, features, name):
    """The model as skl2onnx writes it."""
    kind = [("values", FloatTensorType([None, features]))]
    graph = convert_sklearn(model, name=name, initial_types=kind, target_opset=17)
    return graph.SerializeToString()


def write_rows(path, rows, labels, names):
    """A CSV with a header, the label last."""
    with path.open("w", encoding="ascii") as file:
        file.write(",".join([*names, "label"]) + "\n")
        for row, label in zip(rows, labels):
            file.write(",".join([*(f"{value:g}" for value in row), str(label)]) + "\n")


def answers(model, rows):
    """What onnxruntime puts out: every numeric output, by name."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})
    said = {}
    for output, values in zip(session.get_outputs(), found):
        if isinstance(values, list):  # ZipMap: a dictionary a row
            said[output.name] = [[float(value) for value in row.values()] for row in values]
        else:
            said[output.name] = values.tolist()
    return said


class Convolution:
    """A convolution of 3x3 with stride 2, ReLU and a dense layer, on images of 8x8. In numpy: PyTorch is large."""

    def __init__(self, channels, random):
        self.random = random
        self.parts = [
            random.normal(0, (2 / 9) ** 0.5, (channels, 9)),
            np.zeros(channels),
            random.normal(0, (2 / (channels * 16)) ** 0.5, (channels * 16, 10)),
            np.zeros(10),
        ]

    @staticmethod
    def patches(images):
        padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
        found = [padded[:, r : r + 7 : 2, c : c + 7 : 2] for r in range(3) for c in range(3)]
        return np.stack(found, axis=-1).reshape(-1, 16, 9)

    def forward(self, patches):
        kernel, bias, dense, last = self.parts
        sums = np.einsum("npk,ck->ncp", patches, kernel) + bias[None, :, None]
        hidden = np.maximum(sums, 0).reshape(len(patches), -1)
        return sums, hidden, hidden @ dense + last

    def train(self, images, labels, epochs):
        patches, wanted = self.patches(images / 16), np.eye(10)[labels]
        first = [np.zeros_like(part) for part in self.parts]
        second = [np.zeros_like(part) for part in self.parts]
        step = 0
        for epoch in range(epochs):
            rate = 0.005 * (1 - epoch / epochs)
            order = self.random.permutation(len(patches))
            for batch in np.array_split(order, len(order) // 50):
                step += 1
                sums, hidden, scores = self.forward(patches[batch])
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                error = (scores / scores.sum(axis=1, keepdims=True) - wanted[batch]) / len(batch)
                back = (error @ self.parts[2].T).reshape(sums.shape) * (sums > 0)
                slopes = [
                    np.einsum("ncp,npk->ck", back, patches[batch]),
                    back.sum(axis=(0, 2)),
                    hidden.T @ error,
                    error.sum(axis=0),
                ]
                for index, slope in enumerate(slopes):
                    slope = slope + 1e-3 * self.parts[index]
                    first[index] = 0.9 * first[index] + 0.1 * slope
                    second[index] = 0.999 * second[index] + 0.001 * slope**2
                    mean = first[index] / (1 - 0.9**step)
                    spread = second[index] / (1 - 0.999**step)
                    self.parts[index] -= rate * mean / (np.sqrt(spread) + 1e-8)

    def score(self, images, labels):
        return float((self.forward(self.patches(images / 16))[2].argmax(axis=1) == labels).mean())

    def export(self):
        """The nodes that PyTorch's exporter writes for such a net."""
        kernel, bias, dense, last = (part.astype(np.float32) for part in self.parts)
        channels = len(bias)
        constants = [
            numpy_helper.from_array(np.array([-1, 1, 8, 8], dtype=np.int64), "shape"),
            numpy_helper.from_array(np.float32(16), "full"),
            numpy_helper.from_array(kernel.reshape(channels, 1, 3, 3), "conv.weight"),
            numpy_helper.from_array(bias, "conv.bias"),
            numpy_helper.from_array(np.ascontiguousarray(dense.T), "fc.weight"),
            numpy_helper.from_array(last, "fc.bias"),
        ]
        nodes = [
            helper.make_node("Div", ["pixels", "full"], ["scaled"], "/Div"),
            helper.make_node("Reshape", ["scaled", "shape"], ["image"], "/Reshape"),
            helper.make_node(
                "Conv",
                ["image", "conv.weight", "conv.bias"],
                ["sums"],
                "/conv/Conv",
                dilations=[1, 1],
                group=1,
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[2, 2],
            ),
            helper.make_node("Relu", ["sums"], ["hidden"], "/Relu"),
            helper.make_node("Flatten", ["hidden"], ["flat"], "/Flatten", axis=1),
            helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["scores"], "/fc/Gemm", alpha=1.0, transB=1),
        ]
        taken = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])]
        given = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])]
        graph = helper.make_graph(nodes, "digits_conv", taken, given, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def operators():
    """One graph with the operators that no model here has, weights drawn at random."""
    random = np.random.default_rng(SEED)

    def constant(name, *shape):
        return numpy_helper.from_array(random.normal(0, 0.5, shape).astype(np.float32), name)

    constants = [
        constant("kernel", 4, 2, 3, 2),
        constant("offsets", 4),
        constant("gain", 4),
        constant("shift", 4),
        constant("mean", 4),
        numpy_helper.from_array(random.uniform(0.5, 2, 4).astype(np.float32), "variance"),
        constant("grouped", 4, 2, 1, 1),
        constant("dense", 4, 5),
        constant("add", 1, 5),
        numpy_helper.from_array(np.float32(-0.5), "low"),
        numpy_helper.from_array(np.float32(1.5), "high"),
        numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "offsets"], ["a"], pads=[1, 0, 0, 1], strides=[1, 2]),
        helper.make_node("BatchNormalization", ["a", "gain", "shift", "mean", "variance"], ["b"], epsilon=0.001),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
        helper.make_node("Conv", ["d", "grouped"], ["e"], group=2),
        helper.make_node("Clip", ["e", "low", "high"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Squeeze", ["g", "axes"], ["h"]),
        helper.make_node("HardSigmoid", ["h"], ["i"], alpha=0.3, beta=0.4),
        helper.make_node("Gemm", ["i", "dense", "add"], ["j"], alpha=0.5, beta=2.0),
        helper.make_node("Tanh", ["j"], ["k"]),
        helper.make_node("Neg", ["k"], ["l"]),
        helper.make_node("Add", ["l", "k"], ["zero"]),
        helper.make_node("Sub", ["zero", "k"], ["m"]),
        helper.make_node("Concat", ["m", "k"], ["y"], axis=-1),
    ]
    taken = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 5, 6])]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])]
    graph = helper.make_graph(nodes, "operators", taken, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString(), random.normal(0, 1, (8, 2, 5, 6)).round(3)




def digits(growth):
    data = load_digits()
    train, test, wanted, held = train_test_split(
        data.data, data.target, test_size=360, stratify=data.target, random_state=SEED
    )
    if growth:
        growth.mkdir(parents=True, exist_ok=True)
        for depth in range(1, 5):
            for width in (8, 16, 32, 64, 128):
                layers = (width,) * depth
                model = make_pipeline(MinMaxScaler().fit(train), MLPClassifier(layers, alpha=0.1, random_state=SEED))
                model.fit(train, wanted)
                (growth / f"digits-{depth}x{width}.onnx").write_bytes(export(model, 64, "digits"))
                print(f"digits {depth} x {width}: {model.score(test, held):.4f}")
        return
    scaler = StandardScaler(with_std=False)
    linear = make_pipeline(scaler, LogisticRegression(C=0.01, max_iter=5000)).fit(train, wanted)
    mlp = make_pipeline(
        MinMaxScaler(),
        MLPClassifier((32,), alpha=0.3, learning_rate_init=0.003, max_iter=800, random_state=SEED),
    ).fit(train, wanted)
    conv = Convolution(8, np.random.default_rng(SEED))
    conv.train(train, wanted, 40)
    models = {"linear": export(linear, 64, "digits"), "mlp": export(mlp, 64, "digits"), "conv": conv.export()}
    for name, model in {"linear": linear, "mlp": mlp, "conv": conv}.items():
        print(f"digits, {name}: {model.score(test, held):.4f}")
    names = [f"p{index}" for index in range(64)]
    calibration, _, answered, _ = train_test_split(
        train, wanted, train_size=360, stratify=wanted, random_state=SEED
    )
    write_rows(FIXTURES / "digits-calibration.csv", calibration, answered, names)
    write_rows(FIXTURES / "digits-test.csv", test, held, names)
    for name, model in models.items():
        (FIXTURES / f"digits-{name}.onnx").write_bytes(model)
        said = answers(model, test[:20])
        (FIXTURES / f"digits-{name}.json").write_text(json.dumps({"rows": test[:20].tolist(), **said}) + "\n")


def others():
    """Small models of the other kinds, each with rows and what onnxruntime says about them."""
    iris, cancer, diabetes = load_iris(), load_breast_cancer(), load_diabetes()
    names = np.array(iris.target_names)[iris.target]
    models = {
        "iris-linear": (make_pipeline(MinMaxScaler(), LogisticRegression(C=100, max_iter=1000)), iris.data, names),
        "iris-mlp": (
            make_pipeline(
                MinMaxScaler(),
                MLPClassifier((6, 4), max_iter=3000, learning_rate_init=0.01, random_state=SEED),
            ),
            iris.data,
            names,
        ),
        "cancer-logistic": (make_pipeline(StandardScaler(), LogisticRegression()), cancer.data, cancer.target),
        "cancer-svc": (LinearSVC(max_iter=20000), (cancer.data / cancer.data.max(axis=0)).round(4), cancer.target),
        "cancer-tanh": (
            make_pipeline(StandardScaler(), MLPClassifier((4,), activation="tanh", max_iter=1000, random_state=SEED)),
            cancer.data,
            cancer.target,
        ),
        "diabetes-linear": (make_pipeline(StandardScaler(), LinearRegression()), diabetes.data, diabetes.target),
        "diabetes-mlp": (
            make_pipeline(
                StandardScaler(),
                MLPRegressor(hidden_layer_sizes=(8,), activation="logistic", max_iter=3000, random_state=SEED),
            ),
            diabetes.data,
            diabetes.target,
        ),
    }
    for name, (model, rows, wanted) in models.items():
        model.fit(rows, wanted)
        written = export(model, rows.shape[1], name)
        (FIXTURES / f"{name}.onnx").write_bytes(written)
        if name.startswith("diabetes"):
            # No row of the data set: its licence says nothing of copies.
            asked = np.random.default_rng(SEED).normal(0, 0.05, (20, rows.shape[1])).round(4)
        else:
            asked = rows[:: len(rows) // 20][:20]
        said = answers(written, asked)
        (FIXTURES / f"{name}.json").write_text(json.dumps({"rows": asked.tolist(), **said}) + "\n")
    write_rows(FIXTURES / "iris.csv", iris.data, names, ["sepal_length", "sepal_width", "petal_length", "petal_width"])
    written, rows = operators()
    (FIXTURES / "operators.onnx").write_bytes(written)
    (FIXTURES / "operators.json").write_text(
        json.dumps({"rows": rows.reshape(len(rows), -1).tolist(), **answers(written, rows)}) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", type=pathlib.Path, metavar="DIR")
    chosen = parser.parse_args()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    digits(chosen.growth)
    if not chosen.growth:
        others()
