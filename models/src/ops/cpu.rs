//! The operations on the CPU: kernels of our own on the slices behind Flex tensors.
//!
//! The kernels in the files below are plain functions on slices of `f32`; this file takes the slices out of the
//! tensors. A tensor that is not contiguous is copied first, one that is shared is copied before it is written; any
//! other element type than `f32` takes the composed definition. No result depends on the number of threads.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod low_rank_linear;
pub mod product;
pub mod rms_norm;
pub mod sum_of_squares;
pub mod swiglu;
pub mod vector;

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::{DType, Int, Shape, Tensor, TensorData, TensorPrimitive};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use self::product::{Matrix, Threads, add_product, product, products};
use super::attention::Rotary;
use super::dropout::Mask;
use super::{AdamState, AdamStep, Backend, Input};

/// The storage of a float tensor, contiguous.
struct Values(FlexTensor);

impl Values {
    fn new<const D: usize>(tensor: Tensor<Flex, D>) -> Self {
        let tensor = tensor.into_primitive().tensor();
        if tensor.layout().contiguous_offsets().is_some() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }

    fn slice(&self) -> &[f32] {
        let values = self.0.as_slice();
        values.expect("the element type was checked and the layout made contiguous")
    }

    /// The elements to write to; copied first if anyone else holds the tensor.
    fn slice_mut(&mut self) -> &mut [f32] {
        let offsets = self.0.layout().contiguous_offsets();
        let (start, end) = offsets.expect("the layout was made contiguous");
        &mut self.0.storage_mut()[start..end]
    }

    fn tensor<const D: usize>(self) -> Tensor<Flex, D> {
        Tensor::from_primitive(TensorPrimitive::Float(self.0))
    }
}

/// A tensor of new values.
fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    let data = TensorData::new(values, Shape::from(shape));
    Tensor::from_primitive(TensorPrimitive::Float(FlexTensor::from_data(data)))
}

/// A float tensor as a matrix.
struct Operand {
    values: Values,
    shape: [usize; 2],
}

impl Operand {
    fn new(tensor: Tensor<Flex, 2>) -> Self {
        let shape = tensor.dims();
        let values = Values::new(tensor);
        Self { values, shape }
    }

    fn matrix(&self) -> Matrix<'_> {
        let [rows, columns] = self.shape;
        Matrix::new(self.values.slice(), rows, columns)
    }
}

fn operands(tensors: Vec<Tensor<Flex, 2>>) -> Vec<Operand> {
    tensors.into_iter().map(Operand::new).collect()
}

/// Integers as indices, `None` where negative.
fn indices(tokens: Tensor<Flex, 1, Int>) -> Vec<Option<usize>> {
    tokens
        .into_data()
        .iter::<i64>()
        .map(|token| usize::try_from(token).ok())
        .collect()
}

fn are_f32<'a, const D: usize>(tensors: impl IntoIterator<Item = &'a Tensor<Flex, D>>) -> bool {
    let mut tensors = tensors.into_iter();
    tensors.all(|tensor| tensor.dtype() == DType::F32)
}

impl Backend for Flex {
    fn linear(x: Input<Self>, weights: Vec<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        let x = x.value();
        if !are_f32(weights.iter().chain([&x])) {
            return super::linear::definition(x, weights);
        }
        let (x, weights) = (Operand::new(x), operands(weights));
        let pairs: Vec<_> = weights
            .iter()
            .map(|weight| (x.matrix(), weight.matrix().transposed()))
            .collect();
        let outputs = weights.iter().map(|weight| weight.shape[0]).sum();
        let output = products(1.0, &pairs, Threads::Pool);
        tensor(output, [x.shape[0], outputs])
    }

