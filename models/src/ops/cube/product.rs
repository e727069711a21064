//! Matrix products on GPUs: those of the library, on tensor cores where elements are bf16.

mod noting;

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use super::tensor::empty_like;

/// `lhs·rhs` `[.., m, n]` of `[.., m, k]` and `[.., k, n]`, in the type of lhs. Sums are in f32.
pub(super) fn product<R: CubeRuntime>(lhs: CubeTensor<R>, rhs: CubeTensor<R>) -> CubeTensor<R> {
    let dtype = lhs.dtype;
    product_as(lhs, rhs, dtype)
}

/// [`product`] with elements of that type.
pub(super) fn product_as<R: CubeRuntime>(
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    dtype: DType,
) -> CubeTensor<R> {
    let mut shape = lhs.meta.shape().clone();
    let rank = shape.num_dims();
    shape[rank - 1] = rhs.meta.shape()[rank - 1];
    let output = empty_like(&lhs, shape, dtype);
    product_into(lhs, rhs, output.clone());
    output
}

/// [`product`], written into a tensor of that shape.
///
/// # Panics
/// Where the library has no kernel for these shapes on this device; a learner turns that into a fault of the device.
pub(super) fn product_into<R: CubeRuntime>(
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    output: CubeTensor<R>,
) {
    let (lhs_type, rhs_type, output_type) = (lhs.dtype, rhs.dtype, output.dtype);
    // Left to itself the library rounds the operands of f32 products to 10 bits (TF32) where there are tensor cores; who
    // asks for f32 is to have it, as in PyTorch.
    let strategy = match lhs_type {
        DType::F32 => Strategy::SimpleUnit(Default::default()),
        _ => Strategy::Auto,
    };
    noting::repeat([lhs, rhs, output], |client, [lhs, rhs, output]| {
        let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: lhs_type.into(),
            rhs: rhs_type.into(),
            out: output_type.into(),
        });
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
