//! Parameter counts against those that the official configs give by arithmetic. (The official code's own counts are
//! replayed by `tests/golden.rs`.)

use models::{Base, FactorInit, LowRank, Network, Scaling};

fn low_rank(rank: usize, scaling: Scaling) -> LowRank {
    LowRank {
        rank,
        scaling,
        base: Base::Keep,
        factor_init: FactorInit::KaimingZero,
        dropout: 0.0,
    }
}

#[test]
fn the_named_sizes_have_the_published_shapes_and_counts() {
    // name, hidden, intermediate, layers, heads, full parameters, frozen linears, trainable at r = 128, held in all:
    // configs/*.json of the official code with the T5 vocabulary of 32,100
    let table = [
        (
            "9m", 128, 352, 4, 4, 9_021_568, 802_816, 9_480_320, 10_283_136,
        ),
        (
            "20m", 256, 688, 4, 4, 19_599_616, 3_162_112, 18_936_064, 22_098_176,
        ),
        (
            "35m", 384, 1024, 6, 8, 35_274_624, 10_616_832, 30_261_120, 40_877_952,
        ),
        (
            "40m", 416, 1024, 8, 8, 42_475_680, 15_761_408, 34_545_824, 50_307_232,
        ),
        (
            "60m", 512, 1376, 8, 8, 58_176_000, 25_296_896, 42_873_344, 68_170_240,
        ),
        (
            "71m", 512, 1368, 12, 8, 70_681_088, 37_797_888, 47_837_696, 85_635_584,
        ),
        (
            "100m",
            640,
            1708,
            12,
            10,
            100_117_120,
            59_013_120,
            59_787_904,
            118_801_024,
        ),
        (
            "130m",
            768,
            2048,
            12,
            12,
            134_259_456,
            84_934_656,
            71_738_112,
            156_672_768,
        ),
        (
            "250m",
            768,
            2560,
            24,
            16,
            247_524_096,
            198_180_864,
            98_888_448,
            297_069_312,
        ),
        (
            "350m",
            1024,
            2736,
            24,
            16,
            368_174_080,
            302_383_104,
            125_608_960,
            427_992_064,
        ),
        (
            "1b",
            2048,
            5461,
            24,
            32,
            1_339_492_352,
            1_207_910_400,
            251_116_544,
            1_459_026_944,
        ),
        (
            "3b",
            2560,
            6848,
            32,
            32,
            2_686_343_680,
            2_521_825_280,
            364_009_984,
            2_885_835_264,
        ),
        (
            "7b",
            4096,
            11008,
            32,
            32,
            6_739_234_816,
            6_476_005_376,
            583_045_120,
            7_059_050_496,
        ),
    ];
    let rank_128 = low_rank(128, Scaling::Fixed(0.25));
    for (name, hidden, intermediate, layers, heads, full, linear, trainable, held) in table {
        let network = Network::named(name, 32_100).unwrap();
        let shape = (
            network.hidden,
            network.intermediate,
            network.layers,
            network.heads,
        );
        assert_eq!(shape, (hidden, intermediate, layers, heads), "{name}");
        assert_eq!(network.parameters(), full, "{name}");
        assert_eq!(network.linear_parameters(), linear, "{name}");
        assert_eq!(
            network.trainable_parameters(Some(&rank_128)),
            trainable,
            "{name}"
        );
        assert_eq!(network.total_parameters(Some(&rank_128)), held, "{name}");
    }
}

#[test]
fn every_name_is_a_network_that_can_exist() {
    for name in Network::names() {
        Network::named(name, 257).unwrap().check().unwrap();
    }
    assert_eq!(Network::named("65m", 257), None);
}

#[test]
fn impossible_networks_are_refused_with_what_would_be_right() {
    let nano = Network::named("nano", 257).unwrap();
    let refusal = |network: Network| network.check().unwrap_err().to_string();
    assert_eq!(
        refusal(Network {
            heads: 5,
            ..nano.clone()
        }),
        "5 heads do not divide a hidden width of 64; choose a divisor of 64"
    );
    assert!(
        refusal(Network {
            heads: 64,
            ..nano.clone()
        })
        .contains("even width")
    );
    assert!(
        refusal(Network {
            vocabulary: 0,
            ..nano.clone()
        })
        .contains("vocabulary is 0")
    );
    assert!(
        refusal(Network {
            frozen_embedding_row: Some(257),
            ..nano.clone()
        })
        .contains("257")
    );

    let rank = low_rank(65, Scaling::Fixed(1.0))
        .check(&nano)
        .unwrap_err()
        .to_string();
    assert_eq!(
        rank,
        "rank 65 does not fit a layer of 64 x 176; choose 1 to 64"
    );
    assert!(
        LowRank {
            dropout: 1.0,
            ..low_rank(8, Scaling::Fixed(1.0))
        }
        .check(&nano)
        .is_err()
    );
}

#[test]
fn the_control_is_the_nearest_official_config_at_the_paper_s_sizes_and_near_the_target_elsewhere() {
    for (name, control) in [
        ("60m", "40m"),
        ("130m", "71m"),
        ("250m", "100m"),
        ("350m", "130m"),
        ("1b", "250m"),
    ] {
        let network = Network::named(name, 32_100).unwrap();
        let trainable = network.trainable_parameters(Some(&low_rank(128, Scaling::Fixed(0.25))));
        assert_eq!(
            network.matched(trainable),
            Network::named(control, 32_100).unwrap(),
            "{name}"
        );
    }
    for (name, rank) in [("nano", 4), ("micro", 8), ("mini", 16), ("20m", 32)] {
        let network = Network::named(name, 2048).unwrap();
        let target = network.trainable_parameters(Some(&low_rank(rank, Scaling::Fixed(1.0))));
        let control = network.matched(target);
        control.check().unwrap();
        assert_eq!(
            (control.layers, control.heads, control.vocabulary),
            (network.layers, network.heads, 2048)
        );
        assert!(control.hidden < network.hidden, "{name}: {control:?}");
        let error = control.parameters() as f64 / target as f64 - 1.0;
        // nano is the coarsest: its hidden width goes in steps of 8, so no width is within 0.5 %
        let tolerance = if name == "nano" { 0.01 } else { 0.005 };
        assert!(
            error.abs() <= tolerance,
            "{name}: {control:?} misses {target} by {error}"
        );
    }
}
