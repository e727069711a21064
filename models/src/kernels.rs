//! Compiled kernels of a GPU: what they depend on beside this program, and the folder in which CubeCL keeps them.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;

use cubecl::config::cache::CacheConfig;
use cubecl::config::memory::PersistentMemory;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use libloading::Library;

use crate::cuda::{load_driver, probe};

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
    Some(KernelTarget {
        capability: cuda.devices.get(index)?.compute_capability?,
        driver: cuda.driver.as_ref()?.cuda_version?,
        compiler: cuda.nvrtc.as_ref()?.version?,
        // `probe` keeps the driver loaded: this is another handle of it.
        stand_in: is_stand_in(&load_driver()?.1),
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
    // Memory by size: the shapes of a step are always the same (`cost/gpu.rs`).
    config.memory.persistent_memory = PersistentMemory::Enforced;
    *current = Some(Arc::new(config));
    true
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
