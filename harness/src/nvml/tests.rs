//! The meter against a stand-in library whose cards draw 250 W all the time (`tests/fixtures/nvml.c`).

use super::*;
use std::path::Path;
use std::process::Command;

/// What a card of the stand-in library draws, watts.
pub(crate) const WATTS: f64 = 250.0;

/// The stand-in library, built once; it stays loaded.
fn stand_in() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/nvml.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status()
            .expect("a C compiler, which building this program needs too");
        assert!(built.success());
        Library::load(library.as_os_str()).expect("loaded")
    })
}

/// A GPU whose identifier is sixteen times this byte: the cards of the stand-in library are 0, 1 and 2.
fn gpu(byte: u8) -> Gpu {
    let digits = format!("{byte:02x}").repeat(16);
    let (a, b, c, d, e) = (
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    );
    Gpu {
        uuid: Some(format!("{a}-{b}-{c}-{d}-{e}")),
        ..Gpu::default()
    }
}

/// A meter of one of its cards.
pub(crate) fn meter(card: u8) -> Option<Meter> {
    Meter::of(stand_in().card(&gpu(card))?)
}

#[test]
fn a_card_is_found_by_its_identifier_or_its_place_and_never_by_its_number() {
    let library = stand_in();
    assert_eq!(library.driver_version().as_deref(), Some("570.86.15"));
    let limit = |gpu: &Gpu| library.card(gpu)?.power_limit();
    assert_eq!(limit(&gpu(1)), Some(450.0));
    let at_place = Gpu {
        pci_bus_id: Some("00000000:41:00.0".into()),
        ..Gpu::default()
    };
    assert_eq!(limit(&at_place), Some(700.0));
    assert!(library.card(&gpu(9)).is_none());
    assert!(library.card(&Gpu::default()).is_none());
}

#[test]
fn a_library_or_a_card_that_is_not_there_or_says_nothing_has_no_meter() {
    assert!(Library::load("/nowhere/libnvidia-ml.so.1".as_ref()).is_none());
    assert!(meter(9).is_none());
    assert!(meter(2).is_none());
}

/// The first counts its energy, the second tells its power.
#[test]
fn what_a_card_draws_is_charged_to_what_the_run_does_meanwhile() {
    for card in [0, 1] {
        let meter = meter(card).expect("it tells something");
        let started = Instant::now();
        meter.turn_to(Phase::Training);
        thread::sleep(Duration::from_millis(350));
        let trained = started.elapsed().as_secs_f64();
        meter.turn_to(Phase::Evaluation);
        thread::sleep(Duration::from_millis(250));
        let used = meter.used();
        let elapsed = started.elapsed().as_secs_f64();
        let all = WATTS * elapsed;
        let Joules {
            training,
            evaluation,
            other,
            warm_start,
        } = used.joules.expect("told");
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.25;
        assert!(
            near(training + evaluation + other, all),
            "{used:?} of {all}"
        );
        assert!(
            near(training / evaluation, trained / (elapsed - trained)),
            "{used:?}"
        );
        assert!(other < 0.1 * all, "{used:?}");
        assert_eq!(warm_start, 0.0);
        assert!(
            near(used.busy_seconds.expect("told"), 0.8 * trained),
            "{used:?}"
        );
        assert_eq!(used.peak_memory_bytes, Some(4 << 30));
        // What was told is not told again.
        let rest = meter.used().joules.expect("told");
        assert!(rest.training + rest.evaluation < 0.1 * all, "{rest:?}");
    }
}

/// By hand: 0.2 s of which three quarters are training, and 50 J counted, or a mean of 150 W.
#[test]
fn what_a_tally_adds_up() {
    let begun = Instant::now();
    let after = |milliseconds| begun + Duration::from_millis(milliseconds);
    let counted = |joules| Reading {
        joules: Some(joules),
        busy: Some(0.5),
        ..Reading::default()
    };
    let drawn = |watts| Reading {
        watts: Some(watts),
        memory_bytes: Some(7),
        ..Reading::default()
    };
    let tally = |first, second| {
        let mut tally = Tally::new(first, begun);
        tally.turn_to(Phase::Training, after(50));
        assert!(tally.take(second, after(200)));
        tally
    };
    let near = |value: Option<f64>, expected: f64| {
        let value = value.expect("told");
        assert!((value - expected).abs() < 1e-9, "{value} for {expected}");
    };
    let training = |tally: &Tally| Some(tally.used.joules?.training);
    let mut counting = tally(counted(1000.0), counted(1050.0));
    near(training(&counting), 37.5);
    near(counting.used.busy_seconds, 0.075);
    assert_eq!(counting.used.peak_memory_bytes, None);
    let drawing = tally(drawn(100.0), drawn(200.0));
    near(training(&drawing), 22.5);
    assert_eq!(drawing.used.busy_seconds, None);
    assert_eq!(drawing.used.peak_memory_bytes, Some(7));

    // A reading that fails is made up for by the next one.
    assert!(!counting.take(Reading::default(), after(300)));
    near(training(&counting), 37.5);
    assert!(counting.take(counted(1080.0), after(400)));
    near(training(&counting), 67.5);
    // A counter that begins anew, as after the driver was loaded again, makes the sum unknown for good.
    assert!(counting.take(counted(1.0), after(500)));
    assert!(counting.take(counted(2.0), after(600)));
    assert_eq!(counting.used.joules, None);
}

#[test]
fn a_sum_knows_only_what_both_of_its_parts_know() {
    let used = |training| Used {
        joules: Some(Joules {
            training,
            ..Joules::default()
        }),
        busy_seconds: Some(1.0),
        peak_memory_bytes: Some(training as u64),
    };
    let both = used(3.0).and(used(4.0));
    assert_eq!(both.joules.map(|joules| joules.training), Some(7.0));
    assert_eq!(
        (both.busy_seconds, both.peak_memory_bytes),
        (Some(2.0), Some(4))
    );
    assert_eq!(Used::NOTHING.and(used(3.0)), used(3.0));
    assert_eq!(used(3.0).and(Used::default()), Used::default());
}
