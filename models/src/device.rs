//! Where a learner runs: devices, precisions, and the one `match` on backend types.

use std::fmt;
use std::str::FromStr;

use burn_flex::Flex;

use crate::cuda::probe;
use crate::draws::Draws;
use crate::fault::DeviceFault;
use crate::learner::{DeviceMemory, Learner, LlamaLearner};
use crate::network::{Network, NetworkError};
use crate::ops;
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
                let learner = LlamaLearner::<Flex>::new(
                    network,
                    adamw,
                    placement,
                    Box::new(process_memory),
                    draws,
                );
                Ok(Box::new(learner))
            }
            Precision::Bf16 | Precision::Bf16Master => Err(DeviceError::Precision {
                device,
                precision,
                possible: "f32",
            }),
        },
        Device::Cuda(index) => {
            let missing = |missing| DeviceError::Missing { device, missing };
            probe()
                .missing(index)
                .map_or(Ok(()), Err)
                .map_err(missing)?;
            probe().prepare().map_err(missing)?;
            cuda_learner(network, adamw, index, precision, draws)
        }
    }
}

/// A learner in f32 on a backend of the caller's own, whose kernels it brings: for what is not a [`Device`] of the product.
///
/// # Errors
/// An impossible network.
pub fn learner_on<B: ops::Backend>(
    network: &Network,
    adamw: &AdamW,
    device: B::Device,
    draws: &dyn Draws,
) -> Result<Box<dyn Learner>, DeviceError> {
    network.check()?;
    let placement = Placement {
        device,
        dtype: Dtype::F32,
        masters: false,
    };
    let memory = Box::new(DeviceMemory::default);
    let learner = LlamaLearner::<B>::new(network, adamw, placement, memory, draws);
    Ok(Box::new(learner))
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
    use cubecl::Runtime;
    use cubecl::cuda::CudaRuntime;

    use crate::fault::PanicWatch;

    crate::kernels::configure(None);
    let device = CudaDevice::new(index);
    let of_device = device.clone();
    // What has been taken is never given back but where the learner asks for it, which notes the peak before.
    let memory = Box::new(move || {
        let usage = CudaRuntime::client(&of_device).memory_usage();
        DeviceMemory {
            peak_bytes: usage.ok().map(|usage| usage.bytes_reserved),
        }
    });
    let placement = Placement {
        device,
        dtype: match precision {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 | Precision::Bf16Master => Dtype::Bf16,
        },
        masters: precision == Precision::Bf16Master,
    };
    // One backend for all precisions: tensors are made with a type of their own, and kernels are told it at launch.
    let make = || -> Box<dyn Learner> {
        Box::new(LlamaLearner::<Cuda>::new(
            network, adamw, placement, memory, draws,
        ))
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
    fn a_gpu_that_is_not_there_is_an_error_of_one_line() {
        // whatever the machine has, it does not have so many
        let error = made(Device::Cuda(4096), Precision::F32).unwrap_err();
        assert!(
            error.starts_with("device cuda:4096 cannot be used: ") && !error.contains('\n'),
            "{error}"
        );
    }
}
