//! Memory for what kernels write.
//!
//! A thread of the library's own launches kernels and asks the driver for memory. It is handed such tasks 32 at a time, looks
//! some 8,000 times for more and then sleeps for 150 µs, while a step that has filled the next 32 must wait for it. A step that
//! is a little slower than usual, because something else runs on the processor, so becomes much slower. Memory is asked for
//! again and again throughout a step, so that is where tasks are handed over early.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{ComputeServer, Handle};
use cubecl::stream_id::StreamId;

/// How long tasks wait for others to be handed over with: well below the time after which the thread that takes them sleeps.
const LONGEST_WAIT: Duration = Duration::from_micros(50);

thread_local! {
    static HANDED_OVER: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether tasks have waited long enough; if so, the next ones begin to wait.
fn is_time_to_hand_over() -> bool {
    let now = Instant::now();
    let is_time = HANDED_OVER
        .get()
        .is_none_or(|before| now.duration_since(before) >= LONGEST_WAIT);
    if is_time {
        HANDED_OVER.set(Some(now));
    }
    is_time
}

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
    let device = DeviceHandle::<R::Server>::new(like.device.to_id());
    device.submit(move |server| server.initialize_memory(memory, reserved, stream));
    if is_time_to_hand_over() {
        device.flush_queue();
    }
    handle = handle.offset_start(0).offset_end(reserved - bytes);
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}
