//! The learner: everything on the device that training changes, behind one trait that knows no backend.

use std::time::{Duration, Instant};

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::Tensor;

use crate::draws::{Draw, DrawRole, Draws, Seeded};
use crate::fault::{DeviceFault, PanicWatch};
use crate::llama::{Block, Dropout, Llama, Pass, embed, forward, loss};
use crate::low_rank::{Linear, LowRank, Scaling};
use crate::network::Network;
use crate::optimizer::{AdamW, Reading, Update, adamw, clip_factor, global_norm};
use crate::parameter::{
    Parameter, Placement, Role, TensorError, TensorInfo, TensorRole, from_bytes, to_bytes, to_host,
};
use crate::reset::{MomentReset, ResetReport, reset};
use crate::{Batch, ops};

/// A network in training. All work is in the order of the calls; what fails on the device is told by the next call
/// that can fail, and everything after it does nothing.
pub trait Learner {
    /// Ends the warm start, or starts without one, after `step` updates: freezes the linear weights (see
    /// [`Base`](crate::Base)), adds factors to each, and begins the optimizer afresh: zero moments everywhere, and
    /// bias correction counted from this step.
    fn attach(&mut self, step: u64, low_rank: &LowRank, draws: &dyn Draws);

    /// `gradient += weight · ∇ Σ loss` over the targets of the batch.
    fn accumulate(&mut self, batch: Batch<'_>, weight: f64);

    /// Whether the backward pass computes each block a second time instead of keeping what it needs of all of them:
    /// the same gradients, in the memory of one block's activations and of every block's input (Chen et al. 2016), for
    /// a second forward pass. Off at first.
    fn recompute_blocks(&mut self, recompute: bool);

    /// Clips the accumulated gradient, takes an AdamW step with it and forgets it. A gradient that is not finite is
    /// not applied, nor is anything after it; the [`Reading`] shows it.
    fn update(&mut self, update: Update);

    /// An update of one micro-batch as [`Learner::accumulate`] and [`Learner::update`] do it, timed. It waits for the
    /// device after each phase, so that each is charged with its own work and no more.
    ///
    /// # Errors
    /// As for [`Learner::drain`].
    fn timed_update(
        &mut self,
        batch: Batch<'_>,
        weight: f64,
        update: Update,
    ) -> Result<Phases, DeviceFault>;

    /// Merges the factors into the weights and draws them anew: `W ← W + s·BA`, A drawn, `B ← 0`. Moments stay.
    fn restart(&mut self, step: u64, draws: &dyn Draws);

    /// Prunes the moments of the factors.
    fn reset_moments(&mut self, step: u64, reset: &MomentReset, draws: &dyn Draws) -> ResetReport;

    /// Waits for the device and gives a reading of every update since the last call.
    ///
    /// # Errors
    /// A fault of the device, or a panic anywhere in the process, since the learner was made.
    fn drain(&mut self) -> Result<Vec<Reading>, DeviceFault>;

    /// The loss of a batch, without dropout and with nothing changed.
    ///
    /// # Errors
    /// As for [`Learner::drain`].
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<LossSum, DeviceFault>;

    /// Every tensor that a checkpoint must hold, in a fixed order.
    fn tensors(&self) -> Vec<TensorInfo>;

    /// The tensor's elements, row-major, as little-endian bytes of its own type.
    ///
    /// # Errors
    /// As for [`Learner::drain`]; also for a name that [`Learner::tensors`] does not give.
    fn read(&self, name: &str) -> Result<Vec<u8>, DeviceFault>;

    /// The inverse of [`Learner::read`]. A learner that was given all tensors of another, with the same `attach`
    /// before, goes on with the same bits (on the CPU).
    ///
    /// # Errors
    /// An unknown name, or bytes of another length than the tensor's.
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorError>;

    /// How much of the device's memory has been in use.
    fn memory(&self) -> DeviceMemory;
}

/// How long the phases of an update took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// The loss. Where the head's operation computes gradients along with the loss, they are in here.
    pub forward: Duration,
    /// The gradients, and their sum into those of the update.
    pub backward: Duration,
    /// Global norm, clip and AdamW.
    pub step: Duration,
}

impl Phases {
    /// All phases together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.forward + self.backward + self.step
    }
}

/// The loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSum {
    /// Sum of `-ln p(target)`, in nats, over the targets that carry a loss.
    pub sum: f64,
    /// How many those are.
    pub targets: u64,
}

