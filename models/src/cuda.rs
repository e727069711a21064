//! What of CUDA is on this machine: driver, GPUs, run-time compiler and headers, found by loading libraries and looking
//! into folders before Burn is touched, whose own start panics where something is missing.
//!
//! Burn's CUDA backend (CubeCL, and cudarc beneath it) loads the driver and the compiler by name only, and reads headers
//! from one folder, that of a toolkit. A machine with a driver, Python and pip's wheels has all that is needed, but
//! elsewhere. What is found there is made known before Burn starts: the compiler by being loaded ([`probe`]), whereupon the
//! system finds it by its name, and the headers by `CUDA_PATH` ([`Cuda::prepare`]).

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use libloading::Library;

/// What of CUDA is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// NVIDIA's driver library, if it could be loaded.
    pub driver: Option<Driver>,
    /// The GPUs, by number.
    pub devices: Vec<Gpu>,
    /// The run-time compiler, if it could be loaded.
    pub nvrtc: Option<Nvrtc>,
    /// The headers that kernels include, or what of them is missing.
    pub headers: Result<Headers, MissingHeaders>,
}

/// A driver that could be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The library's name.
    pub library: &'static str,
    /// The newest CUDA that it supports, major and minor; `None` if it does not say.
    pub cuda_version: Option<(u32, u32)>,
    /// CUDA's error code from starting the driver or counting its devices.
    pub error_code: Option<i32>,
    /// The first function that the CUDA backend calls and this library does not have.
    pub lacks: Option<&'static str>,
}

/// A GPU as its driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Major and minor; `None` if the driver does not say, as for all below.
    pub compute_capability: Option<(u32, u32)>,
    /// All of its memory, bytes.
    pub memory_bytes: Option<u64>,
    /// The universally unique identifier, as 8-4-4-4-12 hexadecimal digits. It names the same card whatever
    /// `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` make of the numbers.
    pub uuid: Option<String>,
    /// Its place on the bus: domain, bus, device and function.
    pub pci_bus_id: Option<String>,
}

/// A run-time compiler that could be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    /// Path of the library, or its name where the system does not tell.
    pub library: String,
    /// Major and minor; `None` if it does not say.
    pub version: Option<(u32, u32)>,
    /// Compute capabilities that it compiles for, as 10 times the major and the minor number; empty if it does not say.
    pub architectures: Vec<u32>,
    /// The first function that the CUDA backend calls and this library does not have.
    pub lacks: Option<&'static str>,
}

/// Where the headers are that kernels include.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The folders that hold them; several where pip's wheels put each part into one of its own.
    pub folders: Vec<PathBuf>,
    /// Version of the CUDA that they are of, major and minor; `None` if they do not say.
    pub version: Option<(u32, u32)>,
}

/// Headers that are nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingHeaders {
    /// One of them, as it is included.
    pub header: &'static str,
    /// The packages of pip that have them, for CUDA 12.
    pub packages: Vec<&'static str>,
}

/// Memory of a GPU, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// What a program that starts now can have.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// The oldest CUDA whose driver has every function that the CUDA backend calls.
const OLDEST_CUDA: (u32, u32) = (12, 0);

const DRIVER_LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so", "nvcuda.dll"];

/// The names under which the CUDA backend looks for the compiler, in its order.
const NVRTC_LIBRARIES: &[&str] = &[
    "libnvrtc.so",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so.11",
    "nvrtc.dll",
    "nvrtc64_130_0.dll",
    "nvrtc64_120_0.dll",
];

/// Functions of the driver that the CUDA backend calls from its start to the end of a training step (cubecl-cuda 0.10). It
/// looks each up at its first call, and panics where there is none.
const DRIVER_FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemAllocHost_v2",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpy2DAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
];

/// Functions of the compiler that the CUDA backend calls.
const NVRTC_FUNCTIONS: &[&str] = &[
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
];

/// What the CUDA backend's kernels include, and what that includes in turn, each with the package of pip that has it.
const HEADERS: &[(&str, &str)] = &[
    ("cuda_runtime.h", "nvidia-cuda-runtime-cu12"),
    ("cuda_bf16.h", "nvidia-cuda-runtime-cu12"),
    ("cuda_fp16.h", "nvidia-cuda-runtime-cu12"),
    ("mma.h", "nvidia-cuda-runtime-cu12"),
    ("crt/host_config.h", "nvidia-cuda-nvcc-cu12"),
    ("crt/mma.h", "nvidia-cuda-nvcc-cu12"),
    ("nv/target", "nvidia-cuda-cccl-cu12"),
    ("cuda/barrier", "nvidia-cuda-cccl-cu12"),
];

