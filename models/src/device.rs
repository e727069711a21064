//! Where a learner runs: devices, precisions, what CUDA needs, and the one `match` on backend types.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use burn_flex::Flex;
use libloading::Library;

use crate::draws::Draws;
use crate::fault::DeviceFault;
use crate::learner::{DeviceMemory, Learner, LlamaLearner};
use crate::network::{Network, NetworkError};
use crate::optimizer::AdamW;
use crate::parameter::{Dtype, Placement};

/// Where the tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, through Burn's `flex` backend.
    Cpu,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
}

/// Types of weights, gradients and moments. Sums of losses, norms and softmax are in f32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Everything in f32.
    F32,
    /// Everything in bf16, Adam's moments included, as in the paper.
    Bf16,
    /// bf16 in the layers; f32 masters, gradients and moments.
    Bf16Master,
}

/// A word that names no device or no precision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no {what}; choose {choices}")]
pub struct UnknownName {
    name: String,
    what: &'static str,
    choices: &'static str,
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => formatter.write_str("cpu"),
            Device::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let index = |digits: &str| digits.parse().ok().map(Device::Cuda);
        let device = match name {
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(index),
        };
        device.ok_or_else(|| UnknownName {
            name: name.to_owned(),
            what: "device",
            choices: "cpu, cuda or cuda:N",
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Bf16Master => "bf16-master",
        })
    }
}

impl FromStr for Precision {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "bf16-master" => Ok(Precision::Bf16Master),
            _ => Err(UnknownName {
                name: name.to_owned(),
                what: "precision",
                choices: "f32, bf16 or bf16-master",
            }),
        }
    }
}

/// Why there is no learner.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// The network cannot exist.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The device does not compute in that precision.
    #[error("device {device} does not compute in {precision}; choose {possible}")]
    Precision {
        /// The device asked for.
        device: Device,
        /// The precision asked for.
        precision: Precision,
        /// What it computes in.
        possible: &'static str,
    },
    /// Something that CUDA needs is not there.
    #[error("device {device} cannot be used: {missing}")]
    Missing {
        /// The device asked for.
        device: Device,
        /// One line: what is missing and what would bring it.
        missing: String,
    },
    /// The device is there and failed.
    #[error(transparent)]
    Fault(#[from] DeviceFault),
}

/// A network with drawn weights on that device, ready to train.
///
/// # Errors
/// An impossible network, a precision that the device has not, a device that is not there or fails. Never a panic.
pub fn learner(
    network: &Network,
    adamw: &AdamW,
    device: Device,
    precision: Precision,
    draws: &dyn Draws,
) -> Result<Box<dyn Learner>, DeviceError> {
    network.check()?;
    match device {
        Device::Cpu => match precision {
            Precision::F32 => {
                let placement = Placement {
                    device: burn_flex::FlexDevice,
                    dtype: Dtype::F32,
                    masters: false,
                };
                let learner =
                    LlamaLearner::<Flex>::new(network, adamw, placement, process_memory, draws);
                Ok(Box::new(learner))
            }
            Precision::Bf16 | Precision::Bf16Master => Err(DeviceError::Precision {
                device,
                precision,
                possible: "f32",
            }),
        },
        Device::Cuda(index) => match probe().missing(index) {
            Some(missing) => Err(DeviceError::Missing { device, missing }),
            None => cuda_learner(network, adamw, index, precision, draws),
        },
    }
}

// The unit tests of this crate are a second build of it and need no CUDA: generating its learners again would take minutes.
#[cfg(all(feature = "cuda", not(test)))]
fn cuda_learner(
    network: &Network,
    adamw: &AdamW,
    index: usize,
    precision: Precision,
    draws: &dyn Draws,
) -> Result<Box<dyn Learner>, DeviceError> {
    use burn::backend::Cuda;
    use burn::backend::cuda::CudaDevice;
    use half::bf16;

    use crate::fault::PanicWatch;

    crate::kernels::configure(None);
    // The allocator's own figures are not read yet: they need CubeCL's client, which the kernels will bring in.
    let memory = DeviceMemory::default;
    let device = CudaDevice::new(index);
    let make = || -> Box<dyn Learner> {
        let masters = precision == Precision::Bf16Master;
        match precision {
            Precision::F32 => {
                let placement = Placement {
                    device,
                    dtype: Dtype::F32,
                    masters,
                };
                Box::new(LlamaLearner::<Cuda<f32>>::new(
                    network, adamw, placement, memory, draws,
                ))
            }
            Precision::Bf16 | Precision::Bf16Master => {
                let placement = Placement {
                    device,
                    dtype: Dtype::Bf16,
                    masters,
                };
                Box::new(LlamaLearner::<Cuda<bf16>>::new(
                    network, adamw, placement, memory, draws,
                ))
            }
        }
    };
    Ok(PanicWatch::start().guard(|| Ok(make()))?)
}