/// Memory of the device, as far as it can be told. On the CPU it is that of the process, from Linux's `/proc`; on CUDA what
/// the allocator has taken from the driver, without the driver's own and that of compiled kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The most there has been; none where it cannot be read.
    pub peak_bytes: Option<u64>,
}

/// A LLaMA in training on the backend `B`. Parameters live on `B` itself; `Autodiff<B>` appears in
/// [`Learner::accumulate`] only.
pub(crate) struct LlamaLearner<B: ops::Backend> {
    heads: usize,
    adamw: AdamW,
    placement: Placement<B>,
    memory: Box<dyn Fn() -> DeviceMemory>,
    /// What was in use before memory was given back to the device.
    peak_before: DeviceMemory,
    /// Whether the last batch was evaluated.
    evaluates: bool,
    parameters: Llama<Parameter<B>>,
    attached: Option<Attached>,
    recompute_blocks: bool,
    /// Losses accumulated since the last update, each with its weight; they stay on the device.
    losses: Vec<(f64, Tensor<B, 1>)>,
    /// Updates that have not been drained.
    updates: Vec<PendingReading<B>>,
    /// The first update whose gradient was not finite. None is applied from there on.
    first_bad_step: Option<u64>,
    panics: PanicWatch,
    fault: Option<DeviceFault>,
}

/// A forward pass: every parameter as a leaf of the graph, and the loss `[1]` at its root.
struct Graph<B: ops::Backend> {
    weights: Llama<Tensor<Autodiff<B>, 2>>,
    loss: Tensor<Autodiff<B>, 1>,
    /// Present where the graph holds no block, and the blocks are to be computed again.
    cut: Option<Cut<B>>,
}

/// Where the graph ends before its first block.
struct Cut<B: ops::Backend> {
    /// What each block read `[n, d]`.
    inputs: Vec<Tensor<B, 2>>,
    /// What the last block left `[n, d]`, a leaf of the graph.
    last: Tensor<Autodiff<B>, 2>,
}

/// What attaching has fixed.
struct Attached {
    step: u64,
    scaling: Scaling,
    dropout_share: f64,
    /// Key of the dropout masks.
    dropout_key: Seeded,
}

struct PendingReading<B: ops::Backend> {
    step: u64,
    losses: Vec<(f64, Tensor<B, 1>)>,
    grad_norm: f64,
}

impl<B: ops::Backend> LlamaLearner<B> {
    /// A network with drawn weights, norms of one and zero moments.
    pub(crate) fn new(
        network: &Network,
        adamw: &AdamW,
        placement: Placement<B>,
        memory: Box<dyn Fn() -> DeviceMemory>,
        draws: &dyn Draws,
    ) -> Self {
        let panics = PanicWatch::start();
        let mut parameters = initial_parameters(network, &placement, draws);
        if let Some(row) = network.frozen_embedding_row {
            parameters.embedding.frozen_row = Some(row as usize);
        }
        Self {
            heads: network.heads,
            adamw: *adamw,
            placement,
            memory,
            peak_before: DeviceMemory::default(),
            evaluates: false,
            parameters,
            attached: None,
            recompute_blocks: false,
            losses: Vec::new(),
            updates: Vec::new(),
            first_bad_step: None,
            panics,
            fault: None,
        }
    }

