//! Tensors of a GPU as the kernels see them: rows one after another, views of parts, and how work is laid out over units.

use std::marker::PhantomData;

use burn::tensor::TensorPrimitive;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::prelude::*;
use cubecl::zspace::Strides;
use cubecl::zspace::metadata::Metadata;

use super::launching::send_gathered;
use super::memory;

/// Units of a cube that works on one row or on a stretch of elements.
pub(super) const UNITS: usize = 256;

/// Cubes along one dimension of a launch: no runtime allows fewer.
const MOST_CUBES: usize = 65_535;

/// Bytes to which the beginning of a view is aligned on CUDA: the widest vector that is read at once.
const ALIGNMENT_ON_CUDA: usize = 16;

/// The same elsewhere: what every other runtime asks of the beginning of a buffer.
const ALIGNMENT: usize = 256;

/// The tensor of a GPU behind a tensor, with its rows one after another.
pub(super) fn unwrap<R, F, I, BT, const D: usize>(
    tensor: Tensor<CubeBackend<R, F, I, BT>, D>,
) -> CubeTensor<R>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    into_contiguous(tensor.into_primitive().tensor())
}

/// The tensor in front of a tensor of a GPU.
pub(super) fn wrap<R, F, I, BT, const D: usize>(
    tensor: CubeTensor<R>,
) -> Tensor<CubeBackend<R, F, I, BT>, D>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A tensor beside another one, its elements not yet written.
///
/// # Panics
/// Where it would have more elements than kernels can count, in 32 bits; a learner turns that into a fault of the device.
pub(super) fn empty_like<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor<R> {
    let shape = shape.into();
    let elements = shape.num_elements();
    assert!(
        u32::try_from(elements).is_ok(),
        "a tensor of {elements} elements, of which a GPU's kernels can count 2^32: a smaller micro-batch is needed"
    );
    memory::empty(like, shape, dtype)
}

/// Lengths along each dimension.
pub(super) fn dims<R: CubeRuntime, const D: usize>(tensor: &CubeTensor<R>) -> [usize; D] {
    std::array::from_fn(|dimension| tensor.meta.shape()[dimension])
}

/// The same elements seen with other lengths and strides, from an element on that [`may_begin_at`] it. It ends behind its last
/// element: kernels ask for its length.
pub(super) fn view<R: CubeRuntime, const D: usize>(
    tensor: &CubeTensor<R>,
    start: usize,
    shape: [usize; D],
    strides: [usize; D],
) -> CubeTensor<R> {
    let mut view = tensor.clone();
    let last = shape
        .iter()
        .zip(strides)
        .map(|(length, stride)| length.saturating_sub(1) * stride);
    let bytes = |elements: usize| (elements * tensor.elem_size()) as u64;
    let end = bytes(start + last.sum::<usize>() + 1);
    let beyond = tensor.handle.size_in_used().saturating_sub(end);
    view.handle = view.handle.offset_start(bytes(start)).offset_end(beyond);
    *view.meta = Metadata::new(Shape::from(shape), Strides::from(strides.as_slice()));
    view
}

/// Elements in order, seen as a matrix or a stack of matrices, from an element on that [`may_begin_at`] it.
pub(super) fn reshaped<R: CubeRuntime, const D: usize>(
    tensor: &CubeTensor<R>,
    start: usize,
    shape: [usize; D],
) -> CubeTensor<R> {
    let strides = std::array::from_fn(|dimension| shape[dimension + 1..].iter().product());
    view(tensor, start, shape, strides)
}

/// Elements between the places of a tensor at which a view may begin.
fn alignment<R: CubeRuntime>(tensor: &CubeTensor<R>) -> usize {
    let is_cuda = R::name(&tensor.client) == "cuda";
    let bytes = if is_cuda {
        ALIGNMENT_ON_CUDA
    } else {
        ALIGNMENT
    };
    bytes / tensor.dtype.size()
}

/// Whether a view of the tensor may begin at that element.
pub(super) fn may_begin_at<R: CubeRuntime>(tensor: &CubeTensor<R>, start: usize) -> bool {
    start.is_multiple_of(alignment(tensor))
}

/// The first element from `start` on at which a view of a tensor of this type may begin.
pub(super) fn next_beginning<R: CubeRuntime>(tensor: &CubeTensor<R>, start: usize) -> usize {
    start.next_multiple_of(alignment(tensor))
}

/// Rows `start..start + rows` of a matrix whose rows lie one after another: a view where one may begin there, else a copy.
pub(super) fn rows<R: CubeRuntime>(
    tensor: &CubeTensor<R>,
    start: usize,
    rows: usize,
) -> CubeTensor<R> {
    let [_, columns] = dims(tensor);
    if may_begin_at(tensor, start * columns) {
        return reshaped(tensor, start * columns, [rows, columns]);
    }
    send_gathered();
    let range = start..start + rows;
    into_contiguous(burn_cubecl::kernel::slice(
        tensor.clone(),
        &[range, 0..columns],
    ))
}

/// A tensor that a kernel may write into: this one where nothing else holds it, else a copy.
pub(super) fn own<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    if tensor.can_mut() && tensor.is_nonoverlapping() {
        tensor
    } else {
        send_gathered();
        into_contiguous(tensor.copy())
    }
}

/// A tensor's elements as an argument of a launch, one row after another.
pub(super) fn array<R: CubeRuntime>(tensor: &CubeTensor<R>) -> ArrayArg<R> {
    let elements = tensor.meta.num_elements();
    let array = TensorBinding {
        handle: tensor.handle.clone().binding(),
        strides: Strides::from([1].as_slice()),
        shape: Shape::from([elements]),
        runtime: PhantomData,
    };
    array.into_array_arg()
}

/// A tensor's memory with its lengths and strides.
pub(super) fn binding<R: CubeRuntime>(tensor: &CubeTensor<R>) -> TensorBinding<R> {
    TensorBinding {
        handle: tensor.handle.clone().binding(),
        strides: tensor.meta.strides().clone(),
        shape: tensor.meta.shape().clone(),
        runtime: PhantomData,
    }
}

/// A tensor as an argument of a launch that is told its lengths and strides.
pub(super) fn strided<R: CubeRuntime>(tensor: &CubeTensor<R>) -> TensorArg<R> {
    binding(tensor).into_tensor_arg()
}

/// Cubes for `count` independent parts, told apart by `CUBE_POS`; a kernel must stop at those beyond `count`.
pub(super) fn cubes(count: usize) -> CubeCount {
    let across = count.clamp(1, MOST_CUBES);
    CubeCount::Static(across as u32, count.div_ceil(across) as u32, 1)
}

/// Cubes of [`UNITS`] for `count` elements, told apart by `ABSOLUTE_POS`.
pub(super) fn cubes_of_elements(count: usize) -> CubeCount {
    cubes(count.div_ceil(UNITS))
}

/// A cube of so many units.
pub(super) fn units(count: usize) -> CubeDim {
    CubeDim::new_1d(count as u32)
}

/// Integers on the device of another tensor.
pub(super) fn from_integers<R: CubeRuntime>(like: &CubeTensor<R>, values: &[i32]) -> CubeTensor<R> {
    send_gathered();
    let handle = like.client.create_from_slice(i32::as_bytes(values));
    let shape = Shape::from([values.len()]);
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        shape,
        handle,
        DType::I32,
    )
}
