//! What a GPU could do at best: operations per second of its tensor cores, as NVIDIA publishes them.

/// A card, and what its data sheet says.
struct Card {
    /// The names under which drivers know it, without "NVIDIA " before them. A slice or a mobile variant of it has another.
    names: &'static [&'static str],
    /// Multiply-adds of bf16 with sums in f32 by its tensor cores, dense, at boost clock, each counted as two operations: 1e12/s.
    bf16_tera: f64,
}

/// Data sheets give most of these with "sparsity", which is twice the dense figure. A card that is not listed has no peak here:
/// none is guessed.
const CARDS: &[Card] = &[
    // NVIDIA A100 Tensor Core GPU data sheet: 312.
    Card {
        names: &[
            "A100-SXM4-40GB",
            "A100-SXM4-80GB",
            "A100-PCIE-40GB",
            "A100-PCIE-80GB",
            "A100 80GB PCIe",
        ],
        bf16_tera: 312.0,
    },
    // NVIDIA A30 data sheet: 165, with sparsity 330.
    Card {
        names: &["A30"],
        bf16_tera: 165.0,
    },
    // NVIDIA A10 data sheet: 125, with sparsity 250.
    Card {
        names: &["A10"],
        bf16_tera: 125.0,
    },
    // NVIDIA H100 Tensor Core GPU data sheet, SXM: 1,979 with sparsity.
    Card {
        names: &["H100 80GB HBM3"],
        bf16_tera: 989.5,
    },
    // The same, PCIe: 1,513 with sparsity.
    Card {
        names: &["H100 PCIe"],
        bf16_tera: 756.5,
    },
    // The same, NVL: 1,671 with sparsity.
    Card {
        names: &["H100 NVL"],
        bf16_tera: 835.5,
    },
    // NVIDIA H200 Tensor Core GPU data sheet, SXM: 1,979 with sparsity.
    Card {
        names: &["H200"],
        bf16_tera: 989.5,
    },
    // The same, NVL: 1,671 with sparsity.
    Card {
        names: &["H200 NVL"],
        bf16_tera: 835.5,
    },
    // NVIDIA L4 data sheet: 242 with sparsity.
    Card {
        names: &["L4"],
        bf16_tera: 121.0,
    },
    // NVIDIA L40S data sheet: 362.05, with sparsity 733.
    Card {
        names: &["L40S"],
        bf16_tera: 362.05,
    },
    // NVIDIA Ada GPU architecture, appendix A: 165.2, with sparsity 330.4.
    Card {
        names: &["GeForce RTX 4090"],
        bf16_tera: 165.2,
    },
    // NVIDIA Ampere GA102 GPU architecture, appendix A: 71, with sparsity 142.
    Card {
        names: &["GeForce RTX 3090"],
        bf16_tera: 71.0,
    },
];

/// Operations per second in bf16 that the data sheet of a GPU promises, by the name that its driver gives it; `None` for one
/// that is not in the table.
#[must_use]
pub fn bf16_flops_per_second(device_name: &str) -> Option<f64> {
    let name = device_name.strip_prefix("NVIDIA ").unwrap_or(device_name);
    let card = CARDS.iter().find(|card| card.names.contains(&name))?;
    Some(card.bf16_tera * 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_its_whole_name_and_no_other_is_guessed() {
        // 1,979 with sparsity on the data sheet of the H100, of which half is dense
        let h100 = bf16_flops_per_second("NVIDIA H100 80GB HBM3");
        assert_eq!(h100, Some(989.5e12));
        assert_eq!(bf16_flops_per_second("A100-SXM4-40GB"), Some(312e12));
        for other in [
            "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA A10G",
            "stand-in, compute capability 9.0",
        ] {
            assert_eq!(bf16_flops_per_second(other), None, "{other}");
        }
    }
}
