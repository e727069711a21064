//! `drop(x) = x·m / (1 - share)`: each element of m is 0 with probability `share`, else 1 (Srivastava et al. 2014).
//!
//! Which elements stay is one bit of each, a function of a key and the element's place alone: 16 bits of
//! Philox4x32-10 (Salmon et al. 2011) against the share in units of 1/65536.

use std::sync::{Arc, OnceLock};

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::cpu::dropout;

/// Which elements of a matrix stay, and by what they grow for it.
#[derive(Clone, Debug)]
pub struct Mask {
    shape: [usize; 2],
    key: [u32; 2],
    dropped: u32,
    /// Decided when first asked for: a GPU decides for itself.
    bits: Arc<OnceLock<Vec<u8>>>,
}

impl Mask {
    /// The mask of a key for a matrix of this shape; `share`, the probability to drop an element, is rounded to
    /// 1/65536.
    pub fn new(shape: [usize; 2], share: f64, key: [u32; 2]) -> Self {
        let dropped = (share * 65_536.0).round().clamp(0.0, 65_535.0) as u32;
        Self {
            shape,
            key,
            dropped,
            bits: Arc::default(),
        }
    }

    /// One bit an element, row-major, the first in the lowest bit; set where the element stays.
    #[must_use]
    pub fn bits(&self) -> &[u8] {
        self.bits.get_or_init(|| {
            let mut bits = vec![0; self.elements().div_ceil(8)];
            dropout::decide(&mut bits, self.key, self.dropped);
            bits
        })
    }

    /// The key of the bits.
    #[must_use]
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// How many of the 65,536 values of an element's 16 bits drop it.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// `1 / (1 - share)`.
    #[must_use]
    pub fn factor(&self) -> f32 {
        (65_536.0 / f64::from(65_536 - self.dropped)) as f32
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// What each element is multiplied by, in the precision and on the device of another tensor.
    pub fn multipliers<B: Backend>(&self, like: &Tensor<B, 2>) -> Tensor<B, 2> {
        let (bits, factor) = (self.bits(), self.factor());
        let kept = |index: usize| bits[index / 8] >> (index % 8) & 1 == 1;
        let values: Vec<f32> = (0..self.elements())
            .map(|index| if kept(index) { factor } else { 0.0 })
            .collect();
        Tensor::from_data(
            TensorData::new(values, self.shape),
            (&like.device(), like.dtype()),
        )
    }
}
