//! Matrix products on GPUs: those of the library, on tensor cores where elements are bf16.

mod noting;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::TensorBinding;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use super::tensor::{binding, empty_like};

/// A factor of a product: a matrix or a stack of them, as it lies or with rows and columns exchanged.
pub(super) struct Factor<'a, R: CubeRuntime> {
    tensor: &'a CubeTensor<R>,
    is_transposed: bool,
}

impl<'a, R: CubeRuntime> From<&'a CubeTensor<R>> for Factor<'a, R> {
    fn from(tensor: &'a CubeTensor<R>) -> Self {
        Self {
            tensor,
            is_transposed: false,
        }
    }
}

/// The matrix with rows and columns exchanged, without a copy.
pub(super) fn transposed<R: CubeRuntime>(tensor: &CubeTensor<R>) -> Factor<'_, R> {
    Factor {
        tensor,
        is_transposed: true,
    }
}

impl<R: CubeRuntime> Factor<'_, R> {
    fn shape(&self) -> Shape {
        let mut shape = self.tensor.meta.shape().clone();
        self.exchange(&mut shape);
        shape
    }

    fn binding(&self) -> TensorBinding<R> {
        let mut binding = binding(self.tensor);
        self.exchange(&mut binding.shape);
        self.exchange(&mut binding.strides);
        binding
    }

    /// What is said of rows and of columns, the last two dimensions, in the order in which the product sees them.
    fn exchange(&self, dimensions: &mut [usize]) {
        let rank = dimensions.len();
        if self.is_transposed {
            dimensions.swap(rank - 2, rank - 1);
        }
    }
}

/// `lhs·rhs` `[.., m, n]` of `[.., m, k]` and `[.., k, n]`, in the type of lhs. Sums are in f32.
pub(super) fn product<'a, R: CubeRuntime>(
    lhs: impl Into<Factor<'a, R>>,
    rhs: impl Into<Factor<'a, R>>,
) -> CubeTensor<R> {
    let lhs = lhs.into();
    let dtype = lhs.tensor.dtype;
    product_as(lhs, rhs, dtype)
}

/// [`product`] with elements of that type.
pub(super) fn product_as<'a, R: CubeRuntime>(
    lhs: impl Into<Factor<'a, R>>,
    rhs: impl Into<Factor<'a, R>>,
    dtype: DType,
) -> CubeTensor<R> {
    let (lhs, rhs) = (lhs.into(), rhs.into());
    let mut shape = lhs.shape();
    let rank = shape.num_dims();
    shape[rank - 1] = rhs.shape()[rank - 1];
    let output = empty_like(lhs.tensor, shape, dtype);
    product_into(lhs, rhs, &output);
    output
}

/// [`product`], written into a tensor of that shape.
///
/// Where the library has no kernel for these shapes on this device, that is a fault of the device.
pub(super) fn product_into<'a, R: CubeRuntime>(
    lhs: impl Into<Factor<'a, R>>,
    rhs: impl Into<Factor<'a, R>>,
    output: &CubeTensor<R>,
) {
    let (lhs, rhs) = (lhs.into(), rhs.into());
    let types = [lhs.tensor.dtype, rhs.tensor.dtype, output.dtype];
    let operands = [lhs.binding(), rhs.binding(), binding(output)];
    noting::repeat(output, operands, types, move |client, operands| {
        let [lhs_type, rhs_type, output_type] = types;
        // Left to itself the library rounds the operands of f32 products to 10 bits (TF32) where there are tensor cores; who
        // asks for f32 is to have it, as in PyTorch.
        let strategy = match lhs_type {
            DType::F32 => Strategy::SimpleUnit(Default::default()),
            _ => Strategy::Auto,
        };
        let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: lhs_type.into(),
            rhs: rhs_type.into(),
            out: output_type.into(),
        });
        let [lhs, rhs, output] = operands;
        let launched = launch_ref(
            &strategy,
            client,
            InputBinding::new(lhs, lhs_type.into()),
            InputBinding::new(rhs, rhs_type.into()),
            output,
            &mut elements,
        );
        if let Err(error) = launched {
            panic!("no kernel for a matrix product: {error}");
        }
    });
}
