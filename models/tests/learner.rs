//! What a learner promises its caller, on a network of 0.1 million parameters. The expected values follow from the
//! definitions; no other program has made them.

mod common;

use common::{
    ADAMW, Rows, cpu_learner, low_rank, read_floats, relative_difference, snapshot, write_floats,
};
use models::{
    AdamW, Base, Batch, FactorInit, IGNORE, Learner, LowRank, Mask, MomentReset, Network,
    ResetKind, Scaling, Seeded, TensorError, TensorRole, Update,
};

const DRAWS: Seeded = Seeded { seed: 5 };

fn nano() -> Network {
    Network::named("nano", 64).unwrap()
}

fn update(learner: &mut dyn Learner, step: u64) {
    // two micro-batches
    for part in 0..2 {
        let rows = Rows::new(2 * step + part);
        learner.accumulate(rows.batch(2 * step + part), rows.weight() / 2.0);
    }
    learner.update(Update {
        step,
        learning_rate: 3e-3,
        grad_clip: Some(1.0),
    });
}

fn loss(learner: &mut dyn Learner) -> f64 {
    let rows = Rows::new(1000);
    let loss = learner.evaluate(rows.batch(0)).unwrap();
    loss.sum / loss.targets as f64
}

/// Two updates at full rank, factors, two updates, a restart and a reset, two updates.
fn run(learner: &mut dyn Learner, low_rank: &LowRank, steps: std::ops::Range<u64>) {
    for step in steps {
        if step == 2 {
            learner.attach(step, low_rank, &DRAWS);
        }
        update(learner, step);
        if step + 1 == 4 {
            learner.restart(step + 1, &DRAWS);
            let reset = MomentReset {
                kind: ResetKind::Random(0.5),
                mask: Mask::Joint,
            };
            learner.reset_moments(step + 1, &reset, &DRAWS);
        }
    }
}

fn variants() -> Vec<LowRank> {
    let keep = low_rank();
    vec![
        keep.clone(),
        LowRank {
            base: Base::Zero,
            factor_init: FactorInit::BothKaiming,
            ..keep.clone()
        },
        LowRank {
            base: Base::None,
            factor_init: FactorInit::BothKaiming,
            ..keep.clone()
        },
        LowRank {
            scaling: Scaling::TanhScalar,
            ..keep.clone()
        },
        LowRank {
            factor_init: FactorInit::BothZero,
            ..keep.clone()
        },
        LowRank {
            dropout: 0.1,
            ..keep.clone()
        },
        LowRank {
            dropout: 0.1,
            scaling: Scaling::TanhScalar,
            ..keep
        },
    ]
}

#[test]
fn training_lowers_the_loss_at_full_rank_and_with_factors() {
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    let start = loss(&mut *learner);
    // a network that knows nothing is as good as a guess among 64
    assert!((start - 64f64.ln()).abs() < 0.1, "{start}");
    for step in 0..20 {
        update(&mut *learner, step);
    }
    let full_rank = loss(&mut *learner);
    assert!(full_rank < start - 0.5, "{start} to {full_rank}");

    learner.attach(20, &low_rank(), &DRAWS);
    assert!(
        (loss(&mut *learner) - full_rank).abs() < 1e-6,
        "B = 0 changes nothing"
    );
    for step in 20..40 {
        update(&mut *learner, step);
    }
    let with_factors = loss(&mut *learner);
    assert!(
        with_factors < full_rank - 0.1,
        "{full_rank} to {with_factors}"
    );

    let readings = learner.drain().unwrap();
    assert_eq!(
        readings
            .iter()
            .map(|reading| reading.step)
            .collect::<Vec<_>>(),
        (0..40).collect::<Vec<_>>()
    );
    assert!(readings.iter().all(models::Reading::is_finite));
    assert!(learner.drain().unwrap().is_empty());
}

#[test]
fn writing_all_tensors_into_another_learner_continues_with_the_same_bits() {
    for low_rank in variants() {
        for boundary in 1..6 {
            let mut whole = cpu_learner(&nano(), &ADAMW, 1);
            run(&mut *whole, &low_rank, 0..boundary);
            let checkpoint = snapshot(&*whole);

            let mut resumed = cpu_learner(&nano(), &ADAMW, 99);
            if boundary > 2 {
                resumed.attach(2, &low_rank, &DRAWS);
            }
            let names: Vec<_> = resumed
                .tensors()
                .into_iter()
                .map(|info| info.name)
                .collect();
            assert_eq!(
                names,
                checkpoint
                    .iter()
                    .map(|(name, ..)| name.clone())
                    .collect::<Vec<_>>()
            );
            for (name, _, bytes) in &checkpoint {
                resumed.write(name, bytes).unwrap();
            }
            whole.drain().unwrap();
            run(&mut *whole, &low_rank, boundary..6);
            run(&mut *resumed, &low_rank, boundary..6);
            assert_eq!(
                whole.drain().unwrap(),
                resumed.drain().unwrap(),
                "{low_rank:?} at {boundary}"
            );
            assert!(
                snapshot(&*whole) == snapshot(&*resumed),
                "{low_rank:?} resumed at {boundary} differs"
            );
        }
    }
}

