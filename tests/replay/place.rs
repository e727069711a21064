//! Where recordings are replayed: on the processor in f32, unless the environment names another device and precision.

use std::fmt;

use models::{AdamW, Device, Draws, Learner, Network, Precision};

use super::vulkan::{self, Vulkan, VulkanDevice};

/// Environment variable with a device, `cuda:0`.
const DEVICE: &str = "RELORA_GOLDEN_DEVICE";

/// Environment variable with a precision, `bf16-master`.
const PRECISION: &str = "RELORA_GOLDEN_PRECISION";

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.on_vulkan {
            return formatter.write_str("Vulkan, with the kernels for GPUs");
        }
        write!(formatter, "{} in {}", self.device, self.precision)
    }
}

/// A device and what it computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// The precision.
    pub precision: Precision,
    /// Instead of that device, whatever Vulkan the machine has, with the kernels for GPUs in f32.
    pub on_vulkan: bool,
}

impl Place {
    /// What [`DEVICE`] and [`PRECISION`] say.
    ///
    /// # Errors
    /// A value that names none, with the variable.
    pub fn named_by_environment() -> Result<Place, String> {
        let named = |variable: &str| std::env::var(variable).unwrap_or_default();
        let wrong = |variable: &str, error: models::UnknownName| format!("{variable}: {error}");
        let (device, precision) = (named(DEVICE), named(PRECISION));
        Ok(Place {
            device: match device.as_str() {
                "" => Device::Cpu,
                name => name.parse().map_err(|error| wrong(DEVICE, error))?,
            },
            precision: match precision.as_str() {
                "" => Precision::F32,
                name => name.parse().map_err(|error| wrong(PRECISION, error))?,
            },
            on_vulkan: false,
        })
    }

    /// Vulkan, where there is one and the environment asks for nothing else.
    pub fn vulkan() -> Option<Place> {
        let is_open = std::env::var_os(DEVICE).is_none() && std::env::var_os(PRECISION).is_none();
        (is_open && vulkan::vulkan()).then_some(Place {
            device: Device::Cpu,
            precision: Precision::F32,
            on_vulkan: true,
        })
    }

    /// A learner here.
    ///
    /// # Errors
    /// What the device says.
    pub fn learner(
        self,
        network: &Network,
        adamw: &AdamW,
        draws: &dyn Draws,
    ) -> Result<Box<dyn Learner>, String> {
        let learner = if self.on_vulkan {
            models::learner_on::<Vulkan>(network, adamw, VulkanDevice, draws)
        } else {
            models::learner(network, adamw, self.device, self.precision, draws)
        };
        learner.map_err(|error| error.to_string())
    }

    /// Whether it computes in what was recorded, so that weights and moments can be held against theirs. In eight bits they go
    /// their own way, and only what the network does with them can.
    pub fn is_f32(self) -> bool {
        self.precision == Precision::F32
    }

    /// A tolerance of f32, or in eight bits the other one.
    pub fn tolerance(self, f32: f64, eight_bits: f64) -> f64 {
        if self.is_f32() { f32 } else { eight_bits }
    }
}
