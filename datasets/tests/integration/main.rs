//! Text to batches through the public interface: what a store must guarantee, and what bad input says.

mod bad_input;
mod crates_list;
mod rows;
mod stores;
mod support;
