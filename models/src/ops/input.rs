//! What linear layers read, by what it is computed from.
//!
//! A norm and an activation cost little beside the products behind them, and what they write is as large as what they read.
//! A layer that is told where its input comes from keeps that, and computes its input again when gradients are due.

use burn::tensor::Tensor;

use super::Backend;

/// The input of one to three linear layers.
#[derive(Clone, Debug)]
pub enum Input<B: Backend> {
    /// It is there: `[n, i]`.
    Tensor(Tensor<B, 2>),
    /// [`rms_norm`](super::rms_norm()) of x `[n, i]` with a weight `[1, i]`.
    Normed {
        /// What is normed.
        x: Tensor<B, 2>,
        /// By what it is scaled then.
        weight: Tensor<B, 2>,
    },
    /// [`swiglu`](super::swiglu()) of gate and up, side by side `[n, 2i]`.
    Activated {
        /// Gate and up.
        gate_up: Tensor<B, 2>,
    },
}

impl<B: Backend> From<Tensor<B, 2>> for Input<B> {
    fn from(x: Tensor<B, 2>) -> Self {
        Input::Tensor(x)
    }
}

impl<B: Backend> Input<B> {
    /// The input itself `[n, i]`.
    #[must_use]
    pub fn value(&self) -> Tensor<B, 2> {
        match self.clone() {
            Input::Tensor(x) => x,
            Input::Normed { x, weight } => B::rms_norm(x, weight),
            Input::Activated { gate_up } => B::swiglu(gate_up),
        }
    }

    /// n and i.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Input::Tensor(x) | Input::Normed { x, .. } => x.dims(),
            Input::Activated { gate_up } => {
                let [rows, both] = gate_up.dims();
                [rows, both / 2]
            }
        }
    }
}
