//! Where recordings are replayed: on the processor in f32, unless the environment names another device and precision.

use models::{Device, Precision};

/// Environment variable with a device, `cuda:0`.
const DEVICE: &str = "RELORA_GOLDEN_DEVICE";

/// Environment variable with a precision, `bf16-master`.
const PRECISION: &str = "RELORA_GOLDEN_PRECISION";

/// A device and what it computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// The precision.
    pub precision: Precision,
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
        })
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
