//! Operators on images, as affine maps: convolutions and average pooling.

use super::{GraphError, affine::Sum, live::Live, live::fault};
use crate::fhe::{
    network::{MAX_ROWS, MAX_WEIGHTS},
    onnx::{Node, Tensor},
};

/// How a window moves over an image.
struct Window {
    channels: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    /// Before and after, of rows and columns.
    pads: [[usize; 2]; 2],
}

impl Window {
    fn read(node: &Node, live: &Live, kernel: [usize; 2]) -> Result<Self, GraphError> {
        let [channels, height, width] = live.shape[..] else {
            let problem = format!("takes images of channels, rows and columns, and gets {:?}", live.shape);
            return Err(fault(node, problem));
        };
        if let Some(way) = node.text("auto_pad")?.filter(|way| !matches!(way.as_str(), "NOTSET" | "VALID" | "")) {
            return Err(fault(node, format!("auto_pad is {way}: export the model with explicit pads")));
        }
        if node.ints("dilations")?.is_some_and(|of| of.iter().any(|dilation| *dilation != 1)) {
            return Err(fault(node, "dilations other than 1 are not computed: use a larger kernel"));
        }
        let small = |of: i64, least: i64| usize::try_from(of).ok().filter(|_| of >= least && of <= 1024);
        let list = |attribute: &str, default: &[i64], least: i64| {
            let values = node.ints(attribute)?.unwrap_or_else(|| default.to_vec());
            let values: Option<Vec<usize>> = values.into_iter().map(|of| small(of, least)).collect();
            let values = values.filter(|of| of.len() == default.len());
            values.ok_or_else(|| fault(node, format!("{attribute} are not {} small numbers", default.len())))
        };
        let strides = list("strides", &[1, 1], 1)?;
        let pads = list("pads", &[0, 0, 0, 0], 0)?;
        let window = Self {
            channels,
            size: [height, width],
            kernel,
            strides: [strides[0], strides[1]],
            pads: [[pads[0], pads[2]], [pads[1], pads[3]]],
        };
        if (0..2).any(|side| kernel[side] == 0 || kernel[side] > window.padded(side)) {
            return Err(fault(node, format!("a kernel of {kernel:?} does not fit an image of {:?}", window.size)));
        }
        Ok(window)
    }

    fn padded(&self, side: usize) -> usize {
        self.size[side] + self.pads[side][0] + self.pads[side][1]
    }

    /// Rows and columns of what comes out.
    fn steps(&self, side: usize) -> usize {
        (self.padded(side) - self.kernel[side]) / self.strides[side] + 1
    }

    /// The places of a channel that lie under the kernel at a step, and where in the kernel.
    fn under(&self, channel: usize, row: usize, column: usize) -> impl Iterator<Item = (usize, usize)> {
        let [height, width] = self.size;
        let top = row * self.strides[0];
        let left = column * self.strides[1];
        let inside = |place: usize, side: usize| {
            place.checked_sub(self.pads[side][0]).filter(|place| *place < self.size[side])
        };
        (0..self.kernel[0] * self.kernel[1]).filter_map(move |tap| {
            let y = inside(top + tap / self.kernel[1], 0)?;
            let x = inside(left + tap % self.kernel[1], 1)?;
            Some(((channel * height + y) * width + x, tap))
        })
    }

    /// Refuses what would be too large before it is made.
    fn check(&self, node: &Node, channels: usize, taps: usize) -> Result<(), GraphError> {
        let too_large = |count: usize, of, most| GraphError::TooLarge { node: node.title(), count, of, most };
        let rows = channels.saturating_mul(self.steps(0)).saturating_mul(self.steps(1));
        if rows > MAX_ROWS {
            return Err(too_large(rows, "sums in one layer", MAX_ROWS));
        }
        let weights = rows.saturating_mul(taps);
        if weights > MAX_WEIGHTS {
            return Err(too_large(weights, "weights", MAX_WEIGHTS));
        }
        Ok(())
    }
}

