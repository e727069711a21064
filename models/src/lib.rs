//! LLaMA, its low-rank form, the optimizer and its resets, on whichever device there is.
//!
//! This crate knows tensors only: no file, no schedule, no recipe. A caller makes a [`Learner`] with [`learner`]
//! and drives it step by step; which backend runs behind it is decided in one `match` in `device.rs`. The crate's
//! files, from the outside in:
//!
//! - [`Network`]: shapes by name, parameter counts; [`cost`]: operations and bytes, before anything runs
//! - [`LowRank`]: the layer `y = xWᵀ + s(xAᵀ)Bᵀ`, its merge and its restart
//! - [`Learner`]: train, restart, reset, evaluate, read and write tensors
//! - [`AdamW`], [`Update`], [`Reading`]: the optimizer; [`MomentReset`]: pruning of its moments
//! - [`Draws`]: every random number, as a pure function of what it is for
//! - [`Device`], [`Precision`]: where it runs; [`probe`]: what of CUDA is here; [`DeviceFault`]: what a device fails with
//! - [`KernelTarget`]: what kernels are compiled for; [`bf16_flops_per_second`]: what a GPU could do at best
//! - [`ops`]: the operations, one set of kernels for each kind of device

pub mod cost;
mod cuda;
mod device;
mod draws;
mod fault;
mod kernels;
mod learner;
mod llama;
mod low_rank;
mod network;
pub mod ops;
mod optimizer;
mod parameter;
mod peak;
mod reset;

pub use cuda::{
    Cuda, Driver, Gpu, GpuMemory, Headers, MissingHeaders, NVRTC_REMEDY, Nvrtc, gpu_memory, probe,
    user_cache,
};
pub use device::{
    Device, DeviceError, Precision, ProcessMemory, UnknownName, held_by_process, learner,
    learner_on,
};
pub use draws::{Draw, DrawRole, Draws, Seeded};
pub use fault::DeviceFault;
pub use kernels::{AUTOTUNE, KernelTarget, keep_kernels_in, kernel_target};
pub use learner::{DeviceMemory, Learner, LossSum, Phases};
pub use low_rank::{Base, FactorInit, LowRank, Scaling, merge};
pub use network::{Network, NetworkError};
pub use optimizer::{AdamW, Reading, Update};
pub use parameter::{Dtype, TensorError, TensorInfo, TensorRole};
pub use peak::bf16_flops_per_second;
pub use reset::{Mask, MomentReset, ResetKind, ResetReport, keep_by_magnitude, magnitude_quantile};

/// A target that carries no loss: padding, or the last position of a row whose next token is not known.
pub const IGNORE: u32 = u32::MAX;

/// One micro-batch: `rows` sequences of `length` tokens, and for each token the one that should be predicted.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Tokens, row-major `[rows, length]`, each below the vocabulary.
    pub inputs: &'a [u32],
    /// Targets, row-major `[rows, length]`; [`IGNORE`] where there is none.
    pub targets: &'a [u32],
    /// Number of sequences.
    pub rows: usize,
    /// Tokens in each sequence.
    pub length: usize,
    /// The number of this micro-batch in the run. It keys dropout and nothing else.
    pub index: u64,
}

impl Batch<'_> {
    /// Targets that carry a loss.
    #[must_use]
    pub fn target_count(&self) -> u64 {
        self.targets
            .iter()
            .filter(|&&target| target != IGNORE)
            .count() as u64
    }
}
