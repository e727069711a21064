//! The operations on the CPU: kernels of our own on the slices behind Flex tensors.
//!
//! The kernels in the files below are plain functions on slices of `f32`; this file takes the slices out of the
//! tensors. A tensor that is not contiguous is copied first, one that is shared is copied before it is written; any
//! other element type than `f32` takes the composed definition. No result depends on the number of threads.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod product;
pub mod rms_norm;
pub mod sum_of_squares;
pub mod swiglu;
pub mod vector;

use burn::backend::Flex;
use burn::tensor::{DType, Int, Shape, Tensor, TensorData, TensorPrimitive};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use self::product::{Matrix, Threads, add_product, product};
use super::attention::Rotary;
use super::{AdamStep, Backend};

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
fn matrix<'a>(values: &'a Values, [rows, columns]: [usize; 2]) -> Matrix<'a> {
    Matrix::new(values.slice(), rows, columns)
}

/// Integers as indices, `None` where negative.
fn indices(tokens: Tensor<Flex, 1, Int>) -> Vec<Option<usize>> {
    tokens
        .into_data()
        .iter::<i64>()
        .map(|token| usize::try_from(token).ok())
        .collect()
}

/// Tokens as indices.
fn tokens(tokens: Tensor<Flex, 1, Int>) -> Vec<usize> {
    let known = indices(tokens)
        .into_iter()
        .map(|token| token.expect("a token is never negative"));
    known.collect()
}

