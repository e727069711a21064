//! A runtime that launches nothing: it notes which kernel it is asked to launch, and with which arguments.
//!
//! The library chooses the kernel of a product, describes the operands to it and names it anew at every launch. On the host that
//! costs more than all else that training asks of a GPU (docs/performance.md), and for operands of one kind it comes to the
//! same each time. So the library is asked once for each kind, on this runtime, and what it would have launched is
//! launched from then on with whatever buffers there are.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::backtrace::BackTrace;
use cubecl::bytes::Bytes;
use cubecl::client::ComputeClient;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::DynFut;
use cubecl::ir::{DeviceProperties, StorageType, TargetProperties};
use cubecl::prelude::{KernelId, KernelMetadata, TensorBinding};
use cubecl::profile::ProfileDuration;
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, CubeCount, ExecutionMode, Handle, IoError,
    KernelArguments, MetadataBindingInfo, ProfileError, ProfilingToken, ServerCommunication,
    ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{CompilationError, Compiler, CubeTask, MemoryAllocationMode, MemoryUsage, Runtime};
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::kernel::CompiledKernel;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::ManagedMemoryHandle;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};

use super::super::launching::launch;

/// What a product reads, twice, and what it writes.
const OPERANDS: usize = 3;

/// Numbers that tell stacks of matrices apart: of each, its dimensions, a length and a stride for each, and two sizes in bytes.
const NUMBERS: usize = OPERANDS * (1 + 2 * 3 + 2);

/// What the library's choice depends on: types, shapes, strides and bytes of the operands.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    types: [DType; OPERANDS],
    numbers: Vec<usize>,
}

impl Kind {
    fn of<R: CubeRuntime>(
        operands: &[TensorBinding<R>; OPERANDS],
        types: [DType; OPERANDS],
    ) -> Self {
        let mut numbers = Vec::with_capacity(NUMBERS);
        for operand in operands {
            numbers.push(operand.shape.num_dims());
            numbers.extend_from_slice(&operand.shape);
            numbers.extend_from_slice(&operand.strides);
            let bytes = [operand.handle.size, operand.handle.size_in_used()];
            numbers.extend(bytes.map(|bytes| bytes as usize));
        }
        Self { types, numbers }
    }
}

/// A launch without its buffers.
struct Launch<C: Compiler> {
    kernel: Box<dyn CubeTask<C>>,
    id: KernelId,
    cubes: (u32, u32, u32),
    data: Vec<u64>,
    dynamic_metadata_offset: usize,
    mode: ExecutionMode,
    /// Which operand each of the kernel's buffers is.
    operands: Vec<usize>,
}

/// The kernel of a launch that is repeated: its name is short, for the device compares names at each launch.
struct Repeated<C: Compiler>(Arc<Launch<C>>);

impl<C: Compiler> KernelMetadata for Repeated<C> {
    fn name(&self) -> &'static str {
        self.0.kernel.name()
    }

    fn id(&self) -> KernelId {
        self.0.id.clone()
    }

    fn address_type(&self) -> StorageType {
        self.0.kernel.address_type()
    }
}

impl<C: Compiler> CubeTask<C> for Repeated<C> {
    fn compile(
        &self,
        compiler: &mut C,
        options: &C::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<C>, CompilationError> {
        self.0.kernel.compile(compiler, options, mode, address_type)
    }
}

/// What one launch was asked for.
struct Note<C: Compiler> {
    kernel: Box<dyn CubeTask<C>>,
    cubes: CubeCount,
    arguments: KernelArguments,
    mode: ExecutionMode,
}

impl<C: Compiler> Note<C> {
    /// The launch, where it is one that can be repeated with other buffers.
    fn launch(self) -> Option<Launch<C>> {
        let CubeCount::Static(x, y, z) = self.cubes else {
            return None;
        };
        let KernelArguments {
            buffers,
            info,
            tensor_maps,
        } = self.arguments;
        if !tensor_maps.is_empty() {
            return None;
        }
        let long = self.kernel.id();
        let id = KernelId::new::<Repeated<C>>()
            .cube_dim(long.cube_dim)
            .info(long.stable_hash());
        Some(Launch {
            kernel: self.kernel,
            id,
            cubes: (x, y, z),
            data: info.data,
            dynamic_metadata_offset: info.dynamic_metadata_offset,
            mode: self.mode,
            operands: buffers.iter().map(operand_of).collect(),
        })
    }
}

/// A buffer that stands for an operand. Nothing is in it, and nobody asks: its stream says which operand it is.
fn stand_in(operand: usize, real: &Binding) -> Handle {
    let stream = StreamId {
        value: operand as u64,
    };
    let mut handle = Handle::new(stream, real.size);
    (handle.offset_start, handle.offset_end) = (real.offset_start, real.offset_end);
    handle
}

fn operand_of(stand_in: &Binding) -> usize {
    stand_in.stream.value as usize
}

/// What has been noted on a device, by its thread: launches by kind, and those of the kind that is being prepared.
pub(super) struct Book<C: Compiler> {
    launches: Mutex<HashMap<Kind, Arc<Launch<C>>>>,
    notes: Mutex<Vec<Note<C>>>,
}

impl<C: Compiler> Debug for Book<C> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Book")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime that notes what would be launched on `R`.
pub(super) struct Noting<R>(PhantomData<R>);

impl<R> Clone for Noting<R> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<R> Debug for Noting<R> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Noting")
    }
}

