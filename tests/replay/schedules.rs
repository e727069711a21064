//! Learning rates and events, recorded from the official schedulers and trainer.

use harness::schedule::{Events, Schedule, Shape, Stage};
use serde_json::Value;

use super::{Case, Deviations, count, counts, real};

/// The official rates are f64 arithmetic in another order.
pub const RATE_TOLERANCE: f64 = 1e-15;

/// A schedule of `span` updates by the names of the official command line.
pub fn stage(settings: &Value, span: u64, peak: f64) -> Result<Stage, String> {
    let name = settings["scheduler_type"]
        .as_str()
        .or(settings["scheduler"].as_str())
        .unwrap_or("cosine");
    let cycle = settings["cycle_length"].as_u64();
    let adjust = count(settings, "adjust_step", 0);
    if adjust > 0 && name != "cosine_restarts" {
        return Err("adjust_step belongs to the jagged schedule".into());
    }
    let shape = match name {
        "cosine_restarts" => Shape::Jagged {
            cycle: cycle.ok_or("a jagged schedule without a cycle")?,
            rewarmup: settings["restart_warmup_steps"]
                .as_u64()
                .ok_or("a jagged schedule without a re-warm-up")?,
            adjust,
        },
        "cosine" => Shape::Cosine {
            cycle: cycle.unwrap_or(span),
        },
        "linear" => Shape::Linear,
        other => return Err(format!("no schedule is called {other}")),
    };
    let warmup = count(settings, "warmup_steps", 1000);
    Stage::new(
        shape,
        peak,
        warmup,
        span,
        real(settings, "min_lr_ratio", 0.1),
    )
    .map_err(|error| error.to_string())
}

/// One case for all schedules that the official code accepts, one for what it rejects.
pub fn shapes(stem: &str, recording: &Value) -> Vec<Case> {
    let accepted = recording["cases"].as_array().cloned().unwrap_or_default();
    let rejected = recording["rejected"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let rates = move || {
        let mut deviations = Deviations::default();
        for case in &accepted {
            let stage = stage(
                case,
                count(case, "num_training_steps", 0),
                real(case, "base_lr", 1.0),
            )
            .map_err(|error| format!("{}: {error}", case["name"]))?;
            let rates = case["lr_at_step"].as_array().ok_or("no rates")?;
            for (t, rate) in rates.iter().enumerate() {
                let place = || format!("{} at {t}", case["name"]);
                deviations.compare(
                    "learning rate",
                    stage.at(t as u64),
                    rate.as_f64().unwrap_or(f64::NAN),
                    RATE_TOLERANCE,
                    place(),
                );
            }
        }
        Ok(deviations)
    };
    let refusals = move || {
        let mut deviations = Deviations::default();
        for case in &rejected {
            let parameters = &case["params"];
            let ours = stage(parameters, count(parameters, "num_training_steps", 0), 1.0);
            deviations.note(
                "rejected by them and not by us",
                f64::from(u8::from(ours.is_ok())),
                0.0,
                &case["label"],
            );
        }
        Ok(deviations)
    };
    vec![
        Case::new(format!("{stem} rates"), rates),
        Case::new(format!("{stem} rejected"), refusals),
    ]
}

/// A case for each run of the official trainer whose events were recorded.
pub fn events(stem: &str, recording: &Value) -> Vec<Case> {
    let cases = recording["cases"].as_array().cloned().unwrap_or_default();
    let replay = |case: Value| {
        move || {
            let mut deviations = Deviations::default();
            let settings = &case["settings"];
            let start = count(&case, "scheduler_start_step", 0);
            let updates = count(&case, "first_update", 1)..=count(&case, "last_update", 0);
            for (recorded, period) in [
                ("merge_after_update", "relora"),
                ("optimizer_reset_after_update", "cycle_length"),
            ] {
                let events = Events {
                    start,
                    every: count(settings, period, 0),
                };
                let ours: Vec<u64> = updates.clone().filter(|done| events.after(*done)).collect();
                deviations.same(recorded, &ours, &counts(&case[recorded]));
            }
            let span = count(&case, "num_training_steps", 0) - start;
            let schedule = Schedule::new(stage(settings, span, real(settings, "lr", 1e-4))?);
            let rates = case["lr_used"].as_array().ok_or("no rates")?;
            deviations.same("updates", &(updates.clone().count()), &rates.len());
            for (done, rate) in updates.zip(rates) {
                let ours = schedule.at(done - 1 - start);
                deviations.compare(
                    "learning rate",
                    ours,
                    rate.as_f64().unwrap_or(f64::NAN),
                    RATE_TOLERANCE,
                    done,
                );
            }
            Ok(deviations)
        }
    };
    cases
        .into_iter()
        .map(|case| {
            Case::new(
                format!("{stem} {}", case["name"].as_str().unwrap_or_default()),
                replay(case),
            )
        })
        .collect()
}