#[test]
fn recomputed_blocks_train_with_the_same_bits() {
    for low_rank in variants() {
        let [kept, again] = [false, true].map(|recompute| {
            let mut learner = cpu_learner(&nano(), &ADAMW, 1);
            learner.recompute_blocks(recompute);
            run(&mut *learner, &low_rank, 0..6);
            snapshot(&*learner)
        });
        assert_eq!(kept, again, "{low_rank:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for low_rank in variants() {
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let mut learner = cpu_learner(&nano(), &ADAMW, 1);
                run(&mut *learner, &low_rank, 0..6);
                let loss = loss(&mut *learner).to_bits();
                (snapshot(&*learner), loss)
            })
        };
        let one = bits(1);
        assert!(one == bits(2) && one == bits(3), "{low_rank:?}");
    }
}

#[test]
fn a_restart_leaves_the_loss_unchanged_and_draws_the_factors_anew() {
    for scaling in [Scaling::Fixed(2.0), Scaling::TanhScalar] {
        let low_rank = LowRank {
            scaling,
            ..low_rank()
        };
        let mut learner = cpu_learner(&nano(), &ADAMW, 1);
        learner.attach(0, &low_rank, &DRAWS);
        for step in 0..4 {
            update(&mut *learner, step);
        }
        let module = "model.layers.1.mlp.down_proj";
        let before = loss(&mut *learner);
        let tensors = snapshot(&*learner);
        let a_before = read_floats(&*learner, &format!("{module}.lora_A.weight"));
        let weight_before = read_floats(&*learner, &format!("{module}.weight"));
        learner.restart(4, &DRAWS);
        // the same function but for rounding, summed over 64 targets
        assert!((loss(&mut *learner) - before).abs() < 1e-5, "{scaling:?}");
        assert_ne!(
            read_floats(&*learner, &format!("{module}.weight")),
            weight_before
        );
        let a = read_floats(&*learner, &format!("{module}.lora_A.weight"));
        assert_ne!(a, a_before);
        let bound = 1.0 / (nano().intermediate as f32).sqrt();
        assert!(a.iter().all(|value| value.abs() <= bound));
        assert!(
            read_floats(&*learner, &format!("{module}.lora_B.weight"))
                .iter()
                .all(|value| *value == 0.0)
        );
        if scaling == Scaling::TanhScalar {
            assert_eq!(read_floats(&*learner, &format!("{module}.scaling")), [0.0]);
        }
        for ((name, role, before), (_, _, after)) in tensors.iter().zip(snapshot(&*learner)) {
            if matches!(role, TensorRole::FirstMoment | TensorRole::SecondMoment) {
                assert_eq!(*before, after, "{name}: moments stay");
            }
        }
    }
}

#[test]
fn frozen_weights_change_at_a_restart_only_and_hold_no_moments() {
    let mut learner = cpu_learner(
        &nano(),
        &AdamW {
            weight_decay: 0.1,
            ..ADAMW
        },
        1,
    );
    learner.attach(0, &low_rank(), &DRAWS);
    let frozen: Vec<_> = learner
        .tensors()
        .into_iter()
        .filter(|info| info.role == TensorRole::Frozen)
        .collect();
    assert_eq!(frozen.len(), 7 * 2);
    let before: Vec<_> = frozen
        .iter()
        .map(|info| learner.read(&info.name).unwrap())
        .collect();
    update(&mut *learner, 0);
    for (info, before) in frozen.iter().zip(&before) {
        assert_eq!(learner.read(&info.name).unwrap(), *before, "{}", info.name);
        let moment = format!("{}.exp_avg", info.name);
        assert!(learner.tensors().iter().all(|other| other.name != moment));
    }
    // everything else has two moments of its own
    let count = |role| {
        learner
            .tensors()
            .iter()
            .filter(|info| info.role == role)
            .count()
    };
    assert_eq!(count(TensorRole::Trainable), 2 + 5 + 2 * 14);
    assert_eq!(count(TensorRole::FirstMoment), count(TensorRole::Trainable));
    assert_eq!(
        count(TensorRole::SecondMoment),
        count(TensorRole::Trainable)
    );
    let elements: usize = learner
        .tensors()
        .iter()
        .filter(|info| info.role == TensorRole::Trainable)
        .map(models::TensorInfo::elements)
        .sum();
    assert_eq!(
        elements as u64,
        nano().trainable_parameters(Some(&low_rank()))
    );
}

