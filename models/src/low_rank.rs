//! The low-rank linear layer: what it computes, how its factors are merged into the weight and drawn anew.
//!
//! Weights are `[out, in]`, A is `[r, in]`, B is `[out, r]`. "Official" is `Guitaricet/relora@176f376`, `relora.py`.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::draws::{Draw, DrawRole, Draws};
use crate::llama::Pass;
use crate::network::{Network, NetworkError};
use crate::ops::{self, Input, low_rank_linear};
use crate::parameter::{Parameter, Placement, Role};

/// How linear layers are replaced by low-rank ones.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `r`, the inner dimension of BA.
    pub rank: usize,
    /// `s`, the factor before BA.
    pub scaling: Scaling,
    /// What becomes of the weight underneath.
    pub base: Base,
    /// What the factors are when they are attached.
    pub factor_init: FactorInit,
    /// Share of the layer's input that A does not see, each time another. 0 for none.
    pub dropout: f64,
}

/// The factor before BA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// A constant, `alpha / r` in the paper.
    Fixed(f64),
    /// `tanh` of a scalar that is trained, one for each layer, 1 at first and 0 after every merge (the official
    /// code's `train_scaling`).
    TanhScalar,
}

/// The weight under the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Frozen as it is.
    Keep,
    /// Zero, and frozen: restarts still have somewhere to add to.
    Zero,
    /// Removed: the layer is `s·BA` and no more. Such a layer cannot restart.
    None,
}

/// The factors when they are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorInit {
    /// A drawn, B zero: attaching changes no output. As in the paper's equation.
    KaimingZero,
    /// Both drawn (the paper's code at submission).
    BothKaiming,
    /// Both zero: nothing trains until the first restart draws A (the official code since August 2023).
    BothZero,
}

impl LowRank {
    /// Whether every linear layer of the network can take these factors.
    ///
    /// # Errors
    /// Names the value that cannot be and what it could be.
    pub fn check(&self, network: &Network) -> Result<(), NetworkError> {
        let smallest = network.hidden.min(network.intermediate);
        let largest = network.hidden.max(network.intermediate);
        if self.rank == 0 || self.rank > smallest {
            return Err(NetworkError::Rank {
                rank: self.rank,
                smallest,
                largest,
            });
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(NetworkError::Dropout {
                dropout: self.dropout,
            });
        }
        Ok(())
    }
}

/// A linear layer, of parameters or of tensors: a weight, factors, or both.
pub(crate) struct Linear<P> {
    /// Hugging Face's path of the layer, without `.weight`.
    pub module: Arc<str>,
    /// `[out, in]`; absent where the base has been removed.
    pub weight: Option<P>,
    /// Present once attached.
    pub factors: Option<Factors<P>>,
}

/// A and B, and the scalar that scales them where it is trained.
pub(crate) struct Factors<P> {
    pub a: P,
    pub b: P,
    pub scalar: Option<P>,
}

