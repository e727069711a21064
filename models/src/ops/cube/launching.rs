//! Launches, made on the thread that serves the device.
//!
//! A thread of the library's own talks to the driver. To describe a launch (to name the kernel, to write down its arguments,
//! to copy what the device can do) takes longer than everything else that thread does with it. So the describing is left to that
//! thread, and a step goes on meanwhile.
//!
//! What one thread writes and the other reads has to travel between two cores, at times between distant ones: 50 ns there and
//! back, or 350. So the launches of an operation travel together, as one task.
//!
//! That thread is handed tasks 32 at a time, looks some 8,000 times for more and then sleeps for 150 µs, while a step that has
//! filled the next 32 must wait for it. So tasks are handed over early; but only to a thread that has done all it was handed, for
//! who hands over to a busy one must wait for it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::device_handle::DeviceHandle;

/// How many tasks together are handed over by the library itself.
const FULL: usize = 32;

/// The shortest time between two hand-overs of ours, for each has a price; well below that after which the thread that takes
/// the tasks sleeps.
const SHORTEST_INTERVAL: Duration = Duration::from_micros(50);

/// What launches go through and memory comes from. Errands that travel together share one: its copies share reference counts,
/// and two threads that copy it and drop it contend for them.
pub(super) struct Access<R: CubeRuntime> {
    pub client: ComputeClient<R>,
    pub server: DeviceHandle<R::Server>,
}

impl<R: CubeRuntime> Access<R> {
    fn to(tensor: &CubeTensor<R>) -> Self {
        Self {
            client: tensor.client.clone(),
            server: DeviceHandle::new(tensor.device.to_id()),
        }
    }
}

/// Something to be done on the device's thread, with an [`Access`].
type Errand = Box<dyn FnOnce(&dyn Any) + Send>;

thread_local! {
    static LAST_HAND_OVER: Cell<Option<Instant>> = const { Cell::new(None) };

    /// How many tasks there were when those of this thread were last handed over.
    static HANDED_OVER: Cell<usize> = const { Cell::new(0) };

    /// The errands of the operation that this thread is at, where they travel together, and how many such operations it is in.
    static GATHERED: RefCell<Gathered> = const { RefCell::new(Gathered { depth: 0, to: None, errands: Vec::new() }) };
}

/// A number that one thread writes and another reads, away from all else that is written.
#[repr(align(128))]
struct Count(AtomicUsize);

/// Our tasks for devices so far, and those of them that are done. Where a process works on several devices, one may be taken for
/// busy or idle because of another: nothing but the time of a hand-over hangs on it.
static SUBMITTED: Count = Count(AtomicUsize::new(0));
static DONE: Count = Count(AtomicUsize::new(0));

struct Gathered {
    depth: usize,
    to: Option<(DeviceId, Box<dyn Any + Send>)>,
    errands: Vec<Errand>,
}

/// What the device's thread does for us beside the library's own tasks, in order with them. It needs no state: a launch goes
/// through a client, which finds itself on that thread and launches at once.
struct Errands;

impl DeviceService for Errands {
    fn init(_: DeviceId) -> Self {
        Self
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        Arc::new(())
    }
}

/// One task for the thread of a device.
fn submit(device: DeviceId, task: impl FnOnce() + Send + 'static) {
    struct Task;

    impl Drop for Task {
        fn drop(&mut self) {
            DONE.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let device = DeviceHandle::<Errands>::new(device);
    let submitted = SUBMITTED.0.fetch_add(1, Ordering::Relaxed) + 1;
    device.submit(move |_| {
        let _task = Task;
        task();
    });
    if submitted >= HANDED_OVER.get() + FULL {
        HANDED_OVER.set(submitted);
        return;
    }
    let is_busy = DONE.0.load(Ordering::Relaxed) < HANDED_OVER.get();
    if is_busy {
        return;
    }
    let now = Instant::now();
    let is_time = |last| now.duration_since(last) >= SHORTEST_INTERVAL;
    if LAST_HAND_OVER.get().is_none_or(is_time) {
        LAST_HAND_OVER.set(Some(now));
        HANDED_OVER.set(submitted);
        device.flush_queue();
    }
}

/// Has something done on the thread of a tensor's device, after all that was asked for before.
pub(super) fn errand<R: CubeRuntime>(
    on: &CubeTensor<R>,
    errand: impl FnOnce(&Access<R>) + Send + 'static,
) {
    GATHERED.with_borrow_mut(|gathered| {
        let device = on.device.to_id();
        if gathered.depth == 0 {
            let access = Access::to(on);
            submit(device, move || errand(&access));
            return;
        }
        let is_for = |(other, access): &(DeviceId, Box<dyn Any + Send>)| {
            *other == device && access.is::<Access<R>>()
        };
        if !gathered.to.as_ref().is_some_and(is_for) {
            gathered.send();
            gathered.to = Some((device, Box::new(Access::to(on))));
        }
        gathered.errands.push(Box::new(|access| {
            let access = access.downcast_ref();
            errand(access.expect("errands are gathered by the type of their access"));
        }));
    });
}

impl Gathered {
    /// Where an errand panics, those behind it are not done: that is a fault of the device.
    fn send(&mut self) {
        let errands = std::mem::take(&mut self.errands);
        if let Some((device, access)) = self.to.take() {
            submit(device, move || {
                for errand in errands {
                    errand(&*access);
                }
            });
        }
    }
}

/// Sends what has been gathered so far: before anything that the library launches by itself.
pub(super) fn send_gathered() {
    GATHERED.with_borrow_mut(Gathered::send);
}

/// Does an operation whose launches travel together. Where it has the library launch something it must [`send_gathered`] first.
pub(super) fn together<T>(operation: impl FnOnce() -> T) -> T {
    struct Operation;

    impl Drop for Operation {
        fn drop(&mut self) {
            GATHERED.with_borrow_mut(|gathered| {
                gathered.depth -= 1;
                if gathered.depth == 0 {
                    gathered.send();
                }
            });
        }
    }

    GATHERED.with_borrow_mut(|gathered| gathered.depth += 1);
    let _operation = Operation;
    operation()
}

/// Has a kernel launched on the device of a tensor, after all that was asked for before.
///
/// Its arguments keep their memory until it is launched. They are arrays or bindings and not tensors: a tensor that a waiting
/// launch holds could not be written in place.
pub(super) fn launch<R: CubeRuntime, A: Send + 'static>(
    on: &CubeTensor<R>,
    arguments: A,
    launch: impl FnOnce(&ComputeClient<R>, A) + Send + 'static,
) {
    errand(on, move |access: &Access<R>| {
        launch(&access.client, arguments)
    });
}