#[test]
fn the_base_is_kept_zero_or_gone() {
    let weight = "model.layers.0.self_attn.q_proj.weight";
    for base in [Base::Keep, Base::Zero, Base::None] {
        let mut learner = cpu_learner(&nano(), &ADAMW, 1);
        let before = learner.read(weight).unwrap();
        learner.attach(0, &LowRank { base, ..low_rank() }, &DRAWS);
        match base {
            Base::Keep => assert_eq!(learner.read(weight).unwrap(), before),
            Base::Zero => assert!(learner.read(weight).unwrap().iter().all(|byte| *byte == 0)),
            Base::None => assert!(learner.read(weight).is_err()),
        }
        let held: usize = learner
            .tensors()
            .iter()
            .filter(|info| matches!(info.role, TensorRole::Trainable | TensorRole::Frozen))
            .map(models::TensorInfo::elements)
            .sum();
        assert_eq!(
            held as u64,
            nano().total_parameters(Some(&LowRank { base, ..low_rank() }))
        );
    }
}

#[test]
fn attaching_forgets_all_moments_and_starts_the_bias_correction_again() {
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    for step in 0..5 {
        update(&mut *learner, step);
    }
    learner.attach(5, &low_rank(), &DRAWS);
    for info in learner.tensors() {
        if matches!(
            info.role,
            TensorRole::FirstMoment | TensorRole::SecondMoment
        ) {
            assert!(
                learner
                    .read(&info.name)
                    .unwrap()
                    .iter()
                    .all(|byte| *byte == 0),
                "{}",
                info.name
            );
        }
    }
    // At k = 1 Adam moves every weight that has a gradient by the learning rate: m/(1-b1) = g, √(v/(1-b2)) = |g|.
    let before = read_floats(&*learner, "model.norm.weight");
    update(&mut *learner, 5);
    let after = read_floats(&*learner, "model.norm.weight");
    let moves: Vec<f32> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (before - after).abs())
        .collect();
    assert!(
        relative_difference(&moves, &vec![3e-3; moves.len()]) < 1e-2,
        "{moves:?}"
    );
}

#[test]
fn accumulated_micro_batches_are_one_large_batch() {
    let (mut one, mut two) = (
        cpu_learner(&nano(), &ADAMW, 1),
        cpu_learner(&nano(), &ADAMW, 1),
    );
    let (first, second) = (Rows::new(0), Rows::new(1));
    let joined = Rows {
        inputs: [first.inputs.clone(), second.inputs.clone()].concat(),
        targets: [first.targets.clone(), second.targets.clone()].concat(),
    };
    let weight = 1.0 / joined.targets.len() as f64;
    let batch = Batch {
        inputs: &joined.inputs,
        targets: &joined.targets,
        rows: 8,
        length: Rows::LENGTH,
        index: 0,
    };
    one.accumulate(batch, weight);
    two.accumulate(first.batch(0), weight);
    two.accumulate(second.batch(1), weight);
    let step = Update {
        step: 0,
        learning_rate: 1e-3,
        grad_clip: None,
    };
    one.update(step);
    two.update(step);
    let (one_reading, two_reading) = (one.drain().unwrap()[0], two.drain().unwrap()[0]);
    assert!((one_reading.loss - two_reading.loss).abs() < 1e-6);
    assert!((one_reading.grad_norm / two_reading.grad_norm - 1.0).abs() < 1e-5);
    for name in [
        "model.embed_tokens.weight.exp_avg",
        "model.layers.0.mlp.up_proj.weight.exp_avg",
    ] {
        assert!(
            relative_difference(&read_floats(&*one, name), &read_floats(&*two, name)) < 1e-5,
            "{name}"
        );
    }
}

#[test]
fn clipping_scales_the_step_and_not_the_reading() {
    let bare = AdamW {
        beta1: 0.0,
        ..ADAMW
    };
    let gradient = |grad_clip| {
        let mut learner = cpu_learner(&nano(), &bare, 1);
        let rows = Rows::new(0);
        learner.accumulate(rows.batch(0), rows.weight());
        learner.update(Update {
            step: 0,
            learning_rate: 0.0,
            grad_clip,
        });
        let reading = learner.drain().unwrap()[0];
        (
            reading.grad_norm,
            read_floats(&*learner, "lm_head.weight.exp_avg"),
        )
    };
    let (norm, whole) = gradient(None);
    let clip = norm / 4.0;
    let (same_norm, clipped) = gradient(Some(clip));
    assert_eq!(norm, same_norm);
    let expected: Vec<f32> = whole
        .iter()
        .map(|value| value * (clip / (norm + 1e-6)) as f32)
        .collect();
    assert!(relative_difference(&clipped, &expected) < 1e-6);
}

