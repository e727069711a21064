//! Memory for what kernels write.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::{ComputeServer, Handle};
use cubecl::stream_id::StreamId;

use super::launching::errand;

/// A tensor on the device of another one, its elements not yet written, one row after another.
///
/// The library's own function does the same with more work for the host: it lays out lists of tensors, with or without padding.
pub(super) fn empty<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    let bytes = (shape.num_elements() * dtype.size()) as u64;
    let reserved = bytes.next_multiple_of(like.client.properties().memory.alignment);
    let stream = StreamId::current();
    let mut handle = Handle::new(stream, reserved);
    let memory = handle.memory.clone();
    errand(like, move |access| {
        let reserve = move |server: &mut R::Server| {
            server.initialize_memory(memory, reserved, stream);
        };
        access.server.submit(reserve);
    });
    handle = handle.offset_start(0).offset_end(reserved - bytes);
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}
