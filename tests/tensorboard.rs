//! Event files for TensorBoard, from the outside: which steps are in them. Their format is tested where it is written, and
//! read by TensorBoard itself in `just test-hf`.

use std::fs;
use std::path::Path;

use harness::tensorboard::FILE;

use crate::support::World;

/// The step of every event but the first, which is of the format: behind the time (nine bytes) a varint in field 2.
fn steps(run: &Path) -> Vec<u64> {
    let bytes = fs::read(run.join(FILE)).expect("an event file");
    let mut rest = &bytes[..];
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
        let event = &rest[12..12 + length];
        if event[9] == 0x10 {
            let digits = event[10..].iter().enumerate();
            let mut step = 0;
            for (place, byte) in digits {
                step |= u64::from(byte & 0x7f) << (7 * place);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            steps.push(step);
        }
        rest = &rest[16 + length..];
    }
    steps
}

#[test]
fn a_run_that_was_cut_off_and_goes_on_shows_each_step_once() {
    let world = World::new();
    let wanted = ["--only", "relora", "--tensorboard"];
    world.succeed(&World::suite("out", &wanted));
    let run = world.path("out/tiny-relora-seed1");
    let whole = steps(&run);
    let recorded: Vec<u64> = world
        .records("out/tiny-relora-seed1")
        .iter()
        .filter(|record| record["type"] == "step" || record["type"] == "evaluation")
        .map(|record| record["step"].as_u64().expect("a step"))
        .collect();
    assert_eq!(whole, recorded);

    // As a kill leaves it: records and events beyond the newest checkpoint, and no result.
    fs::remove_file(run.join("result.json")).expect("removed");
    fs::remove_dir_all(run.join("checkpoints/step-42")).expect("removed");
    world.succeed(&World::suite("out", &["--only", "relora"]));
    assert_eq!(steps(&run), whole);
}

#[test]
fn a_suite_that_has_ended_gets_its_event_files_when_asked_for_them() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--only", "full"]));
    let run = world.path("out/tiny-full-seed1");
    assert!(!run.join(FILE).exists());
    world.succeed(&World::suite("out", &["--only", "full", "--tensorboard"]));
    assert_eq!(steps(&run).last(), Some(&42));
}