#[cfg(any(not(feature = "cuda"), test))]
fn cuda_learner(
    _network: &Network,
    _adamw: &AdamW,
    index: usize,
    _precision: Precision,
    _draws: &dyn Draws,
) -> Result<Box<dyn Learner>, DeviceError> {
    let missing =
        "this program was built without its cuda feature; build it with the default features"
            .to_owned();
    Err(DeviceError::Missing {
        device: Device::Cuda(index),
        missing,
    })
}

/// Memory of this process, from `/proc/self/status`; nothing where there is no such file. The kernel begins its high-water
/// mark anew when a program is started, so it is not that of the process which started this one.
fn process_memory() -> DeviceMemory {
    DeviceMemory {
        peak_bytes: of_process("VmHWM:"),
    }
}

/// What this process holds of memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Bytes that it has allocated.
    pub allocated: u64,
    /// Bytes of files that are mapped and have been read: the program itself, a token store.
    pub mapped: u64,
}

/// What this process holds of memory now, as far as Linux's `/proc` tells; zeros elsewhere.
#[must_use]
pub fn held_by_process() -> ProcessMemory {
    ProcessMemory {
        allocated: of_process("RssAnon:").unwrap_or_default(),
        mapped: of_process("RssFile:").unwrap_or_default(),
    }
}

/// An entry of `/proc/self/status`, in bytes.
fn of_process(entry: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(entry))?;
    let kibibytes: u64 = value.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What of CUDA is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// NVIDIA's driver library, if it could be loaded.
    pub driver: Option<Driver>,
    /// Names of the GPUs, by number.
    pub devices: Vec<String>,
    /// The run-time compiler, if it could be loaded.
    pub nvrtc: Option<Nvrtc>,
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
}

/// A run-time compiler that could be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    /// Name or path of the library.
    pub library: String,
    /// Major and minor; `None` if it does not say.
    pub version: Option<(u32, u32)>,
}

/// The oldest CUDA whose driver has every function that the CUDA backend calls.
const OLDEST_CUDA: (u32, u32) = (12, 0);

pub(crate) const DRIVER_LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so", "nvcuda.dll"];

/// The names under which the CUDA backend looks for the compiler.
const NVRTC_LIBRARIES: &[&str] = &[
    "libnvrtc.so",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so.11",
    "nvrtc.dll",
    "nvrtc64_130_0.dll",
    "nvrtc64_120_0.dll",
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
        if self.nvrtc.is_none() {
            return Some(
                "CUDA's run-time compiler was not found (libnvrtc.so); install the CUDA toolkit or the package \
                 cuda-nvrtc, and put its folder on LD_LIBRARY_PATH"
                    .to_owned(),
            );
        }
        None
    }
}

/// Looks for driver, GPUs and compiler by loading their libraries. It never touches Burn, whose own start can panic
/// where something is missing.
#[must_use]
pub fn probe() -> Cuda {
    let mut cuda = Cuda {
        driver: None,
        devices: Vec::new(),
        nvrtc: None,
    };
    if let Some((name, library)) = load(DRIVER_LIBRARIES.iter().map(|name| (*name).to_owned())) {
        let mut driver = Driver {
            library: DRIVER_LIBRARIES
                .iter()
                .find(|known| **known == name)
                .copied()
                .unwrap_or("libcuda.so.1"),
            cuda_version: driver_version(&library),
            error_code: None,
        };
        match device_names(&library) {
            Ok(names) => cuda.devices = names,
            Err(code) => driver.error_code = Some(code),
        }
        cuda.driver = Some(driver);
        // A driver that has been started is not unloaded before the process ends.
        std::mem::forget(library);
    }
    let candidates = NVRTC_LIBRARIES
        .iter()
        .map(|name| (*name).to_owned())
        .chain(toolkit_libraries());
    if let Some((name, library)) = load(candidates) {
        cuda.nvrtc = Some(Nvrtc {
            library: name,
            version: nvrtc_version(&library),
        });
    }
    cuda
}

