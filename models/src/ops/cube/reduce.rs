//! Sums and maxima over the units of a cube, in an order that is the same on every device.

use cubecl::prelude::*;

/// The sum of one value of each unit, known to all of them: neighbours at half the distance each time.
///
/// `units`, a power of two, is the number of units of the cube.
#[cube]
pub(super) fn sum_of_units(value: f32, #[comptime] units: usize) -> f32 {
    let mut shared = SharedMemory::<f32>::new(units);
    let unit = UNIT_POS as usize;
    // Where this is called in a loop, a unit may still read what the call before has left.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut distance = (units / 2).runtime();
    while distance > 0 {
        if unit < distance {
            let other = shared[unit + distance];
            shared[unit] += other;
        }
        sync_cube();
        distance /= 2;
    }
    shared[0]
}

/// The largest value of any unit, known to all of them.
#[cube]
pub(super) fn maximum_of_units(value: f32, #[comptime] units: usize) -> f32 {
    let mut shared = SharedMemory::<f32>::new(units);
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut distance = (units / 2).runtime();
    while distance > 0 {
        if unit < distance {
            let other = shared[unit + distance];
            if other > shared[unit] {
                shared[unit] = other;
            }
        }
        sync_cube();
        distance /= 2;
    }
    shared[0]
}
