//! One parameter with all that belongs to it: value, gradient, moments, and the names and bytes they are saved by.
//!
//! Every tensor is two-dimensional (a norm is `[1, d]`, a learned scaling `[1, 1]`), so that nothing below is generic
//! over the rank. The shapes that are told outside are those of the Hugging Face checkpoint: a norm is `[d]` there.

use burn::tensor::{DType, Tensor, TensorData};
use half::bf16;

use crate::fault::DeviceFault;
use crate::ops::{self, AdamState};

/// What a tensor is to the optimizer, and so where it is saved and how it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// A weight under low-rank factors: it changes at a restart only.
    Frozen,
    /// What the optimizer updates.
    Trainable,
    /// Adam's running mean of gradients.
    FirstMoment,
    /// Adam's running mean of squared gradients.
    SecondMoment,
    /// The f32 copy of a weight that is used in bf16.
    Master,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of an `F32`.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    pub(crate) fn burn(self) -> DType {
        match self {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
        }
    }
}

/// What there is to read and write under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face's name; moments and master copies end in `.exp_avg`, `.exp_avg_sq` and `.master`.
    pub name: String,
    /// As in a Hugging Face checkpoint.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub dtype: Dtype,
    /// What the tensor is to the optimizer.
    pub role: TensorRole,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that `read` gives and `write` takes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }
}

/// Why bytes could not become a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// No tensor has that name.
    #[error("the model has no tensor {name}")]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// The bytes are too few or too many.
    #[error("tensor {name} holds {expected} bytes, but {found} were given")]
    WrongLength {
        /// The tensor's name.
        name: String,
        /// Bytes that it holds.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Fault(#[from] DeviceFault),
}

/// What a parameter is in the network. Resets and restarts concern the factors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Embedding, head, norm, or the weight of a linear layer.
    Weight,
    FactorA,
    FactorB,
    /// A learned scaling, before the hyperbolic tangent.
    Scalar,
}

/// Adam's state of one parameter.
pub(crate) struct Moments<B: ops::Backend> {
    pub first: Tensor<B, 2>,
    pub second: Tensor<B, 2>,
}

/// A parameter on its device.
pub(crate) struct Parameter<B: ops::Backend> {
    pub name: String,
    /// The shape told outside.
    pub shape: Vec<usize>,
    pub role: Role,
    /// What the forward pass uses.
    pub value: Tensor<B, 2>,
    /// The f32 copy that updates and merges work on, where values are kept in bf16 with f32 masters.
    pub master: Option<Tensor<B, 2>>,
    /// Sum of weighted gradients since the last update; `None` before the first. Never there on a frozen parameter.
    pub gradient: Option<Tensor<B, 2>>,
    /// `None` on a frozen parameter.
    pub moments: Option<Moments<B>>,
    /// A row that is zero and has no gradient.
    pub frozen_row: Option<usize>,
}

/// Where new tensors go, and of which type they are.
pub(crate) struct Placement<B: ops::Backend> {
    pub device: B::Device,
    /// Type of values and, without masters, of moments.
    pub dtype: Dtype,
    /// Whether a bf16 value has an f32 master, f32 gradients and f32 moments.
    pub masters: bool,
}

impl<B: ops::Backend> Placement<B> {
    /// Type of gradients and moments, and of what updates work on.
    pub(crate) fn state_dtype(&self) -> Dtype {
        if self.masters { Dtype::F32 } else { self.dtype }
    }
}

impl<B: ops::Backend> Parameter<B> {
    /// A trainable parameter with zero moments. `values` are row-major; `shape` is the one told outside, of one or
    /// two dimensions.
    pub(crate) fn new(
        name: String,
        role: Role,
        shape: Vec<usize>,
        values: Vec<f32>,
        placement: &Placement<B>,
    ) -> Self {
        let mut parameter = Self {
            name,
            role,
            value: Tensor::zeros([1, 1], &placement.device),
            master: None,
            gradient: None,
            moments: None,
            frozen_row: None,
            shape,
        };
        parameter.set_values(values, placement);
        parameter.forget_moments(placement);
        parameter
    }

