//! Which tiles a kernel of attention works in: chosen from what the device has, before the kernel is generated.

use cubecl::features::MmaConfig;
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, StorageType};

use super::product::{Block, Engine, FRAGMENT, Layout};

/// Units of a cube: four planes of an NVIDIA GPU.
const UNITS: usize = 128;

/// Units that share a row of scores. With rows of scores four words apart from a multiple of the 32 banks of shared memory,
/// eight rows of four neighbouring scores lie in 32 different banks.
pub const LANES: usize = 4;

/// Shared memory a cube takes at most, in bytes, where smaller tiles can keep to it: of the 164 to 228 KiB of a large GPU
/// three to five cubes get their share, so that one computes while another waits for memory.
const SHARED_BYTES: usize = 48 * 1024;

/// Which of the three kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// The output, by blocks of queries.
    Forward,
    /// The gradient of the queries, by blocks of queries.
    Query,
    /// The gradients of keys and values, by blocks of keys.
    KeyValue,
}

impl Kernel {
    /// Query and key rows of a tile, best first: what is kept by a cube should be many rows, which spares reading the rest
    /// again, but sums stay in registers and are staged in shared memory in f32.
    fn tiles(self) -> [(usize, usize); 7] {
        match self {
            Self::Forward | Self::KeyValue => [
                (64, 64),
                (64, 32),
                (32, 32),
                (32, 16),
                (16, 32),
                (16, 16),
                (8, 16),
            ],
            Self::Query => [
                (64, 64),
                (32, 64),
                (32, 32),
                (16, 32),
                (32, 16),
                (16, 16),
                (8, 16),
            ],
        }
    }
}

/// What a kernel is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Which kernel.
    pub kernel: Kernel,
    /// Rows of a tile of queries.
    pub queries: usize,
    /// Rows of a tile of keys and values.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    /// Elements of a vector that is read or written at once.
    pub vector: usize,
    /// Units of the cube.
    pub units: usize,
    /// Who multiplies tiles.
    pub engine: Engine,
    /// Bytes of an element of the inputs.
    element: usize,
}

impl Plan {
    /// The plan for heads of `width` and elements of `dtype`; `None` where the device has too little shared memory for it.
    pub fn new(
        kernel: Kernel,
        width: usize,
        dtype: StorageType,
        device: &DeviceProperties,
    ) -> Option<Self> {
        let hardware = &device.hardware;
        if (hardware.max_units_per_cube as usize) < UNITS || !width.is_multiple_of(2) || width == 0
        {
            return None;
        }
        let engine = engine(dtype, device);
        // Halves of a head are read apart. Vectors of four are what every device has.
        let vector = [4, 2, 1]
            .into_iter()
            .find(|vector| (width / 2).is_multiple_of(*vector))?;
        let plans = kernel.tiles().map(|(queries, keys)| Self {
            kernel,
            queries,
            keys,
            width,
            vector,
            units: UNITS,
            engine,
            element: dtype.size(),
        });
        let whole = |plan: &&Self| engine == Engine::Units || plan.queries >= FRAGMENT;
        let most = hardware.max_shared_memory_size;
        let within = |bytes: usize| {
            plans
                .iter()
                .filter(whole)
                .find(move |plan| plan.shared_bytes() <= bytes)
        };
        within(SHARED_BYTES.min(most))
            .or_else(|| within(most))
            .copied()
    }

    /// Width of a head in shared memory, where zeros fill it up.
    pub fn padded(self) -> usize {
        self.width.next_multiple_of(FRAGMENT)
    }

    /// Elements between rows of a tile of queries, keys or values.
    ///
    /// Neighbouring units read neighbouring rows when units multiply: an odd number of words between them puts these into
    /// different banks. Fragments want rows of whole 16 bytes, and neighbouring rows in different banks as well.
    pub fn stride(self) -> usize {
        self.padded() + self.padding()
    }

    /// Elements between rows of a tile of probabilities, or of their gradients.
    pub fn weight_stride(self) -> usize {
        self.keys + self.padding()
    }

    fn padding(self) -> usize {
        match self.engine {
            Engine::Units => 4 / self.element,
            Engine::Cores(_) => 16 / self.element,
        }
    }

    /// Elements between rows of the scores ([`LANES`]).
    pub fn score_stride(self) -> usize {
        self.keys + 4
    }

    /// Elements between rows of sums that are staged on their way out.
    pub fn staged_stride(self) -> usize {
        self.padded() + 4
    }

    /// Rows of the sums that a cube keeps.
    fn kept(self) -> usize {
        match self.kernel {
            Kernel::Forward | Kernel::Query => self.queries,
            Kernel::KeyValue => self.keys,
        }
    }

    /// Elements of the buffer for scores and for what is staged, of which there is one at a time.
    pub fn scratch(self) -> usize {
        let scores = self.queries * self.score_stride();
        scores.max(self.kept() * self.staged_stride())
    }

    /// Scores of a tile of queries with a tile of keys.
    pub fn scores(self) -> Block {
        self.block(self.queries, self.keys)
    }

    /// The sums that a cube keeps.
    pub fn sums(self) -> Block {
        self.block(self.kept(), self.padded())
    }

    fn block(self, rows: usize, columns: usize) -> Block {
        Block {
            rows,
            columns,
            units: self.units,
            engine: self.engine,
        }
    }

    /// A tile of queries, keys or values as a factor.
    pub fn rows(self) -> Layout {
        Layout::plain(self.stride())
    }

    /// Its transpose.
    pub fn columns(self) -> Layout {
        Layout::transposed(self.stride())
    }

    /// A tile of probabilities, or of their gradients, as a factor.
    pub fn weights(self) -> Layout {
        Layout::plain(self.weight_stride())
    }

    /// Its transpose.
    pub fn weights_transposed(self) -> Layout {
        Layout::transposed(self.weight_stride())
    }

    /// Shared memory of a cube, in bytes, as the kernels allocate it.
    fn shared_bytes(self) -> usize {
        let tiles = match self.kernel {
            Kernel::Forward => self.queries + 2 * self.keys,
            Kernel::Query | Kernel::KeyValue => 2 * (self.queries + self.keys),
        };
        let elements = tiles * self.stride() + self.queries * self.weight_stride();
        let statistics = match self.kernel {
            Kernel::Forward => self.queries * (LANES + 1) + 1,
            Kernel::Query => self.queries * LANES,
            Kernel::KeyValue => 0,
        };
        elements * self.element + (self.scratch() + statistics) * size_of::<f32>()
    }
}

/// Tensor cores for bf16 where the device has them.
fn engine(dtype: StorageType, device: &DeviceProperties) -> Engine {
    let bf16 = StorageType::Scalar(ElemType::Float(FloatKind::BF16));
    let fragments = MmaConfig {
        a_type: bf16,
        b_type: bf16,
        cd_type: StorageType::Scalar(ElemType::Float(FloatKind::F32)),
        m: FRAGMENT as u32,
        n: FRAGMENT as u32,
        k: FRAGMENT as u32,
    };
    let (smallest, largest) = (
        device.hardware.plane_size_min,
        device.hardware.plane_size_max,
    );
    let plane = smallest as usize;
    let whole = smallest == largest && plane > 0 && UNITS.is_multiple_of(plane);
    if dtype == bf16 && whole && device.features.matmul.cmma.contains(&fragments) {
        Engine::Cores(plane)
    } else {
        Engine::Units
    }
}
