//! Tests that drive the built command, and those of the parts that only show when a whole run is put together. One
//! binary, so that it is linked once; nothing here needs more than the text that it makes itself.

mod bad_input;
mod cuda;
mod dialects;
mod e2e;
mod faults;
mod hugging_face;
mod report;
mod resume;
mod spectra;
mod stand_in;
mod support;
mod tensorboard;
mod tune;
