//! The `relora` harness: from a profile to a plan, from a plan to runs, from runs to tables.
//!
//! Read [`run`] first: it is the algorithm. Around it, from the outside in: `cli` and [`commands`] take what was typed;
//! [`profile`], [`settings`] and [`recipe`] say what is to be trained; [`matrix`], [`lengths`] and [`plan`] fix it in cells and steps;
//! [`suite`] starts a [`worker`] process per cell; the worker builds the parts and calls [`run`], whose only way to the
//! disk is its [`journal`].

// What a person types.
pub mod cli;
pub mod commands;
pub mod exit;

// What is to be trained.
pub mod calibrate;
pub mod lengths;
pub mod matrix;
pub mod micro_batch;
pub mod plan;
pub mod profile;
pub mod recipe;
pub mod settings;

// The algorithm.
pub mod algorithm;
pub mod run;
pub mod schedule;

// The run on disk, and the processes around it.
pub mod allocator;
pub mod checkpoint;
pub mod files;
pub mod hugging_face;
pub mod journal;
pub mod kernels;
pub mod lease;
pub mod machine;
pub mod nvml;
pub mod progress;
pub mod spectra;
pub mod stop;
pub mod suite;
pub mod tensor_file;
pub mod tensorboard;
pub mod worker;