impl Cuda {
    /// One line on what keeps the GPU of that number from being used, and what would help; `None` if nothing does.
    #[must_use]
    pub fn missing(&self, index: usize) -> Option<String> {
        let Some(driver) = &self.driver else {
            return Some(
                "no NVIDIA driver was found (libcuda.so.1); install it, or choose device cpu"
                    .to_owned(),
            );
        };
        if let Some((major, minor)) = driver.cuda_version.filter(|version| *version < OLDEST_CUDA) {
            let (oldest_major, oldest_minor) = OLDEST_CUDA;
            return Some(format!(
                "the NVIDIA driver supports CUDA {major}.{minor}; {oldest_major}.{oldest_minor} or newer is needed"
            ));
        }
        if let Some(code) = driver.error_code {
            return Some(format!(
                "the NVIDIA driver does not start (CUDA error {code}); see nvidia-smi"
            ));
        }
        if self.devices.is_empty() {
            return Some(
                "the NVIDIA driver finds no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES"
                    .to_owned(),
            );
        }
        if index >= self.devices.len() {
            let last = self.devices.len() - 1;
            return Some(format!(
                "GPU {index} does not exist; choose cuda:0 to cuda:{last}"
            ));
        }
        if let Some(function) = driver.lacks {
            return Some(format!(
                "the NVIDIA driver ({}) has no function {function}; a newer driver has it",
                driver.library
            ));
        }
        let Some(nvrtc) = &self.nvrtc else {
            return Some(format!(
                "CUDA's run-time compiler was not found (libnvrtc.so); {NVRTC_REMEDY}"
            ));
        };
        if let Some(function) = nvrtc.lacks {
            return Some(format!(
                "CUDA's run-time compiler ({}) has no function {function}; that of CUDA 12 or newer has it",
                nvrtc.library
            ));
        }
        // It is compiled for exactly.
        if let Some((major, minor)) = self.devices[index].compute_capability
            && !nvrtc.architectures.is_empty()
            && !nvrtc.architectures.contains(&(10 * major + minor))
        {
            return Some(format!(
                "CUDA's run-time compiler ({}) does not compile for compute capability {major}.{minor}; that of another CUDA \
                 version does",
                nvrtc.library
            ));
        }
        match &self.headers {
            Ok(_) => None,
            Err(missing) => Some(format!(
                "CUDA's header {} was not found, which kernels include; {}",
                missing.header,
                missing.remedy()
            )),
        }
    }

    /// Lets the CUDA backend find the headers where it would not look by itself: in `CUDA_PATH`, for this process and those
    /// that it starts. Headers that lie in several folders are linked together in the user's cache. To be called before
    /// Burn starts.
    ///
    /// # Errors
    /// One line, where they cannot be linked together.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        let Ok(headers) = &self.headers else {
            return Ok(());
        };
        let root = match headers.folders.as_slice() {
            [folder] => folder.parent().map(Path::to_owned),
            folders => Some(linked_together(folders)?),
        };
        if let Some(root) = root
            && cubecl_root().as_ref() != Some(&root)
        {
            set_cuda_path(&root);
        }
        Ok(())
    }
}

/// What brings the compiler.
pub const NVRTC_REMEDY: &str =
    "install the CUDA toolkit, or `python3 -m pip install nvidia-cuda-nvrtc-cu12`";

impl MissingHeaders {
    /// What brings them.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!(
            "install the CUDA toolkit, or `python3 -m pip install {}`",
            self.packages.join(" ")
        )
    }
}

/// Tells the CUDA backend where the toolkit is.
#[expect(unsafe_code, reason = "the environment belongs to the whole process")]
fn set_cuda_path(root: &Path) {
    // SAFETY: Rust's own accesses to the environment exclude one another, and no C of ours reads it. What is taken on trust is that
    // no thread of the driver's, or of NVML's where a meter runs, reads it in the same moment: both do so when they are started,
    // which this thread has waited for.
    unsafe { std::env::set_var("CUDA_PATH", root) };
}

/// Looks for driver, GPUs, compiler and headers, once in a process. It never touches Burn. The compiler stays loaded, so that
/// the CUDA backend finds by its name what lies where the system does not look.
pub fn probe() -> &'static Cuda {
    static FOUND: OnceLock<Cuda> = OnceLock::new();
    FOUND.get_or_init(look)
}

fn look() -> Cuda {
    let mut cuda = Cuda {
        driver: None,
        devices: Vec::new(),
        nvrtc: None,
        headers: found_in(Vec::new()),
    };
    let Some((name, library)) = load_driver() else {
        // Nothing else is of use without it, and much of the rest takes a while to look for.
        return cuda;
    };
    let mut driver = Driver {
        library: name,
        cuda_version: driver_version(&library),
        error_code: None,
        lacks: first_without(&library, DRIVER_FUNCTIONS),
    };
    match devices(&library) {
        Ok(devices) => cuda.devices = devices,
        Err(code) => driver.error_code = Some(code),
    }
    cuda.driver = Some(driver);
    // A driver that has been started is not unloaded before the process ends.
    std::mem::forget(library);
    let packages = LazyPackages::default();
    cuda.nvrtc = nvrtc(&packages);
    cuda.headers = headers(&packages);
    cuda
}

