//! The program's memory: small pieces from mimalloc, large ones from the system.
//!
//! On a GPU one thread takes small pieces (arguments of launches) and another gives them back (the one that makes the launches),
//! many thousands in a step. glibc's allocator takes a lock for most of those, mimalloc none: over the stand-in driver
//! (docs/gpu.md) a step of `bench-step --device cuda --size 60m` took 3.9 ms of the host's time with the former and 2.7 with the
//! latter, one of `--method relora` 8.3 and 5.4. Tensors of the CPU stay with the system's allocator, which workers have told to
//! keep their pages (`suite.rs`).

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Bytes from which on a piece is the system's.
const LARGE: usize = 16 << 10;

/// The program's allocator: `#[global_allocator]` of the binary.
#[derive(Debug, Default)]
pub struct Allocator;

fn is_small(bytes: usize) -> bool {
    bytes < LARGE
}

// A piece is given back with the length that it was taken with, so both ways see the same side of the border.
#[expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; each method hands its arguments on to an allocator that keeps the same contract"
)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this method, which is the callee's.
        unsafe {
            if is_small(layout.size()) {
                MiMalloc.alloc(layout)
            } else {
                System.alloc(layout)
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this method, which is the callee's.
        unsafe {
            if is_small(layout.size()) {
                MiMalloc.alloc_zeroed(layout)
            } else {
                System.alloc_zeroed(layout)
            }
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: a piece of this length came from the same side.
        unsafe {
            if is_small(layout.size()) {
                MiMalloc.dealloc(start, layout);
            } else {
                System.dealloc(start, layout);
            }
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: on one side of the border it is that side's own affair. Across it a piece is taken on the other side, as long
        // as the caller promises that a layout of `bytes` can be; both have at least as many bytes as are copied, do not overlap,
        // and the old one is given back as it was taken.
        unsafe {
            match (is_small(layout.size()), is_small(bytes)) {
                (true, true) => MiMalloc.realloc(start, layout, bytes),
                (false, false) => System.realloc(start, layout, bytes),
                _ => {
                    let moved =
                        self.alloc(Layout::from_size_align_unchecked(bytes, layout.align()));
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(start, layout.size().min(bytes));
                        self.dealloc(start, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "calls the allocator as a collection does")]
    fn a_piece_keeps_its_content_across_the_border_and_back() {
        let sizes = [64, LARGE - 1, LARGE, 3 * LARGE, LARGE + 8, LARGE - 8, 32];
        for align in [1, 8, 64, 4096] {
            let layout = |size| Layout::from_size_align(size, align).unwrap();
            // SAFETY: each piece is used within its length, and given back with the layout that it has then.
            unsafe {
                let mut start = Allocator.alloc_zeroed(layout(sizes[0]));
                assert_eq!(start.read(), 0);
                start.write_bytes(7, sizes[0]);
                for pair in sizes.windows(2) {
                    start = Allocator.realloc(start, layout(pair[0]), pair[1]);
                    assert!(start.addr().is_multiple_of(align));
                    for place in 0..32 {
                        assert_eq!(start.add(place).read(), 7, "{pair:?}");
                    }
                }
                Allocator.dealloc(start, layout(sizes[sizes.len() - 1]));
            }
        }
    }
}