    /// Rows and columns: `[d]` is held as `[1, d]`.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        match self.shape[..] {
            [rows, columns] => [rows, columns],
            _ => [1, self.shape.iter().product()],
        }
    }

    /// Replaces the value, and the master with it.
    pub(crate) fn set_values(&mut self, values: Vec<f32>, placement: &Placement<B>) {
        let data = TensorData::new(values, self.matrix_shape());
        let full = Tensor::from_data(data, (&placement.device, placement.state_dtype().burn()));
        self.set_full(full, placement);
    }

    /// The value in the precision that updates and merges work in.
    pub(crate) fn full(&self) -> Tensor<B, 2> {
        self.master.as_ref().unwrap_or(&self.value).clone()
    }

    /// What an update changes, moved out so that it can work in place; [`Parameter::set_state`] must follow. `None` of a frozen
    /// parameter.
    pub(crate) fn take_state(&mut self) -> Option<AdamState<B>> {
        let Moments { first, second } = self.moments.take()?;
        let placeholder = Tensor::empty([1, 1], &self.value.device());
        let value = std::mem::replace(&mut self.value, placeholder);
        let (full, copy) = match self.master.take() {
            Some(master) => (master, Some(value)),
            None => (value, None),
        };
        Some(AdamState {
            full,
            copy,
            first,
            second,
        })
    }

    /// Stores what an update has made.
    pub(crate) fn set_state(&mut self, state: AdamState<B>) {
        let AdamState {
            full,
            copy,
            first,
            second,
        } = state;
        match copy {
            Some(copy) => {
                self.value = copy;
                self.master = Some(full);
            }
            None => self.value = full,
        }
        self.moments = Some(Moments { first, second });
    }

    /// Stores what a merge has made.
    pub(crate) fn set_full(&mut self, full: Tensor<B, 2>, placement: &Placement<B>) {
        let full = B::packed(full);
        if placement.masters {
            self.value = B::packed(full.clone().cast(placement.dtype.burn()));
            self.master = Some(full);
        } else {
            self.value = full;
        }
    }

    /// Zero moments, as before the first update.
    pub(crate) fn forget_moments(&mut self, placement: &Placement<B>) {
        let zeros = || {
            B::packed(Tensor::zeros(
                self.matrix_shape(),
                (&placement.device, placement.state_dtype().burn()),
            ))
        };
        self.moments = Some(Moments {
            first: zeros(),
            second: zeros(),
        });
    }

    /// From here on the optimizer leaves it alone, and nothing is kept for the optimizer's sake.
    pub(crate) fn freeze(&mut self) {
        self.gradient = None;
        self.moments = None;
    }

    pub(crate) fn is_trainable(&self) -> bool {
        self.moments.is_some()
    }

    /// The gradient, zero where there was none, and with the frozen row taken out.
    pub(crate) fn take_gradient(&mut self) -> Tensor<B, 2> {
        let gradient = self
            .gradient
            .take()
            .unwrap_or_else(|| self.full().zeros_like());
        match self.frozen_row {
            None => gradient,
            Some(row) => {
                let columns = gradient.dims()[1];
                let zeros = gradient
                    .clone()
                    .slice([row..row + 1, 0..columns])
                    .zeros_like();
                gradient.slice_assign([row..row + 1, 0..columns], zeros)
            }
        }
    }

    /// Everything that a checkpoint needs of this parameter, in a fixed order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (TensorInfo, &Tensor<B, 2>)> {
        let own = if self.is_trainable() {
            TensorRole::Trainable
        } else {
            TensorRole::Frozen
        };
        let moments = self.moments.as_ref();
        [
            (own, "", Some(&self.value)),
            (TensorRole::Master, ".master", self.master.as_ref()),
            (
                TensorRole::FirstMoment,
                ".exp_avg",
                moments.map(|moments| &moments.first),
            ),
            (
                TensorRole::SecondMoment,
                ".exp_avg_sq",
                moments.map(|moments| &moments.second),
            ),
        ]
        .into_iter()
        .filter_map(|(role, suffix, tensor)| {
            let tensor = tensor?;
            let name = format!("{}{suffix}", self.name);
            Some((
                TensorInfo {
                    name,
                    shape: self.shape.clone(),
                    dtype: dtype_of(tensor),
                    role,
                },
                tensor,
            ))
        })
    }

    /// The tensor of that role.
    pub(crate) fn tensor_mut(&mut self, role: TensorRole) -> Option<&mut Tensor<B, 2>> {
        match role {
            TensorRole::Frozen | TensorRole::Trainable => Some(&mut self.value),
            TensorRole::Master => self.master.as_mut(),
            TensorRole::FirstMoment => self.moments.as_mut().map(|moments| &mut moments.first),
            TensorRole::SecondMoment => self.moments.as_mut().map(|moments| &mut moments.second),
        }
    }
}

/// The type of a tensor that this crate has made.
pub(crate) fn dtype_of<B: ops::Backend>(tensor: &Tensor<B, 2>) -> Dtype {
    if tensor.dtype() == DType::BF16 {
        Dtype::Bf16
    } else {
        Dtype::F32
    }
}

/// The tensor's elements as `f32`, row-major. Waits for the device.
pub(crate) fn to_host<B: ops::Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> Result<Vec<f32>, DeviceFault> {
    let data = tensor
        .try_into_data()
        .map_err(|error| DeviceFault::new(&error.to_string()))?;
    data.convert::<f32>()
        .into_vec()
        .map_err(|error| DeviceFault::new(&format!("{error:?}")))
}

/// A tensor of the same shape, type and device as `like` with these elements.
pub(crate) fn from_host<B: ops::Backend>(values: Vec<f32>, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    B::packed(Tensor::from_data(
        TensorData::new(values, like.dims()),
        (&like.device(), like.dtype()),
    ))
}

/// Little-endian bytes of the tensor in its own type. Every `bf16` is an `f32` too, so nothing is rounded.
pub(crate) fn to_bytes<B: ops::Backend>(tensor: &Tensor<B, 2>) -> Result<Vec<u8>, DeviceFault> {
    let dtype = dtype_of(tensor);
    let values = to_host(tensor.clone())?;
    Ok(match dtype {
        Dtype::F32 => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        Dtype::Bf16 => values
            .into_iter()
            .flat_map(|value| bf16::from_f32(value).to_le_bytes())
            .collect(),
    })
}

/// The inverse of [`to_bytes`]; the caller has checked the length.
pub(crate) fn from_bytes<B: ops::Backend>(bytes: &[u8], like: &Tensor<B, 2>) -> Tensor<B, 2> {
    let values = match dtype_of(like) {
        Dtype::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect(),
        Dtype::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|chunk| bf16::from_le_bytes(*chunk).to_f32())
            .collect(),
    };
    from_host(values, like)
}