/// What a program that starts now finds free on a GPU. It makes and gives back a context of its own, which takes a moment and,
/// meanwhile, some of that memory.
#[must_use]
pub fn gpu_memory(index: usize) -> Option<GpuMemory> {
    if index >= probe().devices.len() {
        return None;
    }
    let (_, library) = load_driver()?;
    let memory = memory_of(&library, index);
    std::mem::forget(library);
    memory
}

/// The driver's library.
pub(crate) fn load_driver() -> Option<(&'static str, Library)> {
    DRIVER_LIBRARIES
        .iter()
        .find_map(|name| Some((*name, load(name)?)))
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(name: &str) -> Option<Library> {
    // SAFETY: these are NVIDIA's own libraries by name; that what is found under the name is what NVIDIA ships, and that its
    // initialisers are sound, is the system's word.
    unsafe { Library::new(name) }.ok()
}

/// The first of the functions that a library does not have.
#[expect(unsafe_code, reason = "looking a symbol up")]
fn first_without(library: &Library, functions: &[&'static str]) -> Option<&'static str> {
    let has = |name: &str| {
        // SAFETY: the symbol is not called, so its type does not matter.
        unsafe { library.get::<*mut c_void>(name.as_bytes()) }.is_ok()
    };
    functions.iter().copied().find(|name| !has(name))
}

/// `cuDriverGetVersion`, which works without `cuInit`.
#[expect(unsafe_code, reason = "a call through a symbol")]
fn driver_version(library: &Library) -> Option<(u32, u32)> {
    let mut version: c_int = 0;
    // SAFETY: the signature is that of cuda.h, `CUresult cuDriverGetVersion(int *)`; the pointer outlives the call.
    let code = unsafe {
        let function = library
            .get::<unsafe extern "system" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion\0")
            .ok()?;
        function(&raw mut version)
    };
    let version = u32::try_from(version).ok().filter(|_| code == 0)?;
    Some(of_number(version))
}

/// Major and minor of a number like 12040.
fn of_number(version: u32) -> (u32, u32) {
    (version / 1000, version % 1000 / 10)
}

/// `cuInit`, `cuDeviceGetCount`, and what is to be known of each GPU; CUDA's error code where one fails, -1 where the library
/// lacks a function. A driver that starts and sees no GPU (`CUDA_VISIBLE_DEVICES` may hide them) names none.
#[expect(unsafe_code, reason = "calls through symbols")]
fn devices(library: &Library) -> Result<Vec<Gpu>, i32> {
    const NO_SYMBOL: i32 = -1;
    /// `CUDA_ERROR_NO_DEVICE` of cuda.h.
    const NO_DEVICE: i32 = 100;
    let checked = |code: c_int| if code == 0 { Ok(()) } else { Err(code) };
    let mut count: c_int = 0;
    // SAFETY: the signatures are those of cuda.h: `cuInit(unsigned)`, `cuDeviceGetCount(int *)`,
    // `cuDeviceGet(CUdevice *, int)` and `cuDeviceGetName(char *, int, CUdevice)` with `CUdevice` an int. All pointers
    // outlive their calls, and the name's buffer is as long as it is said to be.
    unsafe {
        let init = library
            .get::<unsafe extern "system" fn(c_uint) -> c_int>(b"cuInit\0")
            .map_err(|_| NO_SYMBOL)?;
        let get_count = library
            .get::<unsafe extern "system" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount\0")
            .map_err(|_| NO_SYMBOL)?;
        let get = library
            .get::<unsafe extern "system" fn(*mut c_int, c_int) -> c_int>(b"cuDeviceGet\0")
            .map_err(|_| NO_SYMBOL)?;
        let get_name = library
            .get::<unsafe extern "system" fn(*mut c_char, c_int, c_int) -> c_int>(
                b"cuDeviceGetName\0",
            )
            .map_err(|_| NO_SYMBOL)?;
        match checked(init(0)) {
            Err(NO_DEVICE) => return Ok(Vec::new()),
            started => started?,
        }
        checked(get_count(&raw mut count))?;
        (0..count)
            .map(|ordinal| {
                let mut device: c_int = 0;
                let mut name = [0u8; 256];
                checked(get(&raw mut device, ordinal))?;
                checked(get_name(name.as_mut_ptr().cast(), 256, device))?;
                let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
                Ok(Gpu {
                    name: name.to_string_lossy().into_owned(),
                    compute_capability: attribute(library, device, COMPUTE_CAPABILITY_MAJOR)
                        .zip(attribute(library, device, COMPUTE_CAPABILITY_MINOR)),
                    memory_bytes: total_memory(library, device),
                    uuid: uuid(library, device),
                    pci_bus_id: pci_bus_id(library, device),
                })
            })
            .collect()
    }
}

/// Numbers of `CUdevice_attribute` in cuda.h.
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
const PCI_BUS: c_int = 33;
const PCI_DEVICE: c_int = 34;
const PCI_DOMAIN: c_int = 50;

/// `cuDeviceGetAttribute`.
#[expect(unsafe_code, reason = "a call through a symbol")]
fn attribute(library: &Library, device: c_int, number: c_int) -> Option<u32> {
    let mut value: c_int = 0;
    // SAFETY: the signature is that of cuda.h, `cuDeviceGetAttribute(int *, CUdevice_attribute, CUdevice)`; the pointer
    // outlives the call.
    let code = unsafe {
        let function = library
            .get::<unsafe extern "system" fn(*mut c_int, c_int, c_int) -> c_int>(
                b"cuDeviceGetAttribute\0",
            )
            .ok()?;
        function(&raw mut value, number, device)
    };
    u32::try_from(value).ok().filter(|_| code == 0)
}

/// `cuDeviceTotalMem_v2`.
#[expect(unsafe_code, reason = "a call through a symbol")]
fn total_memory(library: &Library, device: c_int) -> Option<u64> {
    let mut bytes: usize = 0;
    // SAFETY: the signature is that of cuda.h, `cuDeviceTotalMem_v2(size_t *, CUdevice)`; the pointer outlives the call.
    let code = unsafe {
        let function = library
            .get::<unsafe extern "system" fn(*mut usize, c_int) -> c_int>(b"cuDeviceTotalMem_v2\0")
            .ok()?;
        function(&raw mut bytes, device)
    };
    (code == 0).then_some(bytes as u64)
}

/// `cuDeviceGetUuid_v2`, which tells the parts of a partitioned card apart, or `cuDeviceGetUuid`.
#[expect(unsafe_code, reason = "a call through a symbol")]
fn uuid(library: &Library, device: c_int) -> Option<String> {
    let mut bytes = [0u8; 16];
    // SAFETY: the signature of both is that of cuda.h, `cuDeviceGetUuid(CUuuid *, CUdevice)` with `CUuuid` of 16 bytes; the
    // pointer outlives the call.
    let code = unsafe {
        let find =
            |name: &[u8]| library.get::<unsafe extern "system" fn(*mut u8, c_int) -> c_int>(name);
        let function = find(b"cuDeviceGetUuid_v2\0")
            .or_else(|_| find(b"cuDeviceGetUuid\0"))
            .ok()?;
        function(bytes.as_mut_ptr(), device)
    };
    (code == 0).then(|| hyphenated(&bytes))
}

/// 16 bytes as 8-4-4-4-12 hexadecimal digits.
fn hyphenated(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

/// The place on the bus, as NVIDIA's management library writes it.
fn pci_bus_id(library: &Library, device: c_int) -> Option<String> {
    let bus = attribute(library, device, PCI_BUS)?;
    let slot = attribute(library, device, PCI_DEVICE)?;
    let domain = attribute(library, device, PCI_DOMAIN)?;
    Some(format!("{domain:08x}:{bus:02x}:{slot:02x}.0"))
}

/// `cuMemGetInfo_v2` in the GPU's primary context, which is made for it unless there is one.
#[expect(unsafe_code, reason = "calls through symbols")]
fn memory_of(library: &Library, index: usize) -> Option<GpuMemory> {
    let ordinal = c_int::try_from(index).ok()?;
    let (mut device, mut free, mut total): (c_int, usize, usize) = (0, 0, 0);
    let mut context: *mut c_void = std::ptr::null_mut();
    let mut before: *mut c_void = std::ptr::null_mut();
    // SAFETY: the signatures are those of cuda.h: `cuDeviceGet(CUdevice *, int)`, `cuDevicePrimaryCtxRetain(CUcontext *,
    // CUdevice)`, `cuDevicePrimaryCtxRelease_v2(CUdevice)`, `cuCtxGetCurrent(CUcontext *)`, `cuCtxSetCurrent(CUcontext)`
    // and `cuMemGetInfo_v2(size_t *, size_t *)`, with `CUdevice` an int and `CUcontext` a pointer. All pointers outlive
    // their calls; the context that was current is so again before the one that was retained is given back.
    unsafe {
        let get = library
            .get::<unsafe extern "system" fn(*mut c_int, c_int) -> c_int>(b"cuDeviceGet\0")
            .ok()?;
        let retain = library
            .get::<unsafe extern "system" fn(*mut *mut c_void, c_int) -> c_int>(
                b"cuDevicePrimaryCtxRetain\0",
            )
            .ok()?;
        let release = library
            .get::<unsafe extern "system" fn(c_int) -> c_int>(b"cuDevicePrimaryCtxRelease_v2\0")
            .ok()?;
        let current = library
            .get::<unsafe extern "system" fn(*mut *mut c_void) -> c_int>(b"cuCtxGetCurrent\0")
            .ok()?;
        let make_current = library
            .get::<unsafe extern "system" fn(*mut c_void) -> c_int>(b"cuCtxSetCurrent\0")
            .ok()?;
        let ask = library
            .get::<unsafe extern "system" fn(*mut usize, *mut usize) -> c_int>(b"cuMemGetInfo_v2\0")
            .ok()?;
        if get(&raw mut device, ordinal) != 0 || current(&raw mut before) != 0 {
            return None;
        }
        if retain(&raw mut context, device) != 0 {
            return None;
        }
        let told = make_current(context) == 0 && ask(&raw mut free, &raw mut total) == 0;
        make_current(before);
        release(device);
        told.then_some(GpuMemory {
            free: free as u64,
            total: total as u64,
        })
    }
}

/// The compiler by one of the names that the CUDA backend knows, if need be after loading it from where it is.
fn nvrtc(packages: &LazyPackages) -> Option<Nvrtc> {
    let by_name = || {
        NVRTC_LIBRARIES
            .iter()
            .find_map(|name| Some(((*name).to_owned(), load(name)?)))
    };
    let found = by_name().or_else(|| {
        let mut paths = library_folders().into_iter().flat_map(nvrtc_in);
        let mut wheels = || {
            let folders = packages.folders().iter().flat_map(|folder| {
                ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map(|lib| folder.join(lib))
            });
            folders.flat_map(nvrtc_in).find_map(load_path)
        };
        let (path, library) = paths.find_map(load_path).or_else(&mut wheels)?;
        // What is loaded is found by the name that it gives itself, which is one of those; else it would be of no use.
        std::mem::forget(library);
        by_name().map(|(_, library)| (path, library))
    });
    let (name, library) = found?;
    let nvrtc = Nvrtc {
        library: loaded_from("libnvrtc.so").unwrap_or(name),
        version: nvrtc_version(&library),
        architectures: nvrtc_architectures(&library).unwrap_or_default(),
        lacks: first_without(&library, NVRTC_FUNCTIONS),
    };
    // Kept, so that the backend finds the very same.
    std::mem::forget(library);
    Some(nvrtc)
}

/// The file of a loaded library whose name begins so, where Linux tells.
fn loaded_from(name: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| {
        let path = &line[line.find('/')?..];
        let file = Path::new(path).file_name()?.to_str()?;
        file.starts_with(name).then(|| path.to_owned())
    });
    files.next()
}

fn load_path(path: PathBuf) -> Option<(String, Library)> {
    let path = path.to_str()?;
    Some((path.to_owned(), load(path)?))
}

/// The files that a compiler may have in a folder.
fn nvrtc_in(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    NVRTC_LIBRARIES
        .iter()
        .map(move |name| folder.join(name))
        .filter(|path| path.is_file())
}

/// `nvrtcVersion`.
#[expect(unsafe_code, reason = "a call through a symbol")]
fn nvrtc_version(library: &Library) -> Option<(u32, u32)> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the signature is that of nvrtc.h, `nvrtcResult nvrtcVersion(int *, int *)`; both pointers outlive the
    // call.
    let code = unsafe {
        let function = library
            .get::<unsafe extern "system" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion\0")
            .ok()?;
        function(&raw mut major, &raw mut minor)
    };
    if code != 0 {
        return None;
    }
    Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
}

/// `nvrtcGetSupportedArchs`.
#[expect(unsafe_code, reason = "calls through symbols")]
fn nvrtc_architectures(library: &Library) -> Option<Vec<u32>> {
    let mut count: c_int = 0;
    // SAFETY: the signatures are those of nvrtc.h, `nvrtcResult nvrtcGetNumSupportedArchs(int *)` and `nvrtcResult
    // nvrtcGetSupportedArchs(int *)`, the latter for as many numbers as the former says; the pointers outlive the calls.
    let numbers = unsafe {
        let get_count = library
            .get::<unsafe extern "system" fn(*mut c_int) -> c_int>(b"nvrtcGetNumSupportedArchs\0")
            .ok()?;
        let get = library
            .get::<unsafe extern "system" fn(*mut c_int) -> c_int>(b"nvrtcGetSupportedArchs\0")
            .ok()?;
        if get_count(&raw mut count) != 0 {
            return None;
        }
        let mut numbers = vec![0; usize::try_from(count).ok()?];
        (get(numbers.as_mut_ptr()) == 0).then_some(numbers)?
    };
    numbers
        .into_iter()
        .map(|it| u32::try_from(it).ok())
        .collect()
}

/// The toolkits that the environment names, then those in the usual places, newest first.
fn toolkits() -> Vec<PathBuf> {
    let named = ["CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(std::env::var_os)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let mut versions: Vec<(Vec<u32>, PathBuf)> = fs::read_dir("/usr/local")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.strip_prefix("cuda-")?;
            let version = version.split('.').map(|part| part.parse().ok()).collect();
            Some((Option::<Vec<u32>>::unwrap_or_default(version), path))
        })
        .collect();
    versions.sort();
    let versions = versions.into_iter().rev().map(|(_, path)| path);
    named
        .chain([PathBuf::from("/usr/local/cuda")])
        .chain(versions)
        .chain([PathBuf::from("/opt/cuda")])
        .collect()
}

/// Where toolkits have their libraries.
fn library_folders() -> Vec<PathBuf> {
    let parts = ["lib64", "lib", "targets/x86_64-linux/lib", "bin"];
    toolkits()
        .iter()
        .flat_map(|toolkit| parts.map(|part| toolkit.join(part)))
        .collect()
}

/// The folders of Python's packages, asked for where nothing else has what is needed.
#[derive(Default)]
struct LazyPackages(OnceLock<Vec<PathBuf>>);

impl LazyPackages {
    /// The folders that `python3` on `PATH` imports from and that have packages of NVIDIA's in them.
    fn folders(&self) -> &[PathBuf] {
        self.0.get_or_init(|| {
            let asked = Command::new("python3")
                .args(["-c", "import sys; print('\\n'.join(sys.path))"])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output();
            let said = asked.map(|output| output.stdout).unwrap_or_default();
            let folders = String::from_utf8_lossy(&said).into_owned();
            folders
                .lines()
                .map(PathBuf::from)
                .filter(|folder| folder.is_absolute() && folder.join("nvidia").is_dir())
                .collect()
        })
    }
}

/// The headers: where the CUDA backend looks by itself, in a toolkit elsewhere, or in the wheels of one Python.
fn headers(packages: &LazyPackages) -> Result<Headers, MissingHeaders> {
    let toolkits = toolkits().into_iter().flat_map(|toolkit| {
        let target = toolkit.join("targets/x86_64-linux");
        [toolkit, target]
    });
    let places = cubecl_root().into_iter().chain(toolkits);
    let includes = places
        .chain([PathBuf::from("/usr")])
        .map(|root| vec![root.join("include")]);
    let wheels = (0..).map_while(|place| packages.folders().get(place).map(|it| wheels_of(it)));
    let lacks = |found: &Result<Headers, MissingHeaders>| match found {
        Ok(_) => 0,
        Err(missing) => missing.packages.len(),
    };
    // The place that has most says what is missing.
    let mut best = found_in(Vec::new());
    for folders in includes.chain(wheels) {
        let found = found_in(folders);
        if found.is_ok() {
            return found;
        }
        if lacks(&found) < lacks(&best) {
            best = found;
        }
    }
    best
}

/// The headers in these folders together.
fn found_in(folders: Vec<PathBuf>) -> Result<Headers, MissingHeaders> {
    let is_there = |header: &str| {
        let mut folders = folders.iter();
        // Toolkits have part of them one folder down, where the backend looks too.
        folders.any(|it| it.join(header).is_file() || it.join("cccl").join(header).is_file())
    };
    let mut missing = HEADERS.iter().filter(|(header, _)| !is_there(header));
    let Some(&(header, package)) = missing.next() else {
        return Ok(Headers {
            version: header_version(&folders),
            folders,
        });
    };
    let mut packages = vec![package];
    packages.extend(missing.map(|(_, package)| *package));
    packages.dedup();
    Err(MissingHeaders { header, packages })
}

/// The include folders of NVIDIA's wheels in a folder of Python's packages: that of CUDA 13, which has all in one, or all those
/// of CUDA 12.
fn wheels_of(packages: &Path) -> Vec<PathBuf> {
    let nvidia = packages.join("nvidia");
    let newest = nvidia.join("cu13/include");
    if found_in(vec![newest.clone()]).is_ok() {
        return vec![newest];
    }
    let parts = ["cuda_runtime", "cuda_nvcc", "cuda_cccl"];
    let folders = parts.map(|part| nvidia.join(part).join("include"));
    folders.into_iter().filter(|it| it.is_dir()).collect()
}

/// The version in `cuda_runtime_api.h`.
fn header_version(folders: &[PathBuf]) -> Option<(u32, u32)> {
    let mut texts = folders
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cuda_runtime_api.h")).ok());
    let text = texts.next()?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("#define CUDART_VERSION"))?;
    Some(of_number(line.trim().parse().ok()?))
}