    /// Does `work` unless the device has failed before; remembers a failure for the next call that can tell it.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, DeviceFault>,
    ) -> Result<T, DeviceFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let result = self.panics.guard(|| work(self));
        if let Err(fault) = &result {
            self.fault = Some(fault.clone());
        }
        result
    }

    fn pass<'a>(&self, dropout: Option<&'a Dropout>) -> Pass<'a> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "layers compute in f32 or less"
        )]
        let scale = match self.attached.as_ref().map(|attached| attached.scaling) {
            Some(Scaling::Fixed(scale)) => scale as f32,
            Some(Scaling::TanhScalar) | None => 1.0,
        };
        Pass {
            heads: self.heads,
            scale,
            dropout,
        }
    }

    fn dropout(&self, batch: Batch<'_>) -> Option<Dropout> {
        let attached = self.attached.as_ref()?;
        (attached.dropout_share > 0.0).then_some(Dropout {
            share: attached.dropout_share,
            key: attached.dropout_key,
            batch_index: batch.index,
        })
    }

    /// The network lifted into a graph, and the loss at its end.
    fn forward(&self, batch: Batch<'_>) -> Graph<B> {
        let dropout = self.dropout(batch);
        let pass = self.pass(dropout.as_ref());
        let weights = self.parameters.map(|parameter| {
            let tensor = Tensor::<Autodiff<B>, 2>::from_inner(parameter.value.clone());
            if parameter.is_trainable() {
                tensor.require_grad()
            } else {
                tensor
            }
        });
        if !self.recompute_blocks {
            return Graph {
                loss: forward(&weights, batch, &pass),
                weights,
                cut: None,
            };
        }
        let plain = self.parameters.map(|parameter| parameter.value.clone());
        let mut inputs = Vec::with_capacity(plain.blocks.len());
        let mut hidden_nd = embed(&plain, batch);
        for block in &plain.blocks {
            inputs.push(hidden_nd.clone());
            hidden_nd = block.forward(hidden_nd, batch, &pass);
        }
        let last = Tensor::from_inner(hidden_nd).require_grad();
        Graph {
            loss: loss(&weights, last.clone(), batch),
            weights,
            cut: Some(Cut { inputs, last }),
        }
    }

    /// `gradient += weight · ∇ loss`, and the loss remembered with its weight.
    fn backward(
        &mut self,
        graph: Graph<B>,
        batch: Batch<'_>,
        weight: f64,
    ) -> Result<(), DeviceFault> {
        let Graph { weights, loss, cut } = graph;
        self.losses.push((weight, loss.clone().inner()));
        let mut gradients = loss.mul_scalar(weight).backward();
        self.add_gradients(&weights, &mut gradients);
        let Some(Cut { inputs, last }) = cut else {
            return Ok(());
        };
        let missing =
            || DeviceFault::new("a block's backward pass left no gradient of what it reads");
        let dropout = self.dropout(batch);
        let mut above = last.grad_remove(&mut gradients).ok_or_else(missing)?;
        drop((last, gradients));
        for (block, input) in weights.blocks.iter().zip(inputs).rev() {
            let input = Tensor::from_inner(input).require_grad();
            let output = block.forward(input.clone(), batch, &self.pass(dropout.as_ref()));
            let mut gradients = backward_from(output, above);
            self.add_gradients(&weights, &mut gradients);
            above = input.grad_remove(&mut gradients).ok_or_else(missing)?;
        }
        let mut gradients = backward_from(embed(&weights, batch), above);
        self.add_gradients(&weights, &mut gradients);
        Ok(())
    }

    /// Adds what a backward pass has found to the gradients of the update.
    fn add_gradients(
        &mut self,
        weights: &Llama<Tensor<Autodiff<B>, 2>>,
        gradients: &mut Gradients,
    ) {
        let mut concerned = Vec::new();
        let mut addends = Vec::new();
        for (parameter, tensor) in self.parameters.iter_mut().zip(weights.iter()) {
            if parameter.is_trainable()
                && let Some(gradient) = tensor.grad_remove(gradients)
            {
                concerned.push(parameter);
                addends.push(gradient);
            }
        }
        let sums = concerned
            .iter_mut()
            .map(|parameter| parameter.gradient.take());
        let sums = ops::accumulate(sums.collect(), addends, self.placement.state_dtype().burn());
        for (parameter, sum) in concerned.into_iter().zip(sums) {
            parameter.gradient = Some(sum);
        }
    }

    /// Clips the accumulated gradient and takes an AdamW step with it.
    fn apply(&mut self, update: Update) -> Result<(), DeviceFault> {
        let mut trainable: Vec<_> = self
            .parameters
            .iter_mut()
            .filter(|parameter| parameter.is_trainable())
            .collect();
        let gradients: Vec<_> = trainable
            .iter_mut()
            .map(|parameter| parameter.take_gradient())
            .collect();
        let grad_norm = global_norm(&gradients)?;
        let losses = std::mem::take(&mut self.losses);
        self.updates.push(PendingReading {
            step: update.step,
            losses,
            grad_norm,
        });
        if !grad_norm.is_finite() {
            self.first_bad_step.get_or_insert(update.step);
        }
        if self.first_bad_step.is_some() {
            return Ok(());
        }
        let attach_step = self.attached.as_ref().map_or(0, |attached| attached.step);
        let AdamW {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.adamw;
        let step = ops::AdamStep {
            learning_rate: update.learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            k: (update.step + 1).saturating_sub(attach_step).max(1),
            gradient_scale: clip_factor(grad_norm, update.grad_clip),
        };
        adamw(trainable, gradients, step);
        Ok(())
    }

    /// Gives what is not in use back to the device.
    fn release(&mut self) {
        self.peak_before = self.memory();
        B::release_unused(&self.placement.device);
    }

    /// Evaluation takes tensors of other sizes than training: neither is to hold what only the other needs.
    fn turn_to(&mut self, evaluates: bool) {
        if self.evaluates != evaluates {
            self.evaluates = evaluates;
            self.release();
        }
    }

    fn find(&self, name: &str) -> Option<(TensorInfo, &Tensor<B, 2>)> {
        self.parameters
            .iter()
            .flat_map(Parameter::tensors)
            .find(|(info, _)| info.name == name)
    }
}