impl<R: Runtime> Runtime for Noting<R> {
    type Compiler = R::Compiler;
    type Server = NotingServer<R::Compiler>;
    type Device = R::Device;

    fn client(device: &R::Device) -> ComputeClient<Self> {
        noting::<R>(device, R::client(device).properties())
    }

    fn name(_client: &ComputeClient<Self>) -> &'static str {
        "noting"
    }

    fn require_array_lengths() -> bool {
        R::require_array_lengths()
    }

    fn max_cube_count() -> (u32, u32, u32) {
        R::max_cube_count()
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        R::can_read_tensor(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        R::target_properties()
    }

    fn enumerate_devices(_: u16, _: &Arc<Book<R::Compiler>>) -> Vec<DeviceId> {
        Vec::new()
    }
}

/// A client that notes.
struct Client {
    runtime: TypeId,
    device: DeviceId,
    client: Box<dyn Any + Send>,
}

/// The client that notes for this device, which has those properties.
fn noting<R: Runtime>(
    device: &R::Device,
    properties: &DeviceProperties,
) -> ComputeClient<Noting<R>> {
    static CLIENTS: Mutex<Vec<Client>> = Mutex::new(Vec::new());
    let of = (TypeId::of::<R>(), device.to_id());
    let mut clients = locked(&CLIENTS);
    let known = clients
        .iter()
        .find(|client| (client.runtime, client.device) == of)
        .and_then(|client| client.client.downcast_ref::<ComputeClient<Noting<R>>>());
    if let Some(client) = known {
        return client.clone();
    }
    let client = ComputeClient::init(device, NotingServer::new(properties.clone()));
    clients.push(Client {
        runtime: of.0,
        device: of.1,
        client: Box::new(client.clone()),
    });
    client
}

/// The launch for operands of this kind: the one that was noted, or what `prepare` launches on a client that notes.
///
/// # Panics
/// Where that is not one kernel, which reads and writes nothing but the operands.
fn launch_for<R: CubeRuntime>(
    noting: &ComputeClient<Noting<R>>,
    operands: &[TensorBinding<R>; OPERANDS],
    types: [DType; OPERANDS],
    prepare: impl FnOnce(&ComputeClient<Noting<R>>, [TensorBinding<Noting<R>>; OPERANDS]),
) -> Arc<Launch<R::Compiler>> {
    let book: &Book<R::Compiler> = noting.info();
    let kind = Kind::of(operands, types);
    if let Some(launch) = locked(&book.launches).get(&kind) {
        return launch.clone();
    }
    let stand_ins = std::array::from_fn(|operand| {
        let real = &operands[operand];
        TensorBinding {
            handle: stand_in(operand, &real.handle).binding(),
            strides: real.strides.clone(),
            shape: real.shape.clone(),
            runtime: PhantomData,
        }
    });
    // A panic may have left some.
    locked(&book.notes).clear();
    prepare(noting, stand_ins);
    let mut notes = std::mem::take(&mut *locked(&book.notes));
    let one = notes.pop().filter(|_| notes.is_empty());
    let launch = one
        .and_then(Note::launch)
        .unwrap_or_else(|| panic!("a matrix product of several kernels, for {kind:?}"));
    let launch = Arc::new(launch);
    locked(&book.launches).insert(kind, launch.clone());
    launch
}