/// The toolkit whose folder `include` the CUDA backend takes (cubecl-cuda 0.10, `install`).
fn cubecl_root() -> Option<PathBuf> {
    if let Ok(path) = std::env::var("CUDA_PATH") {
        return Some(PathBuf::from(path));
    }
    let places = [
        ("/usr/local/cuda", "/usr/local/cuda"),
        ("/opt/cuda", "/opt/cuda"),
        ("/usr/bin/nvcc", "/usr"),
    ];
    let mut places = places
        .iter()
        .filter(|(sign, _)| cfg!(target_os = "linux") && Path::new(sign).exists());
    places.next().map(|(_, root)| PathBuf::from(root))
}

/// A folder in the user's cache whose folder `include` shows what all of these hold, by links. Made once for the same folders.
fn linked_together(folders: &[PathBuf]) -> Result<PathBuf, String> {
    let mut hasher = blake3::Hasher::new();
    for folder in folders {
        hasher.update(folder.as_os_str().as_encoded_bytes());
        hasher.update(&[0]);
    }
    hasher.update(format!("{:?}", header_version(folders)).as_bytes());
    let hash = hasher.finalize().to_hex();
    let cache = user_cache()
        .ok_or("CUDA's headers lie in several folders, and there is no cache folder to link them in; set HOME")?;
    let place = cache.join(format!("cuda-headers-{}", &hash[..16]));
    let is_whole = || found_in(vec![place.join("include")]).is_ok();
    if is_whole() {
        return Ok(place);
    }
    // Machines that share a home folder may have processes of the same number.
    let moment = SystemTime::now().duration_since(UNIX_EPOCH);
    let moment = moment.map_or(0, |since| since.as_nanos());
    let partial = cache.join(format!(".cuda-headers-{}-{moment}", std::process::id()));
    let linked = link_all(folders, &partial.join("include"))
        .and_then(|()| fs::rename(&partial, &place))
        // Another process may have been faster.
        .or_else(|error| if is_whole() { Ok(()) } else { Err(error) });
    // Gone already where it has got its name; of no use where it has not.
    let _ = fs::remove_dir_all(&partial);
    linked.map_err(|error| {
        format!(
            "CUDA's headers lie in several folders and cannot be linked together in {}: {error}",
            place.display()
        )
    })?;
    Ok(place)
}

