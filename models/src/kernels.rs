//! Compiled kernels of a GPU: what they depend on beside this program, and the folder in which CubeCL keeps them.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use libloading::Library;

use crate::device::{DRIVER_LIBRARIES, load, probe};

/// How kernels are chosen by timing them: not at all, for Burn is built without its `autotune`. Two runs take the same kernels.
pub const AUTOTUNE: &str = "none";

/// What a kernel is compiled for. Compiled by the same program for the same target, a kernel is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTarget {
    /// Compute capability of the GPU, major and minor.
    pub capability: (u32, u32),
    /// The newest CUDA that the driver supports, major and minor.
    pub driver: (u32, u32),
    /// Version of the run-time compiler, major and minor.
    pub compiler: (u32, u32),
    /// Whether the driver is the stand-in of this project's tests, which computes nothing.
    pub stand_in: bool,
}

/// What kernels for the GPU of that number are compiled for; `None` where driver, GPU or compiler do not say.
#[must_use]
pub fn kernel_target(index: usize) -> Option<KernelTarget> {
    let cuda = probe();
    let (_, library) = load(DRIVER_LIBRARIES.iter().map(|name| (*name).to_owned()))?;
    // `probe` keeps the driver loaded: what is started here is not unloaded with this handle.
    Some(KernelTarget {
        capability: capability(&library, index)?,
        driver: cuda.driver?.cuda_version?,
        compiler: cuda.nvrtc?.version?,
        stand_in: is_stand_in(&library),
    })
}

/// From the first learner on CUDA on, compiled kernels are kept in that folder, and those that it holds are not compiled again.
/// Says whether that came in time: once CubeCL has been configured, it stays as it is. The folder is this process's own: what
/// CubeCL reads there it trusts, and where it cannot write it panics.
pub fn keep_kernels_in(folder: PathBuf) -> bool {
    configure(Some(CacheConfig::File(folder)))
}

/// Configures CubeCL where nobody has. Left to itself it would read any `cubecl.toml` or `burn.toml` in the working directory
/// and above it, and panic over one that it does not understand.
pub(crate) fn configure(cache: Option<CacheConfig>) -> bool {
    let mut current = CubeClRuntimeConfig::storage().lock();
    if current.is_some() {
        return false;
    }
    let mut config = CubeClRuntimeConfig::default();
    config.compilation.cache = cache;
    *current = Some(Arc::new(config));
    true
}

/// `cuDeviceGetAttribute` for the two parts of the compute capability, after `cuInit`.
#[expect(unsafe_code, reason = "calls through symbols")]
fn capability(library: &Library, index: usize) -> Option<(u32, u32)> {
    /// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR` of cuda.h.
    const ATTRIBUTES: [c_int; 2] = [75, 76];
    let ordinal = c_int::try_from(index).ok()?;
    let mut values: [c_int; 2] = [0; 2];
    // SAFETY: the signatures are those of cuda.h: `cuInit(unsigned)`, `cuDeviceGet(CUdevice *, int)` and
    // `cuDeviceGetAttribute(int *, CUdevice_attribute, CUdevice)`, with `CUdevice` an int and the attribute an enumeration of
    // int's size. All pointers outlive their calls.
    unsafe {
        let init = library
            .get::<unsafe extern "system" fn(std::ffi::c_uint) -> c_int>(b"cuInit\0")
            .ok()?;
        let get = library
            .get::<unsafe extern "system" fn(*mut c_int, c_int) -> c_int>(b"cuDeviceGet\0")
            .ok()?;
        let get_attribute = library
            .get::<unsafe extern "system" fn(*mut c_int, c_int, c_int) -> c_int>(
                b"cuDeviceGetAttribute\0",
            )
            .ok()?;
        let mut device: c_int = 0;
        if init(0) != 0 || get(&raw mut device, ordinal) != 0 {
            return None;
        }
        for (value, attribute) in values.iter_mut().zip(ATTRIBUTES) {
            if get_attribute(&raw mut *value, attribute, device) != 0 {
                return None;
            }
        }
    }
    let [major, minor] = values;
    Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
}

/// Whether the library exports the one function that only `tests/stand_in/driver.c` has.
#[expect(unsafe_code, reason = "a symbol is looked up")]
fn is_stand_in(library: &Library) -> bool {
    // SAFETY: the symbol is looked for and never called.
    unsafe {
        library
            .get::<unsafe extern "system" fn() -> c_int>(b"relora_stand_in\0")
            .is_ok()
    }
}
