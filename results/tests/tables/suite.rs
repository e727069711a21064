//! A suite on disk, written as the harness would: through the record types, so that the files are what it writes.

use results::frame::{Runs, read};
use results::record::{Manifest, PlannedMemory, RowKeys, RunResult, SCHEMA, Session, Status};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// A directory of runs that is removed when the test ends.
pub struct Suite {
    directory: tempfile::TempDir,
}

impl Suite {
    pub fn new() -> Suite {
        Suite {
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn read(&self) -> Runs {
        read(self.path(), &|_| true).expect("the suite is readable")
    }

    pub fn file(&self, run: &str, name: &str, text: &str) {
        let directory = self.path().join(run);
        fs::create_dir_all(&directory).expect("the run's directory can be made");
        fs::write(directory.join(name), text).expect("the file can be written");
    }

    pub fn append(&self, run: &str, name: &str, text: &str) {
        let path = self.path().join(run).join(name);
        let mut file = OpenOptions::new()
            .append(true)
            .open(path)
            .expect("the file exists");
        file.write_all(text.as_bytes())
            .expect("the file can be written");
    }

    /// A run that has a manifest and these records.
    pub fn begun(&self, size: &str, method: &str, seed: u64, records: &[Value]) {
        self.begin(row(size, method, seed), records);
    }

    /// The same with keys of its own; returns the name of its directory.
    pub fn begun_row(&self, row: RowKeys, records: &[Value]) -> String {
        self.begin(row, records)
    }

    pub fn complete(&self, size: &str, method: &str, seed: u64, loss: f64) {
        self.complete_as(size, method, method, seed, loss);
    }

    /// A complete run of a method that is not named as its preset.
    pub fn complete_as(&self, size: &str, method: &str, preset: &str, seed: u64, loss: f64) {
        let row = RowKeys {
            method: method.into(),
            ..row(size, preset, seed)
        };
        let directory = self.begin(row, &[step(10, loss + 0.5), evaluation(20, loss)]);
        self.file(&directory, "result.json", &json!(result(loss)).to_string());
    }

    /// A complete run with keys and records of its own.
    pub fn complete_row(&self, row: RowKeys, loss: f64, records: &[Value]) {
        let directory = self.begin(row, records);
        self.file(&directory, "result.json", &json!(result(loss)).to_string());
    }

    /// A complete run with figures of its own.
    pub fn complete_with(&self, size: &str, method: &str, seed: u64, change: impl Fn(&mut Value)) {
        self.complete(size, method, seed, 4.5);
        let mut result = json!(result(4.5));
        change(&mut result);
        self.file(
            &format!("{size}-{method}-seed{seed}"),
            "result.json",
            &result.to_string(),
        );
    }

    pub fn diverged(&self, size: &str, method: &str, seed: u64, at: u64) {
        self.diverged_row(row(size, method, seed), at);
    }

    /// A diverged run with keys of its own.
    pub fn diverged_row(&self, row: RowKeys, at: u64) {
        let directory = self.begin(row, &[step(10, 6.0), evaluation(10, 5.9)]);
        let result = RunResult {
            status: Status::Diverged,
            diverged_at_step: Some(at),
            validation_loss: None,
            ..result(4.5)
        };
        self.file(&directory, "result.json", &json!(result).to_string());
    }

    fn begin(&self, row: RowKeys, records: &[Value]) -> String {
        let directory = format!("{}-{}-seed{}", row.size, row.method, row.seed);
        let session = Session {
            version: "0.1.0".into(),
            started_unix_seconds: 1_700_000_000,
            from_step: 0,
            device_name: "a processor".into(),
            threads: 2,
            kernels: None,
            cuda: None,
        };
        let manifest = Manifest {
            schema: SCHEMA,
            row,
            determines: json!({}),
            sessions: vec![session],
        };
        self.file(&directory, "manifest.json", &json!(manifest).to_string());
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        self.file(&directory, "metrics.jsonl", &lines);
        directory
    }
}

/// Keys as the presets have them.
pub fn row(size: &str, preset: &str, seed: u64) -> RowKeys {
    let relora = preset.starts_with("relora");
    let low_rank = !matches!(preset, "full" | "control");
    let total_parameters = match size {
        "nano" => 230_000,
        "micro" => 1_330_000,
        "mini" => 4_200_000,
        "130m" => 134_105_856,
        _ => 58_176_000,
    };
    RowKeys {
        size: size.into(),
        method: preset.into(),
        preset: preset.into(),
        seed,
        dialect: "default".into(),
        low_rank,
        rank: low_rank.then_some(if size == "60m" { 128 } else { 8 }),
        alpha: low_rank.then_some(8.0),
        restart_every: None,
        warm_start_steps: None,
        global_batch_size: None,
        sequence_length: None,
        data_hash: Some("0123abcd".into()),
        base: low_rank.then(|| if preset == "low-rank" { "none" } else { "keep" }.into()),
        restarts: relora && preset != "relora-no-restart",
        optimizer_reset: relora && preset != "relora-no-optimizer-reset",
        jagged: relora && preset != "relora-no-jagged",
        rewarmup: relora && preset != "relora-no-rewarmup",
        warm_start: (relora && preset != "relora-no-warm-start") || preset == "lora-warm-start",
        learning_rate: if low_rank { 4e-3 } else { 1e-3 },
        planned_steps: 300,
        device: "cpu".into(),
        precision: "f32".into(),
        total_parameters,
        trainable_parameters: if low_rank {
            total_parameters / 2
        } else {
            total_parameters
        },
        flops: 1e12,
        point: None,
        tuning: None,
    }
}

/// Figures of a complete run that ended with this validation loss; time and memory vary with it, so that they have a spread.
fn result(loss: f64) -> RunResult {
    RunResult {
        schema: SCHEMA,
        status: Status::Complete,
        diverged_at_step: None,
        update_steps: 300,
        tokens_seen: 614_400,
        validation_loss: Some(loss),
        validation_targets: 65_536,
        bytes_per_target: 3.5,
        training_loss: Some(loss - 0.1),
        tokens_per_second: 1500.0 + 100.0 * loss,
        training_seconds: 250.0 + 10.0 * loss,
        evaluation_seconds: 12.0,
        wall_seconds: 270.0 + 10.0 * loss,
        peak_memory_bytes: Some(95_500_000 + (loss * 1e6) as u64),
        gpu: None,
        planned_memory: Some(PlannedMemory {
            process: 10_000_000,
            weights: 1_600_000,
            gradients: 400_000,
            moments: 800_000,
            activations: 60_000_000,
            logits: 8_000_000,
            workspace: 0,
        }),
        weight_bytes: 1_600_000,
        optimizer_state_bytes: 800_000,
        restarts: 0,
        resets: 0,
    }
}

pub fn step(step: u64, loss: f64) -> Value {
    json!({
        "type": "step", "step": step, "tokens_seen": step * 2048, "loss": loss, "learning_rate": 1e-3, "grad_norm": 0.7,
        "tokens_per_second": 2000.0, "training_seconds": 1.5,
    })
}

pub fn evaluation(step: u64, loss: f64) -> Value {
    json!({
        "type": "evaluation", "step": step, "tokens_seen": step * 2048, "validation_loss": loss, "targets": 65_536,
        "seconds": 2.5,
    })
}

pub fn restart(step: u64) -> Value {
    json!({ "type": "restart", "step": step })
}

pub fn reset(step: u64, total: u64, zeroed: u64) -> Value {
    json!({ "type": "reset", "step": step, "moments_total": total, "moments_zeroed": zeroed })
}

pub fn stop(step: u64, reason: &str) -> Value {
    json!({ "type": "stop", "step": step, "reason": reason })
}