/// The compiler inside a toolkit that the environment names.
fn toolkit_libraries() -> impl Iterator<Item = String> {
    let roots = ["CUDA_PATH", "CUDA_HOME"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    roots.map(|root| root.join("lib64").join("libnvrtc.so").display().to_string())
}

/// The first library that can be loaded.
#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
pub(crate) fn load(names: impl Iterator<Item = String>) -> Option<(String, Library)> {
    names.into_iter().find_map(|name| {
        // SAFETY: these are NVIDIA's own libraries by name; that what is found under the name is what NVIDIA ships,
        // and that its initialisers are sound, is the system's word.
        let library = unsafe { Library::new(&name) }.ok()?;
        Some((name, library))
    })
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
    Some((version / 1000, version % 1000 / 10))
}

/// `cuInit`, `cuDeviceGetCount` and a `cuDeviceGetName` for each; CUDA's error code where one fails, -1 where the
/// library lacks a function. A driver that starts and sees no GPU (`CUDA_VISIBLE_DEVICES` may hide them) names none.
#[expect(unsafe_code, reason = "calls through symbols")]
fn device_names(library: &Library) -> Result<Vec<String>, i32> {
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
                Ok(name.to_string_lossy().into_owned())
            })
            .collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seeded;

    fn made(device: Device, precision: Precision) -> Result<(), String> {
        let network = Network::named("nano", 257).unwrap();
        let adamw = AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let learner = learner(&network, &adamw, device, precision, &Seeded { seed: 0 });
        learner.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn names_of_devices_and_precisions_are_read_back() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for precision in [Precision::F32, Precision::Bf16, Precision::Bf16Master] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        let error = "gpu".parse::<Device>().unwrap_err().to_string();
        assert_eq!(error, "\"gpu\" is no device; choose cpu, cuda or cuda:N");
        assert!("cuda:x".parse::<Device>().is_err());
    }

    #[test]
    fn the_cpu_computes_in_f32_only_and_says_so() {
        assert_eq!(made(Device::Cpu, Precision::F32), Ok(()));
        let error = made(Device::Cpu, Precision::Bf16).unwrap_err();
        assert_eq!(error, "device cpu does not compute in bf16; choose f32");
    }

    #[test]
    fn each_missing_part_of_cuda_has_a_line_of_its_own() {
        let driver = Driver {
            library: "libcuda.so.1",
            cuda_version: Some((12, 4)),
            error_code: None,
        };
        let nvrtc = Nvrtc {
            library: "libnvrtc.so".to_owned(),
            version: Some((12, 4)),
        };
        let whole = Cuda {
            driver: Some(driver.clone()),
            devices: vec!["a GPU".to_owned()],
            nvrtc: Some(nvrtc),
        };
        assert_eq!(whole.missing(0), None);
        let old = Driver {
            cuda_version: Some((11, 4)),
            ..driver.clone()
        };
        let stuck = Driver {
            error_code: Some(999),
            ..driver
        };
        for (index, cuda, expected) in [
            (
                0,
                Cuda {
                    driver: None,
                    ..whole.clone()
                },
                "no NVIDIA driver",
            ),
            (
                0,
                Cuda {
                    driver: Some(old),
                    ..whole.clone()
                },
                "supports CUDA 11.4",
            ),
            (
                0,
                Cuda {
                    driver: Some(stuck),
                    ..whole.clone()
                },
                "CUDA error 999",
            ),
            (
                0,
                Cuda {
                    devices: Vec::new(),
                    ..whole.clone()
                },
                "finds no GPU",
            ),
            (1, whole.clone(), "choose cuda:0 to cuda:0"),
            (
                0,
                Cuda {
                    nvrtc: None,
                    ..whole.clone()
                },
                "run-time compiler",
            ),
        ] {
            let line = cuda.missing(index).unwrap();
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_of_one_line() {
        // whatever the machine has, it does not have so many
        let error = made(Device::Cuda(4096), Precision::F32).unwrap_err();
        assert!(
            error.starts_with("device cuda:4096 cannot be used: ") && !error.contains('\n'),
            "{error}"
        );
    }
}