impl<B: ops::Backend> Learner for LlamaLearner<B> {
    fn attach(&mut self, step: u64, low_rank: &LowRank, draws: &dyn Draws) {
        let attached = self.attempt(|learner| {
            let placement = &learner.placement;
            for linear in learner.parameters.linears_mut() {
                linear.attach(step, low_rank, draws, placement);
            }
            for parameter in learner
                .parameters
                .iter_mut()
                .filter(|parameter| parameter.is_trainable())
            {
                parameter.gradient = None;
                parameter.forget_moments(placement);
            }
            learner.losses.clear();
            learner.release();
            Ok(Attached {
                step,
                scaling: low_rank.scaling,
                dropout_share: low_rank.dropout,
                dropout_key: dropout_key(step, draws),
            })
        });
        self.attached = attached.ok();
    }

    fn accumulate(&mut self, batch: Batch<'_>, weight: f64) {
        let _told_by_drain = self.attempt(|learner| {
            learner.turn_to(false);
            let graph = learner.forward(batch);
            learner.backward(graph, batch, weight)
        });
    }

    fn recompute_blocks(&mut self, recompute: bool) {
        self.recompute_blocks = recompute;
    }

    fn timed_update(
        &mut self,
        batch: Batch<'_>,
        weight: f64,
        update: Update,
    ) -> Result<Phases, DeviceFault> {
        self.attempt(|learner| {
            let device = learner.placement.device.clone();
            let wait = || B::sync(&device).map_err(|error| DeviceFault::new(&error.to_string()));
            wait()?;
            let begun = Instant::now();
            let graph = learner.forward(batch);
            wait()?;
            let forward = begun.elapsed();
            learner.backward(graph, batch, weight)?;
            wait()?;
            let backward = begun.elapsed() - forward;
            learner.apply(update)?;
            wait()?;
            let step = begun.elapsed() - forward - backward;
            Ok(Phases {
                forward,
                backward,
                step,
            })
        })
    }

    fn update(&mut self, update: Update) {
        let _told_by_drain = self.attempt(|learner| learner.apply(update));
    }

    fn restart(&mut self, step: u64, draws: &dyn Draws) {
        let _told_by_drain = self.attempt(|learner| {
            if let Some(attached) = &learner.attached {
                for linear in learner.parameters.linears_mut() {
                    linear.restart(step, attached.scaling, draws, &learner.placement);
                }
            }
            Ok(())
        });
    }

    fn reset_moments(
        &mut self,
        step: u64,
        moment_reset: &MomentReset,
        draws: &dyn Draws,
    ) -> ResetReport {
        self.attempt(|learner| reset(learner.parameters.iter_mut(), step, moment_reset, draws))
            .unwrap_or_default()
    }

