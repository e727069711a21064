//! Batches: which tokens are inputs and targets of which row, and in which order rows come.

use std::sync::Arc;

use datasets::{Batches, DataError, IGNORE, Layout, Order, Sequences, Split, Store};
use proptest::prelude::*;

use crate::support::{END, store_of};

/// A store of one document with the tokens `0..count`: a token tells its place.
fn counting(directory: &std::path::Path, count: u32) -> Arc<Store> {
    store_of(directory, count, &[(0..count).collect()])
}

struct Shape {
    length: usize,
    overlap: usize,
    global: usize,
    micro: usize,
}

fn batches(
    store: &Arc<Store>,
    split: Split,
    order: Order,
    layout: Layout,
    shape: &Shape,
) -> Result<Batches, DataError> {
    Batches::new(
        Arc::clone(store),
        split,
        order,
        layout,
        shape.length,
        shape.overlap,
        shape.global,
        shape.micro,
    )
}

fn pass(batches: &Batches) -> Vec<Sequences> {
    batches.pass().collect::<Result<_, _>>().unwrap()
}

/// Rows of all micro-batches as (inputs, targets).
fn rows(sequences: &[Sequences]) -> Vec<(Vec<u32>, Vec<u32>)> {
    sequences
        .iter()
        .flat_map(|s| {
            assert_eq!(s.inputs.len(), s.rows * s.length);
            assert_eq!(s.targets.len(), s.rows * s.length);
            s.inputs
                .chunks(s.length)
                .zip(s.targets.chunks(s.length))
                .map(|(i, t)| (i.to_vec(), t.to_vec()))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_pass_with_overlap_has_every_target_once_and_follows_each_input(count in 2_u32..400, length in 1_usize..40, micro in 1_usize..7) {
        let folder = tempfile::tempdir().unwrap();
        let store = counting(folder.path(), count);
        let length = length.min(count as usize);
        let shape = Shape { length, overlap: 1, global: 1, micro };
        let batches = batches(&store, Split::Validation, Order::Sequential, Layout::Packed, &shape).unwrap();
        let sequences = pass(&batches);
        let whole_and_cut = (count as usize - 1).div_ceil(length);
        prop_assert_eq!(sequences.len(), whole_and_cut.div_ceil(micro));
        let mut targets = Vec::new();
        for (inputs, row) in rows(&sequences) {
            for (input, target) in inputs.into_iter().zip(row) {
                if target != IGNORE {
                    prop_assert_eq!(target, input + 1);
                    targets.push(target);
                }
            }
        }
        prop_assert!(targets.into_iter().eq(1..count));
        let total: u64 = sequences.iter().map(Sequences::targets).sum();
        prop_assert_eq!(total, u64::from(count) - 1);
    }

    #[test]
    fn an_epoch_has_every_whole_row_once_whatever_the_batch(count in 60_u32..500, length in 2_usize..12, overlap in 0_usize..2, global in 1_usize..5, seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let store = counting(folder.path(), count);
        let shape = Shape { length, overlap, global, micro: 2 };
        let batches = batches(&store, Split::Training, Order::Seeded(seed), Layout::Packed, &shape).unwrap();
        // Two epochs end together with an update after as many updates as an epoch has rows, twice over.
        let epoch = (count as usize - overlap) / length;
        let updates = 2 * epoch as u64;
        let mut firsts: Vec<u32> = (0..updates)
            .flat_map(|step| rows(&batches.update(step).unwrap()))
            .map(|(inputs, _)| inputs[0])
            .collect();
        prop_assert_eq!(firsts.len(), 2 * epoch * global);
        for epoch in firsts.chunks_mut(epoch) {
            epoch.sort_unstable();
            prop_assert!(epoch.iter().copied().eq((0..epoch.len() as u32).map(|row| row * length as u32)));
        }
    }
}

#[test]
fn rows_without_overlap_have_one_target_less_than_tokens() {
    // The official rows: T tokens, logits of the first T - 1 against the last T - 1.
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 23);
    let shape = Shape {
        length: 5,
        overlap: 0,
        global: 2,
        micro: 2,
    };
    let batches = batches(
        &store,
        Split::Training,
        Order::Sequential,
        Layout::Packed,
        &shape,
    )
    .unwrap();
    // 23 tokens are four whole rows of five, so the second update of two ends the epoch.
    assert_eq!(
        rows(&batches.update(2).unwrap()),
        rows(&batches.update(0).unwrap())
    );
    let update = batches.update(1).unwrap();
    assert_eq!(
        rows(&update),
        [
            (vec![10, 11, 12, 13, 14], vec![11, 12, 13, 14, IGNORE]),
            (vec![15, 16, 17, 18, 19], vec![16, 17, 18, 19, IGNORE]),
        ]
    );
    assert_eq!(update[0].targets(), 8);
    // A pass has the three tokens left over as well.
    let last = rows(&pass(&batches)).pop().unwrap();
    assert_eq!(
        last,
        (
            vec![20, 21, 22, END, END],
            vec![21, 22, IGNORE, IGNORE, IGNORE]
        )
    );
}

#[test]
fn padded_rows_hold_a_document_each_and_mask_what_fills_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_of(
        folder.path(),
        99,
        &[
            vec![7, 8, END],
            vec![1, 2, 3, END],
            vec![4, 5, 6, 9, 9, 9, END],
        ],
    );
    let of = |overlap| {
        let shape = Shape {
            length: 4,
            overlap,
            global: 3,
            micro: 2,
        };
        let batches = batches(
            &store,
            Split::Training,
            Order::Sequential,
            Layout::Padded,
            &shape,
        )
        .unwrap();
        (rows(&batches.update(0).unwrap()), rows(&pass(&batches)))
    };
    let (update, pass) = of(1);
    assert_eq!(
        update,
        [
            (vec![7, 8, END, END], vec![8, END, IGNORE, IGNORE]),
            (vec![1, 2, 3, END], vec![2, 3, END, IGNORE]),
            (vec![4, 5, 6, 9], vec![5, 6, 9, 9]),
        ]
    );
    assert_eq!(update, pass);
    let (update, _) = of(0);
    assert_eq!(update[2], (vec![4, 5, 6, 9], vec![5, 6, 9, IGNORE]));
}