/// Links to all that several folders hold. A folder that is in one of them only is linked as a whole.
fn link_all(folders: &[PathBuf], into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let mut entries: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let same = entries.entry(entry.file_name()).or_default();
            same.push(entry.path());
        }
    }
    for (name, paths) in entries {
        let inner: Vec<PathBuf> = paths.iter().filter(|path| path.is_dir()).cloned().collect();
        if inner.len() > 1 {
            link_all(&inner, &into.join(name))?;
        } else if let Some(first) = paths.first() {
            link(first, &into.join(name))?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn link(target: &Path, place: &Path) -> io::Result<()> {
    if target.is_dir() {
        link_all(&[target.to_owned()], place)
    } else {
        fs::copy(target, place).map(drop)
    }
}

/// Where this program may keep what it can make again: its own folder in the user's cache. None where the user has no home.
#[must_use]
pub fn user_cache() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        variable("HOME").map(|home| home.join(".cache"))
    };
    variable("XDG_CACHE_HOME")
        .or(home)
        .map(|cache| cache.join("relora"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that has everything.
    pub(crate) fn whole() -> Cuda {
        Cuda {
            driver: Some(Driver {
                library: "libcuda.so.1",
                cuda_version: Some((12, 4)),
                error_code: None,
                lacks: None,
            }),
            devices: vec![Gpu {
                name: "a GPU".to_owned(),
                ..Gpu::default()
            }],
            nvrtc: Some(Nvrtc {
                library: "libnvrtc.so".to_owned(),
                version: Some((12, 4)),
                architectures: vec![80, 89, 90],
                lacks: None,
            }),
            headers: Ok(Headers {
                folders: vec![PathBuf::from("/usr/local/cuda/include")],
                version: Some((12, 4)),
            }),
        }
    }

    /// Without the part that a change takes away.
    fn without(change: impl FnOnce(&mut Cuda)) -> Cuda {
        let mut cuda = whole();
        change(&mut cuda);
        cuda
    }

    fn driver(cuda: &mut Cuda) -> &mut Driver {
        cuda.driver.as_mut().unwrap()
    }

    #[test]
    fn each_missing_part_of_cuda_has_a_line_of_its_own() {
        assert_eq!(whole().missing(0), None);
        for (index, cuda, expected) in [
            (0, without(|it| it.driver = None), "no NVIDIA driver"),
            (
                0,
                without(|it| driver(it).cuda_version = Some((11, 4))),
                "supports CUDA 11.4",
            ),
            (
                0,
                without(|it| driver(it).error_code = Some(999)),
                "CUDA error 999",
            ),
            (
                0,
                without(|it| driver(it).lacks = Some("cuMemAllocAsync")),
                "libcuda.so.1) has no function cuMemAllocAsync",
            ),
            (0, without(|it| it.devices.clear()), "finds no GPU"),
            (1, whole(), "choose cuda:0 to cuda:0"),
            (0, without(|it| it.nvrtc = None), "run-time compiler"),
            (
                0,
                without(|it| it.nvrtc.as_mut().unwrap().lacks = Some("nvrtcGetPTX")),
                "libnvrtc.so) has no function nvrtcGetPTX",
            ),
            (
                0,
                without(|it| it.devices[0].compute_capability = Some((12, 0))),
                "libnvrtc.so) does not compile for compute capability 12.0; that of another CUDA version does",
            ),
            (
                0,
                without(|it| it.headers = found_in(Vec::new())),
                "header cuda_runtime.h was not found, which kernels include; install the CUDA toolkit, or `python3 -m pip \
                 install nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12 nvidia-cuda-cccl-cu12`",
            ),
        ] {
            let line = cuda.missing(index).unwrap();
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
        }
    }

    /// Folders with these files in them.
    fn folders(files: &[&str]) -> (scratch::Folder, Vec<PathBuf>) {
        let root = scratch::Folder::new();
        let mut folders: Vec<PathBuf> = Vec::new();
        for file in files {
            let path = root.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("// {file}\n#define CUDART_VERSION  12080\n")).unwrap();
            let folder = root.0.join(Path::new(file).components().next().unwrap());
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        (root, folders)
    }

    /// Folders that go away with their test.
    mod scratch {
        use super::*;
        use std::sync::atomic::{AtomicU32, Ordering};

        pub(super) struct Folder(pub(super) PathBuf);

        impl Folder {
            pub(super) fn new() -> Folder {
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let name = format!("relora-cuda-{}-{number}", std::process::id());
                let path = std::env::temp_dir().join(name);
                fs::create_dir_all(&path).unwrap();
                Folder(path)
            }
        }

        impl Drop for Folder {
            fn drop(&mut self) {
                let _ = fs::remove_dir_all(&self.0);
            }
        }
    }

    /// As pip lays CUDA 12 out: a folder for each wheel, two of which have a folder `crt`.
    const WHEELS: &[&str] = &[
        "runtime/cuda_runtime.h",
        "runtime/cuda_runtime_api.h",
        "runtime/cuda_bf16.h",
        "runtime/cuda_fp16.h",
        "runtime/mma.h",
        "runtime/crt/host_config.h",
        "nvcc/crt/mma.h",
        "cccl/nv/target",
        "cccl/cuda/barrier",
    ];

    #[test]
    fn headers_may_lie_in_several_folders_and_what_is_missing_is_named() {
        let (_root, all) = folders(WHEELS);
        let whole = Headers {
            folders: all.clone(),
            version: Some((12, 8)),
        };
        assert_eq!(found_in(all.clone()), Ok(whole));
        let missing = MissingHeaders {
            header: "crt/mma.h",
            packages: vec!["nvidia-cuda-nvcc-cu12", "nvidia-cuda-cccl-cu12"],
        };
        assert_eq!(found_in(all[..1].to_vec()), Err(missing));
    }

    #[cfg(unix)]
    #[test]
    fn links_show_several_folders_as_one() {
        let (root, all) = folders(WHEELS);
        let together = root.0.join("together");
        link_all(&all, &together).unwrap();
        assert!(found_in(vec![together.clone()]).is_ok());
        let read = |file: &str| fs::read_to_string(together.join(file)).unwrap();
        assert!(read("crt/host_config.h").starts_with("// runtime/crt/host_config.h"));
        assert!(read("crt/mma.h").starts_with("// nvcc/crt/mma.h"));
        assert!(
            fs::symlink_metadata(together.join("cuda"))
                .unwrap()
                .is_symlink()
        );
    }

    /// The text that `nvidia-smi -L` shows for these bytes.
    #[test]
    fn an_identifier_is_written_as_nvidia_writes_it() {
        let bytes = [
            0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8,
            0xf9, 0x0a,
        ];
        assert_eq!(hyphenated(&bytes), "1b2c3d4e-5f60-7182-93a4-b5c6d7e8f90a");
    }
}
