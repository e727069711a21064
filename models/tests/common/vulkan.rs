//! A Burn backend on whatever Vulkan the machine has.
//!
//! Burn's own is a feature of Burn, which would have everything built a second time for the tests. The runtime is the
//! library's; what is here gives its device the traits that Burn asks for.

use std::sync::OnceLock;

use burn::tensor::backend::{DeviceId, DeviceOps};
use burn_cubecl::CubeBackend;
use cubecl::Runtime;
use cubecl::client::ComputeClient;
use cubecl::device::Device;
use cubecl::ir::TargetProperties;
use cubecl::server::ComputeServer;
use cubecl::zspace::{Shape, Strides};
use cubecl_wgpu::{AutoCompiler, WgpuDevice, WgpuRuntime, WgpuServer};

/// The backend: f32, and as integers and truth values what shaders have.
pub type Vulkan = CubeBackend<VulkanRuntime, f32, i32, u32>;

/// [`WgpuRuntime`] on a [`VulkanDevice`].
#[derive(Clone, Debug)]
pub struct VulkanRuntime;

/// The device that the library finds best.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VulkanDevice;

impl Device for VulkanDevice {
    fn from_id(_id: DeviceId) -> Self {
        Self
    }

    fn to_id(&self) -> DeviceId {
        WgpuDevice::DefaultDevice.to_id()
    }
}

impl DeviceOps for VulkanDevice {}

impl Runtime for VulkanRuntime {
    type Compiler = AutoCompiler;
    type Server = WgpuServer;
    type Device = VulkanDevice;

    fn client(device: &VulkanDevice) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_client: &ComputeClient<Self>) -> &'static str {
        "vulkan"
    }

    fn max_cube_count() -> (u32, u32, u32) {
        WgpuRuntime::max_cube_count()
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        WgpuRuntime::can_read_tensor(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        WgpuRuntime::target_properties()
    }

    fn enumerate_devices(
        _type_id: u16,
        _info: &<WgpuServer as ComputeServer>::Info,
    ) -> Vec<DeviceId> {
        vec![VulkanDevice.to_id()]
    }
}

/// Whether kernels can be run; says once where they cannot. With `RELORA_TEST_VULKAN=required` in the environment they must.
///
/// # Panics
/// Where they must and cannot.
pub fn vulkan() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = std::panic::catch_unwind(|| VulkanRuntime::client(&VulkanDevice)).is_ok();
        let required = std::env::var("RELORA_TEST_VULKAN").is_ok_and(|value| value == "required");
        assert!(found || !required, "RELORA_TEST_VULKAN=required, and there is no Vulkan");
        if !found {
            eprintln!(
                "skipped: no Vulkan on this machine (Mesa's in software will do: package mesa-vulkan-drivers)"
            );
        }
        found
    })
}
