//! What to do instead of an operator that is not computed.

/// What to do instead of an operator.
pub(super) fn advice(operator: &str) -> &'static str {
    match operator {
        "TreeEnsembleClassifier" | "TreeEnsembleRegressor" | "TreeEnsemble" => {
            "a tree decides at every branch, and each decision is a bootstrap and a product of two secrets: train a \
             LogisticRegression or a small MLPClassifier on the same data"
        }
        "SVMClassifier" | "SVMRegressor" => {
            "a kernel multiplies secrets: train a LinearSVC or a small MLPClassifier"
        }
        "MaxPool" | "GlobalMaxPool" => "use AveragePool, which costs no bootstrap",
        "LeakyRelu" | "Elu" | "Selu" | "Gelu" | "PRelu" | "Softplus" | "Softsign" | "HardSwish" | "Mish"
        | "Erf" | "Exp" | "Log" | "Sqrt" | "Pow" | "Abs" | "Sin" | "Cos" | "ThresholdedRelu" | "Celu"
        | "Swish" => {
            "its functions are Relu, Sigmoid, Tanh, HardSigmoid and Clip: train the model with one of them"
        }
        "Normalizer" | "LpNormalization" => {
            "it divides each row by the row's own length: scale the values before they are encrypted, or use \
             StandardScaler"
        }
        "LayerNormalization" | "InstanceNormalization" | "GroupNormalization" | "LRN" => "use BatchNormalization",
        "LSTM" | "GRU" | "RNN" | "Attention" | "Loop" | "If" | "Scan" => {
            "models here are chains of sums and functions of one value: use a small MLP or convolution"
        }
        "Shape" | "Gather" | "Slice" | "Expand" | "Tile" | "Transpose" | "Pad" | "Split" => {
            "export with a fixed shape and torch.flatten(x, 1), so that no shape is computed, and move such steps \
             before the encryption"
        }
        "LabelEncoder" => "train the model on the labels themselves",
        _ => {
            "models are chains of Gemm, MatMul, Conv, AveragePool, BatchNormalization and arithmetic with constants, \
             with Relu, Sigmoid, Tanh, HardSigmoid or Clip between them"
        }
    }
}