fn are_f32<const D: usize, const N: usize>(tensors: [&Tensor<Flex, D>; N]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

impl Backend for Flex {
    fn linear(x: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&x, &weight]) {
            return super::linear::definition(x, weight);
        }
        let (x_shape, weight_shape) = (x.dims(), weight.dims());
        let (x, weight) = (Values::new(x), Values::new(weight));
        let output = product(
            1.0,
            matrix(&x, x_shape),
            matrix(&weight, weight_shape).transposed(),
            Threads::Pool,
        );
        tensor(output, [x_shape[0], weight_shape[0]])
    }

    fn linear_input_gradient(
        gradient: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        if !are_f32([&gradient, &weight]) {
            return super::linear::input_gradient(gradient, weight);
        }
        let (gradient_shape, weight_shape) = (gradient.dims(), weight.dims());
        let (gradient, weight) = (Values::new(gradient), Values::new(weight));
        let output = product(
            1.0,
            matrix(&gradient, gradient_shape),
            matrix(&weight, weight_shape),
            Threads::Pool,
        );
        tensor(output, [gradient_shape[0], weight_shape[1]])
    }

    fn linear_weight_gradient(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&gradient, &x]) {
            return super::linear::weight_gradient(gradient, x);
        }
        let (gradient_shape, x_shape) = (gradient.dims(), x.dims());
        let (gradient, x) = (Values::new(gradient), Values::new(x));
        let output = product(
            1.0,
            matrix(&gradient, gradient_shape).transposed(),
            matrix(&x, x_shape),
            Threads::Pool,
        );
        tensor(output, [gradient_shape[1], x_shape[1]])
    }

    fn low_rank_linear(
        x: Tensor<Self, 2>,
        weight: Option<Tensor<Self, 2>>,
        a: Tensor<Self, 2>,
        b: Tensor<Self, 2>,
        scale: f32,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        if !are_f32([&x, &a, &b]) || weight.as_ref().is_some_and(|weight| !are_f32([weight])) {
            return super::low_rank_linear::definition(x, weight, a, b, scale);
        }
        let ([rows, inputs], [outputs, rank]) = (x.dims(), b.dims());
        let (x, a, b) = (Values::new(x), Values::new(a), Values::new(b));
        let weight = weight.map(Values::new);
        let x = matrix(&x, [rows, inputs]);
        let projected = product(
            1.0,
            x,
            matrix(&a, [rank, inputs]).transposed(),
            Threads::Pool,
        );
        let low_rank = Matrix::new(&projected, rows, rank);
        let b = matrix(&b, [outputs, rank]).transposed();
        let output = match &weight {
            Some(weight) => {
                let weight = matrix(weight, [outputs, inputs]).transposed();
                let mut output = product(1.0, x, weight, Threads::Pool);
                add_product(&mut output, scale, low_rank, b, Threads::Pool);
                output
            }
            None => product(scale, low_rank, b, Threads::Pool),
        };
        (
            tensor(output, [rows, outputs]),
            tensor(projected, [rows, rank]),
        )
    }

    fn low_rank_linear_backward(
        saved: super::low_rank_linear::Saved<Self>,
        gradient: Tensor<Self, 2>,
        wanted: [bool; 3],
    ) -> [Option<Tensor<Self, 2>>; 3] {
        if !are_f32([&gradient]) {
            return super::low_rank_linear::backward(saved, gradient, wanted);
        }
        let super::low_rank_linear::Saved {
            x,
            weight,
            a,
            b,
            projected,
            scale,
        } = saved;
        let [rows, outputs] = gradient.dims();
        let gradient = Values::new(gradient);
        let gradient = matrix(&gradient, [rows, outputs]);
        let d_b = projected.filter(|_| wanted[2]).map(|projected| {
            let [_, rank] = projected.dims();
            let projected = Values::new(projected);
            let projected = matrix(&projected, [rows, rank]);
            tensor(
                product(scale, gradient.transposed(), projected, Threads::Pool),
                [outputs, rank],
            )
        });
        let Some(b) = b.filter(|_| wanted[0] || wanted[1]) else {
            return [None, None, d_b];
        };
        let [_, rank] = b.dims();
        let b = Values::new(b);
        let through_b = product(scale, gradient, matrix(&b, [outputs, rank]), Threads::Pool);
        let through_b = Matrix::new(&through_b, rows, rank);
        let d_a = x.filter(|_| wanted[1]).map(|x| {
            let [_, inputs] = x.dims();
            let x = Values::new(x);
            let x = matrix(&x, [rows, inputs]);
            tensor(
                product(1.0, through_b.transposed(), x, Threads::Pool),
                [rank, inputs],
            )
        });
        let d_x = a.filter(|_| wanted[0]).map(|a| {
            let [_, inputs] = a.dims();
            let a = Values::new(a);
            let a = matrix(&a, [rank, inputs]);
            let d_x = match weight {
                Some(weight) => {
                    let weight = Values::new(weight);
                    let weight = matrix(&weight, [outputs, inputs]);
                    let mut d_x = product(1.0, gradient, weight, Threads::Pool);
                    add_product(&mut d_x, 1.0, through_b, a, Threads::Pool);
                    d_x
                }
                None => product(1.0, through_b, a, Threads::Pool),
            };
            tensor(d_x, [rows, inputs])
        });
        [d_x, d_a, d_b]
    }

    fn attention(
        query: Tensor<Self, 3>,
        key: Tensor<Self, 3>,
        value: Tensor<Self, 3>,
        heads: usize,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        if !are_f32([&query, &key, &value]) {
            return super::attention::forward(query, key, value, heads);
        }
        let dimensions = query.dims();
        let shape = attention_shape(dimensions, heads);
        let rotary = Rotary::shared(shape.length, shape.width);
        let inputs = [query, key, value].map(Values::new);
        let mut output = vec![0.0; dimensions.iter().product()];
        let mut log_sum_exp = vec![0.0; shape.batch * heads * shape.length];
        let inputs = inputs.each_ref().map(Values::slice);
        attention::forward(inputs, shape, &rotary, &mut output, &mut log_sum_exp);
        (
            tensor(output, dimensions),
            tensor(log_sum_exp, [shape.batch, heads, shape.length]),
        )
    }

    fn attention_backward(
        saved: super::attention::Saved<Self>,
        gradient: Tensor<Self, 3>,
        wanted: [bool; 3],
    ) -> [Option<Tensor<Self, 3>>; 3] {
        if !are_f32([&saved.query, &saved.key, &saved.value, &gradient]) {
            return super::attention::backward(saved, gradient, wanted);
        }
        let dimensions = saved.query.dims();
        let shape = attention_shape(dimensions, saved.heads);
        let rotary = Rotary::shared(shape.length, shape.width);
        let mut outputs =
            wanted.map(|wanted| wanted.then(|| vec![0.0; dimensions.iter().product()]));
        let [query, key, value] = [saved.query, saved.key, saved.value].map(Values::new);
        let [output, log_sum_exp, gradient] =
            [saved.output, saved.log_sum_exp, gradient].map(Values::new);
        let inputs = attention::Inputs {
            query: query.slice(),
            key: key.slice(),
            value: value.slice(),
            output: output.slice(),
            log_sum_exp: log_sum_exp.slice(),
            gradient: gradient.slice(),
        };
        attention::backward(
            inputs,
            shape,
            &rotary,
            outputs.each_mut().map(Option::as_deref_mut),
        );
        outputs.map(|output| output.map(|output| tensor(output, dimensions)))
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
            slice.par_chunks_mut(1 << 14).for_each(block);
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

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !are_f32([&gate, &up]) {
            return super::swiglu::definition(gate, up);
        }
        let shape = gate.dims();
        let (gate, up) = (Values::new(gate), Values::new(up));
        let mut output = vec![0.0; gate.slice().len()];
        swiglu::forward(gate.slice(), up.slice(), &mut output);
        tensor(output, shape)
    }

    fn swiglu_backward(
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        wanted: [bool; 2],
    ) -> [Option<Tensor<Self, 2>>; 2] {
        if !are_f32([&gate, &up, &gradient]) || wanted != [true, true] {
            return super::swiglu::backward(gate, up, gradient, wanted);
        }
        let (mut gate, mut up, gradient) =
            (Values::new(gate), Values::new(up), Values::new(gradient));
        swiglu::backward(gate.slice_mut(), up.slice_mut(), gradient.slice());
        [Some(gate.tensor()), Some(up.tensor())]
    }

    fn embedding(table: Tensor<Self, 2>, tokens: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
        if !are_f32([&table]) {
            return super::embedding::definition(table, tokens);
        }
        let [_, width] = table.dims();
        let (table, tokens) = (Values::new(table), self::tokens(tokens));
        let rows = tokens.len();
        tensor(
            embedding::forward(table.slice(), &tokens, width),
            [rows, width],
        )
    }

    fn embedding_backward(
        tokens: Tensor<Self, 1, Int>,
        gradient: Tensor<Self, 2>,
        vocabulary: usize,
    ) -> Tensor<Self, 2> {
        if !are_f32([&gradient]) {
            return super::embedding::backward(tokens, gradient, vocabulary);
        }
        let [_, width] = gradient.dims();
        let gradient = Values::new(gradient);
        let mut table = vec![0.0; vocabulary * width];
        embedding::backward(&self::tokens(tokens), gradient.slice(), width, &mut table);
        tensor(table, [vocabulary, width])
    }

    fn adamw(
        value: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        first: Tensor<Self, 2>,
        second: Tensor<Self, 2>,
        step: AdamStep,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>, Tensor<Self, 2>) {
        if !are_f32([&value, &gradient, &first, &second]) {
            return super::adamw::definition(value, gradient, first, second, step);
        }
        let gradient = Values::new(gradient);
        let [mut value, mut first, mut second] = [value, first, second].map(Values::new);
        adamw::update(
            value.slice_mut(),
            gradient.slice(),
            first.slice_mut(),
            second.slice_mut(),
            &step,
        );
        (value.tensor(), first.tensor(), second.tensor())
    }

    fn sum_of_squares(x: Tensor<Self, 2>) -> Tensor<Self, 1> {
        if !are_f32([&x]) {
            return super::sum_of_squares::definition(x);
        }
        let sum = sum_of_squares::sum_of_squares(Values::new(x).slice());
        tensor(vec![sum as f32], [1])
    }
}

fn attention_shape([batch, length, hidden]: [usize; 3], heads: usize) -> attention::Shape {
    attention::Shape {
        batch,
        length,
        heads,
        width: hidden / heads,
    }
}