impl<P> Linear<P> {
    /// The same layer with `f` of each of its tensors.
    pub(crate) fn map<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Linear<Q> {
        Linear {
            module: Arc::clone(&self.module),
            weight: self.weight.as_ref().map(&mut *f),
            factors: self.factors.as_ref().map(|factors| Factors {
                a: f(&factors.a),
                b: f(&factors.b),
                scalar: factors.scalar.as_ref().map(&mut *f),
            }),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &P> {
        let factors = self.factors.as_ref();
        let own = factors
            .map(|factors| [&factors.a, &factors.b])
            .into_iter()
            .flatten();
        self.weight
            .iter()
            .chain(own)
            .chain(factors.and_then(|factors| factors.scalar.as_ref()))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        let factors = self
            .factors
            .as_mut()
            .map(|Factors { a, b, scalar }| ([a, b], scalar));
        let (own, scalar) = factors.unzip();
        self.weight
            .iter_mut()
            .chain(own.into_iter().flatten())
            .chain(scalar.into_iter().flatten())
    }
}

impl<B: ops::Backend> Linear<Tensor<B, 2>> {
    /// `y = xWᵀ + s·(drop(x)·Aᵀ)Bᵀ` of x `[n, in]`, with `s = tanh(scalar)` where the scalar is trained, and `drop`
    /// the identity except in training with dropout.
    pub(crate) fn forward(&self, x: impl Into<Input<B>>, pass: &Pass<'_>) -> Tensor<B, 2> {
        together([self], x, pass)
    }
}

/// [`Linear::forward`] of layers that read the same input, side by side `[n, Σ out]`.
pub(crate) fn together<B: ops::Backend, const LAYERS: usize>(
    layers: [&Linear<Tensor<B, 2>>; LAYERS],
    x: impl Into<Input<B>>,
    pass: &Pass<'_>,
) -> Tensor<B, 2> {
    let x = x.into();
    let shape = x.dims();
    if layers.iter().all(|layer| layer.factors.is_none()) {
        let weight = |layer: &Linear<Tensor<B, 2>>| {
            let weight = layer.weight.clone();
            weight.expect("a layer without factors has its weight")
        };
        return ops::linear(x, layers.map(weight).to_vec());
    }
    let factors = layers.map(|layer| {
        let factors = layer.factors.as_ref();
        (
            layer,
            factors.expect("all layers have factors, or none has"),
        )
    });
    let layer =
        |linear: &Linear<Tensor<B, 2>>, factors: &Factors<Tensor<B, 2>>| low_rank_linear::Layer {
            weight: linear.weight.clone(),
            a: factors.a.clone(),
            b: factors.b.clone(),
            mask: pass.mask(&linear.module, shape),
        };
    let scaled = factors.iter().any(|(_, factors)| factors.scalar.is_some());
    if !scaled {
        let layers = factors
            .iter()
            .map(|(linear, factors)| layer(linear, factors));
        let layers = layers.collect();
        return ops::low_rank_linear(x, layers, pass.scale);
    }
    // Layers apart need it one by one.
    let x = x.value();
    let outputs = factors.iter().map(|(linear, factors)| {
        let mut low_rank = layer(linear, factors);
        let weight = low_rank.weight.take();
        let mut output = ops::low_rank_linear(x.clone(), vec![low_rank], pass.scale);
        if let Some(scalar) = &factors.scalar {
            output = output.mul(scalar.clone().tanh());
        }
        match weight {
            Some(weight) => output.add(ops::linear(x.clone(), vec![weight])),
            None => output,
        }
    });
    Tensor::cat(outputs.collect(), 1)
}

impl<B: ops::Backend> Linear<Parameter<B>> {
    /// Freezes the weight, or does away with it, and adds factors.
    pub(crate) fn attach(
        &mut self,
        step: u64,
        low_rank: &LowRank,
        draws: &dyn Draws,
        placement: &Placement<B>,
    ) {
        let Some(mut weight) = self.weight.take() else {
            return;
        };
        let [out_features, in_features] = weight.matrix_shape();
        weight.freeze();
        match low_rank.base {
            Base::Keep => self.weight = Some(weight),
            Base::Zero => {
                weight.set_values(vec![0.0; out_features * in_features], placement);
                self.weight = Some(weight);
            }
            Base::None => {}
        }
        let factor = |suffix: &str, role, drawn: Option<DrawRole>, shape: [usize; 2]| {
            let name = format!("{}.{suffix}", self.module);
            let values = match drawn {
                Some(role) => draws.values(&Draw {
                    name: &name,
                    role,
                    step,
                    shape,
                }),
                None => vec![0.0; shape[0] * shape[1]],
            };
            Parameter::new(name, role, shape.to_vec(), values, placement)
        };
        let (draw_a, draw_b) = match low_rank.factor_init {
            FactorInit::KaimingZero => (Some(DrawRole::FactorA), None),
            FactorInit::BothKaiming => (Some(DrawRole::FactorA), Some(DrawRole::FactorB)),
            FactorInit::BothZero => (None, None),
        };
        let scalar = match low_rank.scaling {
            Scaling::Fixed(_) => None,
            Scaling::TanhScalar => {
                let name = format!("{}.scaling", self.module);
                Some(Parameter::new(
                    name,
                    Role::Scalar,
                    vec![1],
                    vec![1.0],
                    placement,
                ))
            }
        };
        self.factors = Some(Factors {
            a: factor(
                "lora_A.weight",
                Role::FactorA,
                draw_a,
                [low_rank.rank, in_features],
            ),
            b: factor(
                "lora_B.weight",
                Role::FactorB,
                draw_b,
                [out_features, low_rank.rank],
            ),
            scalar,
        });
    }

    /// `W ← W + s·BA`; A drawn anew, `B ← 0`, and a trained scalar ← 0. Moments stay. Without a weight to add to,
    /// nothing happens (nor does it in the official code).
    pub(crate) fn restart(
        &mut self,
        step: u64,
        scaling: Scaling,
        draws: &dyn Draws,
        placement: &Placement<B>,
    ) {
        let (Some(weight), Some(Factors { a, b, scalar })) = (&mut self.weight, &mut self.factors)
        else {
            return;
        };
        let scale = match (scaling, scalar.as_ref()) {
            (_, Some(scalar)) => scalar.full().tanh(),
            (Scaling::Fixed(scale), None) => a.full().slice([0..1, 0..1]).full_like(scale),
            (Scaling::TanhScalar, None) => return,
        };
        weight.set_full(merge(weight.full(), a.full(), b.full(), scale), placement);
        let draw = Draw {
            name: &a.name,
            role: DrawRole::FactorA,
            step,
            shape: a.matrix_shape(),
        };
        a.set_values(draws.values(&draw), placement);
        b.set_values(vec![0.0; b.shape.iter().product()], placement);
        if let Some(scalar) = scalar {
            scalar.set_values(vec![0.0], placement);
        }
    }
}

/// `W + (BA)·s` of W `[out, in]`, A `[r, in]`, B `[out, r]` and s `[1, 1]`: the layer's output stays what it is with
/// `B = 0`.
#[must_use]
pub fn merge<B: ops::Backend>(
    weight: Tensor<B, 2>,
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    scale: Tensor<B, 2>,
) -> Tensor<B, 2> {
    weight.add(b.matmul(a).mul(scale))
}
