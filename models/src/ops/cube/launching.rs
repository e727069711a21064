//! Launches, made on the thread that serves the device.
//!
//! A thread of the library's own talks to the driver. To describe a launch (to name the kernel, to write down its arguments,
//! to copy what the device can do) takes longer than all that thread has to do else, and a step's operations follow each other
//! faster than it: so the describing is left to that thread, and a step goes on meanwhile.
//!
//! That thread is handed tasks 32 at a time, looks some 8,000 times for more and then sleeps for 150 µs, while a step that has
//! filled the next 32 must wait for it. A step that is a little slower than usual, because something else runs on the
//! processor, so becomes much slower. Tasks are therefore handed over early.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::device_handle::DeviceHandle;

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

/// What the device's thread does for us beside the library's own tasks, in order with them. It needs no state: a launch goes
/// through a client, which finds itself on that thread and launches at once.
struct Launches;

impl DeviceService for Launches {
    fn init(_: DeviceId) -> Self {
        Self
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        Arc::new(())
    }
}

/// Has a kernel launched on the device of a tensor, after all that was asked for before.
///
/// Its arguments keep their memory until then. They are not tensors: one that is still held somewhere cannot be written in
/// place.
pub(super) fn launch<R: CubeRuntime, A: Send + 'static>(
    on: &CubeTensor<R>,
    arguments: A,
    launch: impl FnOnce(&ComputeClient<R>, A) + Send + 'static,
) {
    let client = on.client.clone();
    let device = DeviceHandle::<Launches>::new(on.device.to_id());
    device.submit(move |_| launch(&client, arguments));
    if is_time_to_hand_over() {
        device.flush_queue();
    }
}
