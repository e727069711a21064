//! Text and tokens: where text comes from, how it becomes tokens, and how tokens become batches.
//!
//! [`source`] reads documents in a fixed order, [`tokenizer`] loads or trains the tokenizer, [`prepare`](prepare()) turns both into
//! a [`Store`] (once, under a lock), and [`Batches`] hands out rows of it as a pure function of the update step.
//! No tensor, recipe or table is known here.
//!
//! Everything that this crate writes is a function of the text and of the [`DataSpec`]: no clock, thread count, hash order
//! or directory order can change a byte.

pub mod batches;
mod error;
mod prepare;
pub mod source;
pub mod store;
pub mod tokenizer;

pub use batches::{Batches, IGNORE, Layout, Order, Sequences};
pub use error::DataError;
pub use prepare::{DataSpec, Progress, ValidationSpec, prepare};
pub use source::{BadLine, BadLines, SourceSpec};
pub use store::{Split, Store};
pub use tokenizer::TokenizerSpec;