/// `Conv` in two dimensions.
pub(super) fn conv(
    node: &Node,
    live: &Live,
    kernel: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Vec<Sum>, Vec<usize>), GraphError> {
    let [channels, each, height, width] = kernel.dims[..] else {
        return Err(fault(node, "is not a convolution in two dimensions: use Conv2d"));
    };
    let window = Window::read(node, live, [height, width])?;
    let groups = usize::try_from(node.int("group", 1)?).unwrap_or_default();
    if groups == 0
        || channels == 0
        || !channels.is_multiple_of(groups)
        || each.checked_mul(groups) != Some(window.channels)
    {
        let problem =
            format!("{groups} groups of {each} channels do not make the {} of the image", window.channels);
        return Err(fault(node, problem));
    }
    if bias.is_some_and(|bias| bias.values.len() != channels) {
        return Err(fault(node, format!("has not one offset for each of {channels} channels")));
    }
    window.check(node, channels, each * height * width)?;
    let mut rows = Vec::with_capacity(channels * window.steps(0) * window.steps(1));
    for channel in 0..channels {
        let first = channel / (channels / groups) * each;
        for row in 0..window.steps(0) {
            for column in 0..window.steps(1) {
                let mut weights = Vec::with_capacity(each * height * width);
                for input in 0..each {
                    let taps = &kernel.values[(channel * each + input) * height * width..][..height * width];
                    let found = window.under(first + input, row, column);
                    weights.extend(found.map(|(place, tap)| (place as u32, taps[tap])).filter(|of| of.1 != 0.0));
                }
                rows.push(Sum { bias: bias.map_or(0.0, |bias| bias.values[channel]), weights });
            }
        }
    }
    Ok((rows, vec![channels, window.steps(0), window.steps(1)]))
}

/// `AveragePool`.
pub(super) fn average_pool(node: &Node, live: &Live) -> Result<(Vec<Sum>, Vec<usize>), GraphError> {
    let kernel = node.ints("kernel_shape")?.unwrap_or_default();
    let kernel: Option<Vec<usize>> = kernel.into_iter().map(|of| usize::try_from(of).ok()).collect();
    let Some([height, width]) = kernel.as_deref().and_then(|kernel| <[usize; 2]>::try_from(kernel).ok()) else {
        return Err(fault(node, "kernel_shape are not two numbers"));
    };
    if node.int("ceil_mode", 0)? != 0 {
        return Err(fault(node, "ceil_mode is 1: pad the image instead"));
    }
    let window = Window::read(node, live, [height, width])?;
    let count_pads = node.int("count_include_pad", 0)? != 0;
    window.check(node, window.channels, height * width)?;
    let mut rows = Vec::with_capacity(window.channels * window.steps(0) * window.steps(1));
    for channel in 0..window.channels {
        for row in 0..window.steps(0) {
            for column in 0..window.steps(1) {
                let places: Vec<_> = window.under(channel, row, column).map(|(place, _)| place as u32).collect();
                let count = if count_pads { height * width } else { places.len() };
                let share = 1.0 / count.max(1) as f64;
                rows.push(Sum { bias: 0.0, weights: places.into_iter().map(|place| (place, share)).collect() });
            }
        }
    }
    Ok((rows, vec![window.channels, window.steps(0), window.steps(1)]))
}

/// `GlobalAveragePool`: the mean of each channel.
pub(super) fn global_average_pool(node: &Node, live: &Live) -> Result<(Vec<Sum>, Vec<usize>), GraphError> {
    let [channels, height, width] = live.shape[..] else {
        return Err(fault(node, format!("takes images, and gets {:?}", live.shape)));
    };
    let each = height * width;
    let row = |channel: usize| Sum {
        bias: 0.0,
        weights: (channel * each..(channel + 1) * each).map(|place| (place as u32, 1.0 / each as f64)).collect(),
    };
    Ok(((0..channels).map(row).collect(), vec![channels, 1, 1]))
}