#[test]
fn a_gradient_that_is_not_finite_is_read_and_never_applied() {
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    update(&mut *learner, 0);
    let norm_before = read_floats(&*learner, "model.norm.weight");
    let mut spoilt = norm_before.clone();
    spoilt[3] = f32::NAN;
    write_floats(&mut *learner, "model.norm.weight", &spoilt);
    let before = snapshot(&*learner);
    update(&mut *learner, 1);
    assert!(snapshot(&*learner) == before, "the update was applied");
    // The first bad step sticks: even a healthy gradient is not applied after it.
    write_floats(&mut *learner, "model.norm.weight", &norm_before);
    let before = snapshot(&*learner);
    update(&mut *learner, 2);
    assert!(
        snapshot(&*learner) == before,
        "an update after it was applied"
    );
    let finite: Vec<_> = learner
        .drain()
        .unwrap()
        .into_iter()
        .map(|reading| (reading.step, reading.is_finite()))
        .collect();
    assert_eq!(finite, [(0, true), (1, false), (2, true)]);
}

#[test]
fn the_frozen_row_of_the_embedding_is_zero_and_stays_so() {
    let network = Network {
        frozen_embedding_row: Some(7),
        ..nano()
    };
    let mut learner = cpu_learner(&network, &ADAMW, 1);
    for step in 0..3 {
        update(&mut *learner, step);
    }
    let embedding = read_floats(&*learner, "model.embed_tokens.weight");
    let moment = read_floats(&*learner, "model.embed_tokens.weight.exp_avg");
    let (rows, moments): (Vec<_>, Vec<_>) =
        (embedding.chunks(64).collect(), moment.chunks(64).collect());
    assert!(rows[7].iter().chain(moments[7]).all(|value| *value == 0.0));
    assert!(rows[8].iter().chain(moments[8]).all(|value| *value != 0.0));
    // the head's row of that token trains
    assert!(
        read_floats(&*learner, "lm_head.weight.exp_avg")
            .chunks(64)
            .nth(7)
            .unwrap()[0]
            != 0.0
    );
}

#[test]
fn ignored_targets_carry_no_loss() {
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    let mut rows = Rows::new(0);
    let whole = learner.evaluate(rows.batch(0)).unwrap();
    let last = rows.targets.len() - 1;
    let kept = std::mem::replace(&mut rows.targets[last], IGNORE);
    let without = learner.evaluate(rows.batch(0)).unwrap();
    rows.targets.fill(IGNORE);
    rows.targets[last] = kept;
    let alone = learner.evaluate(rows.batch(0)).unwrap();
    assert_eq!((whole.targets, without.targets, alone.targets), (64, 63, 1));
    assert!((whole.sum - without.sum - alone.sum).abs() < 1e-4);
}

#[test]
fn dropout_is_keyed_by_the_batch_and_absent_when_evaluating() {
    let low_rank = LowRank {
        dropout: 0.5,
        factor_init: FactorInit::BothKaiming,
        ..low_rank()
    };
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    learner.attach(0, &low_rank, &DRAWS);
    let rows = Rows::new(0);
    let evaluated = (
        learner.evaluate(rows.batch(0)).unwrap(),
        learner.evaluate(rows.batch(1)).unwrap(),
    );
    assert_eq!(evaluated.0, evaluated.1);
    for (step, index) in [(0, 0), (1, 0), (2, 1)] {
        learner.accumulate(rows.batch(index), 1.0);
        learner.update(Update {
            step,
            learning_rate: 0.0,
            grad_clip: None,
        });
    }
    let losses: Vec<_> = learner
        .drain()
        .unwrap()
        .into_iter()
        .map(|reading| reading.loss)
        .collect();
    assert_eq!(losses[0], losses[1]);
    assert_ne!(losses[0], losses[2]);
    assert_ne!(losses[0], evaluated.0.sum);
}

#[test]
fn bytes_that_do_not_fit_are_refused_by_name_and_length() {
    let mut learner = cpu_learner(&nano(), &ADAMW, 1);
    let unknown = learner
        .write("model.layers.9.scaling", &[0; 4])
        .unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "the model has no tensor model.layers.9.scaling"
    );
    let short = learner.write("model.norm.weight", &[0; 12]).unwrap_err();
    let expected = TensorError::WrongLength {
        name: "model.norm.weight".to_owned(),
        expected: 256,
        found: 12,
    };
    assert_eq!(short, expected);
    assert!(learner.read("model.layers.9.scaling").is_err());
}