    fn linear_backward(
        saved: super::linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        if !are_f32(saved.weights.iter().chain(&saved.x).chain([&gradient])) {
            return super::linear::backward(saved, gradient, wanted);
        }
        let x = saved.x.map(Operand::new);
        let weights = operands(saved.weights);
        let gradient = Operand::new(gradient);
        let rows = gradient.shape[0];
        let mut d_x: Option<Vec<f32>> = None;
        let mut d_weights = Vec::with_capacity(weights.len());
        let mut start = 0;
        for (weight, wanted_weight) in weights.iter().zip(&wanted[1..]) {
            let end = start + weight.shape[0];
            let gradient = gradient.matrix().columns(start..end);
            start = end;
            let d_weight = x.as_ref().filter(|_| *wanted_weight).map(|x| {
                let d_weight = product(1.0, gradient.transposed(), x.matrix(), Threads::Pool);
                tensor(d_weight, weight.shape)
            });
            d_weights.push(d_weight);
            if wanted[0] {
                match &mut d_x {
                    None => d_x = Some(product(1.0, gradient, weight.matrix(), Threads::Pool)),
                    Some(sum) => add_product(sum, 1.0, gradient, weight.matrix(), Threads::Pool),
                }
            }
        }
        let inputs = weights.first().map_or(0, |weight| weight.shape[1]);
        let d_x = d_x.map(|d_x| tensor(d_x, [rows, inputs]));
        std::iter::once(d_x).chain(d_weights).collect()
    }

    fn low_rank_linear(
        x: Input<Self>,
        layers: Vec<super::low_rank_linear::Layer<Self>>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        let x = x.value();
        if !are_f32(layers.iter().flat_map(|layer| layer.tensors()).chain([&x])) {
            return super::low_rank_linear::definition(x, &layers, scale);
        }
        let x = Operand::new(x);
        let rows = x.shape[0];
        let layers: Vec<_> = layers.into_iter().map(LowRankOperands::new).collect();
        let layers: Vec<_> = layers.iter().map(LowRankOperands::layer).collect();
        let outputs = layers.iter().map(|layer| layer.outputs).sum();
        let output = low_rank_linear::forward(x.values.slice(), rows, &layers, scale);
        tensor(output, [rows, outputs])
    }

    fn low_rank_linear_backward(
        saved: super::low_rank_linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: &[bool],
    ) -> Vec<Option<Tensor<Self, 2>>> {
        let tensors = saved.layers.iter().flat_map(|layer| layer.tensors());
        if !are_f32(tensors.chain(&saved.x).chain([&gradient])) {
            return super::low_rank_linear::backward(saved, gradient, wanted);
        }
        let x = saved.x.map(Operand::new);
        let gradient = Operand::new(gradient);
        let layers: Vec<_> = saved.layers.into_iter().map(LowRankOperands::new).collect();
        let layers: Vec<_> = layers.iter().map(LowRankOperands::layer).collect();
        let gradients = low_rank_linear::backward(
            x.as_ref().map(|x| x.values.slice()),
            gradient.matrix(),
            &layers,
            saved.scale,
            wanted,
        );
        let rows = gradient.shape[0];
        let inputs = layers.first().map_or(0, |layer| layer.inputs);
        let mut all = vec![gradients.x.map(|values| tensor(values, [rows, inputs]))];
        for (layer, [a, b]) in layers.iter().zip(gradients.factors) {
            all.push(a.map(|values| tensor(values, [layer.rank, layer.inputs])));
            all.push(b.map(|values| tensor(values, [layer.outputs, layer.rank])));
        }
        all
    }

    fn attention(
        query_key_value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        if !are_f32([&query_key_value]) {
            return super::attention::forward(query_key_value, heads);
        }
        let shape = attention_shape(query_key_value.dims(), heads);
        let attention::Shape {
            batch,
            length,
            width,
            ..
        } = shape;
        let rotary = Rotary::shared(length, width);
        let query_key_value = Values::new(query_key_value);
        let mut output = vec![0.0; batch * length * heads * width];
        let mut log_sum_exp = vec![0.0; batch * heads * length];
        attention::forward(
            query_key_value.slice(),
            shape,
            &rotary,
            &mut output,
            &mut log_sum_exp,
        );
        (
            tensor(output, [batch, length, heads * width]),
            tensor(log_sum_exp, [batch, heads, length]),
        )
    }