/// Launches what `prepare` launches on operands of this kind and these types, with these operands, on the device of a tensor.
///
/// Where that is not one kernel, which reads and writes nothing but the operands, that is a fault of the device.
pub(super) fn repeat<R: CubeRuntime>(
    on: &CubeTensor<R>,
    operands: [TensorBinding<R>; OPERANDS],
    types: [DType; OPERANDS],
    prepare: impl FnOnce(&ComputeClient<Noting<R>>, [TensorBinding<Noting<R>>; OPERANDS])
    + Send
    + 'static,
) {
    // The device's thread cannot make it: it begins no service while it is at work for another.
    let noting = noting::<R>(&on.device, on.client.properties());
    launch(on, operands, move |client, operands| {
        let launch = launch_for(&noting, &operands, types, prepare);
        let buffers = launch.operands.iter();
        let arguments = KernelArguments {
            buffers: buffers
                .map(|operand| operands[*operand].handle.clone())
                .collect(),
            info: MetadataBindingInfo::new(launch.data.clone(), launch.dynamic_metadata_offset),
            tensor_maps: Vec::new(),
        };
        let (x, y, z) = launch.cubes;
        let cubes = CubeCount::Static(x, y, z);
        match launch.mode {
            ExecutionMode::Checked => client.launch(Box::new(Repeated(launch)), cubes, arguments),
            _ => {
                #[expect(
                    unsafe_code,
                    reason = "the library has checked what it launches so, and operands of this kind are what it was asked for"
                )]
                unsafe {
                    client.launch_unchecked(Box::new(Repeated(launch)), cubes, arguments);
                }
            }
        }
    });
}

/// Notes launches, and does nothing else.
#[derive(Debug)]
pub(super) struct NotingServer<C: Compiler> {
    utilities: Arc<ServerUtilities<Self>>,
}

impl<C: Compiler> NotingServer<C> {
    fn new(properties: DeviceProperties) -> Self {
        let book = Arc::new(Book {
            launches: Mutex::default(),
            notes: Mutex::default(),
        });
        let policy = ContiguousMemoryLayoutPolicy::new(properties.memory.alignment as usize);
        let logger = Arc::new(ServerLogger::default());
        Self {
            utilities: Arc::new(ServerUtilities::new(properties, logger, book, policy)),
        }
    }
}

/// There is no memory to read, to write or to ask for.
fn no_memory() -> IoError {
    IoError::UnsupportedIoOperation {
        backtrace: BackTrace::capture(),
    }
}

impl<C: Compiler> DeviceService for NotingServer<C> {
    fn init(_: DeviceId) -> Self {
        unreachable!("a client that notes is made with its server")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl<C: Compiler> ServerCommunication for NotingServer<C> {
    const SERVER_COMM_ENABLED: bool = false;
}

impl<C: Compiler> ComputeServer for NotingServer<C> {
    type Kernel = Box<dyn CubeTask<C>>;
    type Info = Arc<Book<C>>;
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = NoStorage;

    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) {}

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn read(
        &mut self,
        _: Vec<CopyDescriptor>,
        _: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { Err(no_memory().into()) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn get_resource(
        &mut self,
        _: Binding,
        _: StreamId,
    ) -> Result<ManagedResource<()>, ServerError> {
        Err(no_memory().into())
    }

    #[expect(unsafe_code, reason = "the trait asks for it; nothing is launched")]
    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        cubes: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
        _: StreamId,
    ) {
        let note = Note {
            kernel,
            cubes,
            arguments,
            mode,
        };
        locked(&self.utilities.info.notes).push(note);
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Err(no_memory().into())
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(no_memory().into())
    }

    fn end_profile(
        &mut self,
        _: StreamId,
        _: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::NotRegistered {
            backtrace: BackTrace::capture(),
        })
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// The storage of a runtime that stores nothing.
pub(super) struct NoStorage;

impl ComputeStorage for NoStorage {
    type Resource = ();

    fn alignment(&self) -> usize {
        1
    }

    fn get(&mut self, _: &StorageHandle) {}

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        Err(no_memory())
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}
}