    fn drain(&mut self) -> Result<Vec<Reading>, DeviceFault> {
        self.attempt(|learner| {
            std::mem::take(&mut learner.updates)
                .into_iter()
                .map(
                    |PendingReading {
                         step,
                         losses,
                         grad_norm,
                     }| {
                        let mut loss = 0.0;
                        for (weight, sum) in losses {
                            loss += weight * sum_on_host(sum)?;
                        }
                        Ok(Reading {
                            step,
                            loss,
                            grad_norm,
                        })
                    },
                )
                .collect()
        })
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<LossSum, DeviceFault> {
        self.attempt(|learner| {
            learner.turn_to(true);
            let weights = learner.parameters.map(|parameter| parameter.value.clone());
            let sum = sum_on_host(forward(&weights, batch, &learner.pass(None)))?;
            Ok(LossSum {
                sum,
                targets: batch.target_count(),
            })
        })
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        self.parameters
            .iter()
            .flat_map(Parameter::tensors)
            .map(|(info, _)| info)
            .collect()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DeviceFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let (_, tensor) = self
            .find(name)
            .ok_or_else(|| DeviceFault::new(&format!("there is no tensor {name}")))?;
        self.panics.guard(|| to_bytes(tensor))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorError> {
        let Some((info, _)) = self.find(name) else {
            return Err(TensorError::UnknownName {
                name: name.to_owned(),
            });
        };
        if bytes.len() != info.size_bytes() {
            return Err(TensorError::WrongLength {
                name: name.to_owned(),
                expected: info.size_bytes(),
                found: bytes.len(),
            });
        }
        self.attempt(|learner| {
            let suffix = match info.role {
                TensorRole::Frozen | TensorRole::Trainable => "",
                TensorRole::Master => ".master",
                TensorRole::FirstMoment => ".exp_avg",
                TensorRole::SecondMoment => ".exp_avg_sq",
            };
            let owner = name.strip_suffix(suffix).unwrap_or(name);
            for parameter in learner
                .parameters
                .iter_mut()
                .filter(|parameter| parameter.name == owner)
            {
                if let Some(tensor) = parameter.tensor_mut(info.role) {
                    *tensor = from_bytes(bytes, tensor);
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            peak_bytes: (self.memory)().peak_bytes.max(self.peak_before.peak_bytes),
        }
    }
}

/// The gradients below an output whose own gradient is known.
fn backward_from<B: ops::Backend>(
    output: Tensor<Autodiff<B>, 2>,
    gradient: Tensor<B, 2>,
) -> Gradients {
    output.mul(Tensor::from_inner(gradient)).sum().backward()
}

/// The element of a `[1]` tensor. Waits for the device.
fn sum_on_host<B: ops::Backend>(sum: Tensor<B, 1>) -> Result<f64, DeviceFault> {
    Ok(to_host(sum)?.into_iter().map(f64::from).sum())
}

/// The key of all dropout masks, out of the run's draws: 8 draws of 24 bits each, hashed down.
fn dropout_key(step: u64, draws: &dyn Draws) -> Seeded {
    let draw = Draw {
        name: "dropout",
        role: DrawRole::Dropout,
        step,
        shape: [1, 8],
    };
    let mut hasher = blake3::Hasher::new();
    for value in draws.values(&draw) {
        hasher.update(&value.to_le_bytes());
    }
    let hash = hasher.finalize();
    let seed = hash
        .as_bytes()
        .iter()
        .take(8)
        .fold(0, |seed, &byte| seed << 8 | u64::from(byte));
    Seeded { seed }
}

/// Weights N(0, 0.02), norms one, and the frozen row of the embedding zero.
fn initial_parameters<B: ops::Backend>(
    network: &Network,
    placement: &Placement<B>,
    draws: &dyn Draws,
) -> Llama<Parameter<B>> {
    let Network {
        hidden,
        intermediate,
        vocabulary,
        ..
    } = *network;
    let drawn = |name: String, shape: [usize; 2]| {
        let mut values = draws.values(&Draw {
            name: &name,
            role: DrawRole::Weight,
            step: 0,
            shape,
        });
        if let (Some(row), true) = (network.frozen_embedding_row, name == EMBEDDING) {
            values
                .iter_mut()
                .skip(row as usize * hidden)
                .take(hidden)
                .for_each(|value| *value = 0.0);
        }
        Parameter::new(name, Role::Weight, shape.to_vec(), values, placement)
    };
    let norm = |name: String| {
        Parameter::new(
            name,
            Role::Weight,
            vec![hidden],
            vec![1.0; hidden],
            placement,
        )
    };
    let linear = |module: String, shape: [usize; 2]| Linear {
        weight: Some(drawn(format!("{module}.weight"), shape)),
        module: module.into(),
        factors: None,
    };
    let block = |layer: usize| {
        let path = |part: &str| format!("model.layers.{layer}.{part}");
        Block {
            attention_norm: norm(path("input_layernorm.weight")),
            query: linear(path("self_attn.q_proj"), [hidden, hidden]),
            key: linear(path("self_attn.k_proj"), [hidden, hidden]),
            value: linear(path("self_attn.v_proj"), [hidden, hidden]),
            output: linear(path("self_attn.o_proj"), [hidden, hidden]),
            mlp_norm: norm(path("post_attention_layernorm.weight")),
            gate: linear(path("mlp.gate_proj"), [intermediate, hidden]),
            up: linear(path("mlp.up_proj"), [intermediate, hidden]),
            down: linear(path("mlp.down_proj"), [hidden, intermediate]),
        }
    };
    Llama {
        embedding: drawn(EMBEDDING.to_owned(), [vocabulary, hidden]),
        blocks: (0..network.layers).map(block).collect(),
        norm: norm("model.norm.weight".to_owned()),
        head: drawn("lm_head.weight".to_owned(), [vocabulary, hidden]),
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