    fn attention_backward(
        saved: super::attention::Saved<Self>,
        gradient: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        if !are_f32([&saved.query_key_value, &gradient]) {
            return super::attention::backward(saved, gradient);
        }
        let dimensions = saved.query_key_value.dims();
        let shape = attention_shape(dimensions, saved.heads);
        let rotary = Rotary::shared(shape.length, shape.width);
        let [query_key_value, output, log_sum_exp, gradient] = [
            saved.query_key_value,
            saved.output,
            saved.log_sum_exp,
            gradient,
        ]
        .map(Values::new);
        let inputs = attention::Inputs {
            query_key_value: query_key_value.slice(),
            output: output.slice(),
            log_sum_exp: log_sum_exp.slice(),
            gradient: gradient.slice(),
        };
        let mut gradients = vec![0.0; dimensions.iter().product()];
        attention::backward(inputs, shape, &rotary, &mut gradients);
        tensor(gradients, dimensions)
    }

    fn cross_entropy(
        hidden: Tensor<Self, 2>,
        head: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        wanted: [bool; 2],
    ) -> (Tensor<Self, 1>, [Option<Tensor<Self, 2>>; 2]) {
        if !are_f32([&hidden, &head]) {
            return super::cross_entropy::forward(hidden, head, targets, wanted);
        }
        let (hidden_shape, head_shape) = (hidden.dims(), head.dims());
        let (hidden, head) = (Values::new(hidden), Values::new(head));
        let output = cross_entropy::forward(
            hidden.slice(),
            head.slice(),
            hidden_shape[1],
            &indices(targets),
            wanted,
        );
        let d_hidden = output.d_hidden.map(|values| tensor(values, hidden_shape));
        let d_head = output.d_head.map(|values| tensor(values, head_shape));
        (tensor(vec![output.loss as f32], [1]), [d_hidden, d_head])
    }

    fn scale(tensor: Tensor<Self, 2>, factor: Tensor<Self, 1>) -> Tensor<Self, 2> {
        if !are_f32([&tensor]) || !are_f32([&factor]) {
            let dtype = tensor.dtype();
            return tensor * factor.cast(dtype).reshape([1, 1]);
        }
        let factor = Values::new(factor).slice()[0];
        if factor == 1.0 {
            return tensor;
        }
        let mut values = Values::new(tensor);
        let block = |block: &mut [f32]| {
            vector::vectorised(
                #[inline(always)]
                || vector::multiply(block, factor),
            )
        };
        let slice = values.slice_mut();
        if vector::worth_threads(slice.len()) {
            slice.par_chunks_mut(vector::BLOCK).for_each(block);
        } else {
            block(slice);
        }
        values.tensor()
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&x, &weight]) {
            return super::rms_norm::definition(x, weight);
        }
        let shape = x.dims();
        let (x, weight) = (Values::new(x), Values::new(weight));
        let mut output = vec![0.0; x.slice().len()];
        rms_norm::forward(x.slice(), weight.slice(), &mut output);
        tensor(output, shape)
    }

    fn rms_norm_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        wanted: [bool; 2],
    ) -> [Option<Tensor<Self, 2>>; 2] {
        if !are_f32([&x, &weight, &gradient]) {
            return super::rms_norm::backward(x, weight, gradient, wanted);
        }
        let width = x.dims()[1];
        let (x, weight, mut gradient) =
            (Values::new(x), Values::new(weight), Values::new(gradient));
        let d_weight = rms_norm::backward(x.slice(), weight.slice(), gradient.slice_mut(), wanted);
        [
            wanted[0].then(|| gradient.tensor()),
            d_weight.map(|values| tensor(values, [1, width])),
        ]
    }

    fn swiglu(gate_up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&gate_up]) {
            return super::swiglu::definition(gate_up);
        }
        let [rows, both] = gate_up.dims();
        let width = both / 2;
        let mut output = vec![0.0; rows * width];
        swiglu::forward(Values::new(gate_up).slice(), width, &mut output);
        tensor(output, [rows, width])
    }

    fn swiglu_backward(gate_up: Tensor<Self, 2>, gradient: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&gate_up, &gradient]) {
            return super::swiglu::backward(gate_up, gradient);
        }
        let [_, width] = gradient.dims();
        let mut gate_up = Values::new(gate_up);
        swiglu::backward(gate_up.slice_mut(), width, Values::new(gradient).slice());
        gate_up.tensor()
    }

    fn residual(x: Tensor<Self, 2>, f: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&x, &f]) {
            return super::residual::definition(x, f);
        }
        let (x, mut f) = (Values::new(x), Values::new(f));
        vector::add_to(f.slice_mut(), x.slice());
        f.tensor()
    }

    fn embedding(table: Tensor<Self, 2>, tokens: Arc<[u32]>) -> Tensor<Self, 2> {
        if !are_f32([&table]) {
            return super::embedding::definition(table, &tokens);
        }
        let [_, width] = table.dims();
        let output = embedding::forward(Values::new(table).slice(), &tokens, width);
        tensor(output, [tokens.len(), width])
    }

    fn embedding_backward(
        tokens: Arc<[u32]>,
        gradient: Tensor<Self, 2>,
        vocabulary: usize,
    ) -> Tensor<Self, 2> {
        if !are_f32([&gradient]) {
            return super::embedding::backward(&tokens, gradient, vocabulary);
        }
        let [_, width] = gradient.dims();
        let gradient = Values::new(gradient);
        let mut table = vec![0.0; vocabulary * width];
        embedding::backward(&tokens, gradient.slice(), width, &mut table);
        tensor(table, [vocabulary, width])
    }

    fn sums_of_squares(tensors: Vec<Tensor<Self, 2>>) -> Tensor<Self, 1> {
        if !are_f32(&tensors) {
            return super::sum_of_squares::definition(tensors);
        }
        let count = tensors.len();
        let sum = |x| sum_of_squares::sum_of_squares(Values::new(x).slice()) as f32;
        tensor(tensors.into_iter().map(sum).collect(), [count])
    }

    fn adamw(
        states: Vec<AdamState<Self>>,
        gradients: Vec<Tensor<Self, 2>>,
        step: AdamStep,
    ) -> Vec<AdamState<Self>> {
        let pairs = states.into_iter().zip(gradients);
        pairs
            .map(|(state, gradient)| adamw_of_one(state, gradient, &step))
            .collect()
    }
}