#[test]
fn the_order_is_a_function_of_the_seed_and_the_step_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 2_000);
    let shape = Shape {
        length: 8,
        overlap: 1,
        global: 6,
        micro: 4,
    };
    let of = |seed| {
        batches(
            &store,
            Split::Training,
            Order::Seeded(seed),
            Layout::Packed,
            &shape,
        )
        .unwrap()
    };
    let (one, same, other) = (of(1), of(1), of(2));
    // Asked for in any order, a step gives the same rows: there is no cursor.
    let forward: Vec<_> = (0..100).map(|step| one.update(step).unwrap()).collect();
    let backward: Vec<_> = (0..100)
        .rev()
        .map(|step| same.update(step).unwrap())
        .collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    assert!(
        (0..100)
            .all(|step| other.update(step).unwrap()[0].inputs != forward[step as usize][0].inputs)
    );
    // The second epoch, from update 41 on, has another order than the first.
    assert!(rows(&forward[0]) != rows(&forward[41]));
    // A batch split otherwise has the same rows in the same order.
    let whole = Shape { micro: 6, ..shape };
    let whole = batches(
        &store,
        Split::Training,
        Order::Seeded(1),
        Layout::Packed,
        &whole,
    )
    .unwrap();
    assert!(
        (0..20).all(|step| rows(&whole.update(step).unwrap()) == rows(&forward[step as usize]))
    );
}

#[test]
fn micro_batches_are_numbered_through_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 100);
    let shape = Shape {
        length: 4,
        overlap: 1,
        global: 5,
        micro: 2,
    };
    let batches = batches(
        &store,
        Split::Training,
        Order::Seeded(0),
        Layout::Packed,
        &shape,
    )
    .unwrap();
    assert_eq!(batches.micro_batches_per_update(), 3);
    let found: Vec<(u64, usize)> = (0..3)
        .flat_map(|step| batches.update(step).unwrap())
        .map(|s| (s.index, s.rows))
        .collect();
    assert_eq!(
        found,
        [
            (0, 2),
            (1, 2),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 1),
            (6, 2),
            (7, 2),
            (8, 1)
        ]
    );
}

#[test]
fn a_sequence_longer_than_the_corpus_is_refused_with_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 100);
    for (length, global) in [(100, 1), (10, 10), (1_000_000, 8)] {
        let shape = Shape {
            length,
            overlap: 1,
            global,
            micro: 1,
        };
        let error = batches(
            &store,
            Split::Training,
            Order::Seeded(0),
            Layout::Packed,
            &shape,
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains(&format!(
                "a sequence length of {length} is longer than the corpus allows"
            )),
            "{error}"
        );
        assert!(
            error.contains("(documents: 1, tokens: 100, rows: ")
                && error.contains(&format!(" of {global});")),
            "{error}"
        );
    }
    let shape = Shape {
        length: 99,
        overlap: 1,
        global: 1,
        micro: 1,
    };
    assert!(
        batches(
            &store,
            Split::Training,
            Order::Seeded(0),
            Layout::Packed,
            &shape
        )
        .is_ok()
    );
}

#[test]
fn absurd_sizes_are_refused_and_not_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 100);
    for layout in [Layout::Packed, Layout::Padded] {
        for split in [Split::Training, Split::Validation] {
            let shape = Shape {
                length: usize::MAX,
                overlap: 1,
                global: 1,
                micro: usize::MAX,
            };
            let made = batches(&store, split, Order::Seeded(0), layout, &shape);
            assert!(matches!(made, Err(DataError::TooShort { .. })));
        }
    }
    let shape = Shape {
        length: 4,
        overlap: 1,
        global: usize::MAX,
        micro: 1,
    };
    let made = batches(
        &store,
        Split::Validation,
        Order::Seeded(0),
        Layout::Packed,
        &shape,
    )
    .unwrap();
    assert!(matches!(made.update(0), Err(DataError::TooShort { .. })));
}

#[test]
fn sizes_of_zero_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = counting(folder.path(), 100);
    let good = || Shape {
        length: 4,
        overlap: 1,
        global: 2,
        micro: 1,
    };
    for (shape, expected) in [
        (
            Shape {
                length: 0,
                ..good()
            },
            "sequence length is 0; it must be at least 1",
        ),
        (
            Shape {
                length: 1,
                overlap: 0,
                ..good()
            },
            "sequence length is 1",
        ),
        (
            Shape {
                overlap: 2,
                ..good()
            },
            "overlap is 2; it must be 0 or 1",
        ),
        (
            Shape {
                global: 0,
                ..good()
            },
            "global batch is 0",
        ),
        (Shape { micro: 0, ..good() }, "micro batch is 0"),
    ] {
        let error = batches(
            &store,
            Split::Training,
            Order::Sequential,
            Layout::Packed,
            &shape,
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn wide_vocabularies_are_stored_whole() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = vec![70_000, 1, 65_536, 65_535, END];
    let store = store_of(folder.path(), 70_001, std::slice::from_ref(&tokens));
    let mut read = Vec::new();
    store.read(Split::Training, 0..5, &mut read).unwrap();
    assert_eq!(read, tokens);
    assert_eq!(store.manifest().bytes_per_token, 4);
}
