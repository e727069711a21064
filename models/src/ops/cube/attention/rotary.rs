//! The table of the rotary angles on a device, uploaded once per process.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::device::{Device, DeviceId};
use cubecl::prelude::CubeElement;

use crate::ops::attention::Rotary;
use crate::ops::cube::launching::send_gathered;

/// Runtime, device, positions and head width.
type Key = (TypeId, DeviceId, usize, usize);

/// Cosines and sines of each position side by side `[positions, width]`, f32, for at least `length` positions.
///
/// The positions are a power of two, so that a process that sees many lengths keeps few tables.
pub fn table<R: CubeRuntime>(
    client: &ComputeClient<R>,
    device: &R::Device,
    length: usize,
    width: usize,
) -> CubeTensor<R> {
    static TABLES: Mutex<BTreeMap<Key, Box<dyn Any + Send>>> = Mutex::new(BTreeMap::new());
    let positions = length.next_power_of_two();
    let key = (TypeId::of::<R>(), device.to_id(), positions, width);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let table = tables
        .entry(key)
        .or_insert_with(|| Box::new(upload(client, device, positions, width)));
    let table = table.downcast_ref::<CubeTensor<R>>();
    table.expect("the runtime is part of the key").clone()
}

fn upload<R: CubeRuntime>(
    client: &ComputeClient<R>,
    device: &R::Device,
    positions: usize,
    width: usize,
) -> CubeTensor<R> {
    let rotary = Rotary::new(positions, width);
    let rows = (0..positions).map(|position| rotary.at(position));
    let values: Vec<f32> = rows
        .flat_map(|(cosine, sine)| cosine.iter().chain(sine).copied())
        .collect();
    send_gathered();
    let handle = client.create_from_slice(f32::as_bytes(&values));
    CubeTensor::new_contiguous(
        client.clone(),
        device.clone(),
        Shape::from([positions, width]),
        handle,
        DType::F32,
    )
}