/// One AdamW update of one parameter.
fn adamw_of_one(
    state: AdamState<Flex>,
    gradient: Tensor<Flex, 2>,
    step: &AdamStep,
) -> AdamState<Flex> {
    if state.copy.is_some() || !are_f32([&state.full, &gradient, &state.first, &state.second]) {
        return super::adamw::definition(state, gradient, step);
    }
    let gradient = Values::new(gradient);
    let [mut full, mut first, mut second] =
        [state.full, state.first, state.second].map(Values::new);
    adamw::update(
        full.slice_mut(),
        gradient.slice(),
        first.slice_mut(),
        second.slice_mut(),
        step,
    );
    AdamState {
        full: full.tensor(),
        copy: None,
        first: first.tensor(),
        second: second.tensor(),
    }
}

/// The tensors of a low-rank layer as operands.
struct LowRankOperands {
    weight: Option<Operand>,
    a: Operand,
    b: Operand,
    mask: Option<Mask>,
}

impl LowRankOperands {
    fn new(layer: super::low_rank_linear::Layer<Flex>) -> Self {
        Self {
            weight: layer.weight.map(Operand::new),
            a: Operand::new(layer.a),
            b: Operand::new(layer.b),
            mask: layer.mask,
        }
    }

    fn layer(&self) -> low_rank_linear::Layer<'_> {
        let [rank, inputs] = self.a.shape;
        low_rank_linear::Layer {
            inputs,
            outputs: self.b.shape[0],
            rank,
            weight: self.weight.as_ref().map(|weight| weight.values.slice()),
            a: self.a.values.slice(),
            b: self.b.values.slice(),
            mask: self.mask.as_ref(),
        }
    }
}

/// The shape behind query, key and value side by side.
fn attention_shape([batch, length, three_hidden]: [usize; 3], heads: usize) -> attention::Shape {
    attention::Shape {
        batch,
        length,
        heads,
        width: three_hidden / 3 / heads,
    }
}
