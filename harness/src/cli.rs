//! The command line as it is typed: every flag with the words that `--help` says about it, and nothing done yet.
//!
//! A value that has a form of its own (a device, a budget, `KEY=VALUE`) is parsed here, so that clap names the flag in
//! the error; what needs a profile to be judged (a size, a method, a key) is judged where the profile is.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand};
use models::Network;

use crate::profile::{self, Assignment};
use crate::recipe;

const EXAMPLES: &str = "\
Examples:
  relora bench-all                             every method, on text that is already here
  relora bench-all --profile smoke             each once, as a taste: too short to say anything
  relora bench-all --only relora,full          some of the cells
  relora bench-all --data my-text.jsonl.gz     on a text of your own
  relora plan --profile paper --data c4        what would run and what it would cost
  relora train --size mini --method relora     one run by flags
  relora tune --profile laptop                 learning rates, each method with the same effort
  relora tables --json                         the tables of the newest suite, for a program
  relora export RUN model                      a run as a folder for Hugging Face's transformers
  relora bench-step --size 9m --method relora  how fast this machine trains, and in how much memory
  relora doctor                                what is found here, and what is missing

Interrupt a suite at any moment; the same command goes on where it was.

Exit codes: 0 done, 1 something failed, 2 bad input, 3 some cells failed or cannot be read, 75 stopped by a signal or a budget.";

/// How does ReLoRA compare with full-rank training, with LoRA and with ReLoRA minus each of its parts?
///
/// relora trains every method at every size, with paired seeds, on the same tokens in the same order, and leaves tables
/// of perplexity, throughput and memory with intervals.
#[derive(Debug, Parser)]
#[command(name = "relora", bin_name = "relora", version, after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which a stranger needs them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train every cell of a profile and leave tables
    #[command(after_help = EXIT_CODES)]
    BenchAll(MatrixOptions),
    /// Show what would run: tokens, steps, parameters, FLOPs, memory, time
    Plan(PlanOptions),
    /// Train one cell by flags
    #[command(override_usage = TRAIN_USAGE, after_help = EXIT_CODES)]
    Train(TrainOptions),
    /// Tune every method with the same effort; leaves a profile of what was chosen
    #[command(after_help = EXIT_CODES)]
    Tune(TuneOptions),
    /// Show how far a suite is
    Status(StatusOptions),
    /// Rebuild and print the tables of a suite
    Tables(TablesOptions),
    /// Take apart what the runs of a suite have trained: singular values, ranks, angles
    Spectra(SpectraOptions),
    /// Write a report of a suite with its tables and figures, or what differs between two
    Report(ReportOptions),
    /// Hold what is claimed of ReLoRA against a suite: reproduced, refuted, underpowered or not tested
    Claims(ClaimsOptions),
    /// Say in which choices two published recipes differ, and where each is from
    Explain(ExplainOptions),
    /// Write a run's model as a folder that Hugging Face's transformers loads
    Export(ExportOptions),
    /// Measure the loss of a Hugging Face LLaMA folder on a text
    Eval(EvalOptions),
    /// Measure how fast this machine trains a network, and in how much memory
    BenchStep(BenchStepOptions),
    /// Say what is found on this machine, what is missing and how to get it
    Doctor(DoctorOptions),
    /// Print a completion script for a shell
    Completions(CompletionsOptions),
    /// Work on one run directory (started by bench-all; a batch scheduler may start it too)
    #[command(hide = true)]
    Worker(WorkerOptions),
    /// Measure how fast this machine trains (started by commands that need to know)
    #[command(hide = true)]
    Calibrate(CalibrateOptions),
}

const TRAIN_USAGE: &str = "\
relora train --size <SIZE> --method <METHOD> [OPTIONS]
       relora train --init-from <DIR> --method <METHOD> [OPTIONS]";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 something failed, 2 bad input, 3 some cells failed or cannot be read, 75 stopped (the same command goes on).";

/// What is trained, and on what: shared by every command that resolves a profile.
#[derive(Args, Clone, Debug, Default)]
pub struct SuiteOptions {
    /// Profile: smoke, laptop, laptop-rates, ablations-laptop, paper, ablations, gpu-check, or a TOML file [default: laptop; paper with CUDA]
    #[arg(long, value_name = "NAME|FILE", value_parser = Known(profile::built_in_names), hide_possible_values = true)]
    pub profile: Option<String>,
    /// Directory of the suite [default: runs/<profile>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only the cells of a method, a size, a size-method or a cell name; `*` matches anything; several with commas, or repeated
    #[arg(
        long,
        value_name = "FILTER",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub only: Vec<String>,
    /// Override one value of the profile, e.g. size.nano.learning_rate=1e-3; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<Assignment>,
    /// Seeds, e.g. 1,2,3 or 1-3: every method is trained once with each
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = seeds, allow_negative_numbers = true)]
    pub seeds: Vec<Seeds>,
    /// Size every run to an amount: 24h, "8 gpu-hours", "2B tokens", "1e19 FLOPs"
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
    pub budget: Option<String>,
    #[command(flatten)]
    pub place: PlaceOptions,
    #[command(flatten)]
    pub text: TextOptions,
    /// Cells trained at the same time, sharing the cores [default: the profile's]
    #[arg(long, value_name = "N", value_parser = jobs, allow_negative_numbers = true)]
    pub jobs: Option<u64>,
}

/// Where and how the arithmetic is done.
#[derive(Args, Clone, Debug, Default)]
pub struct PlaceOptions {
    /// auto, cpu, cuda or cuda:N [default: auto, CUDA where it is usable]
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub device: Option<String>,
    /// f32, bf16, or bf16-master (bf16 arithmetic, f32 weights and moments) [default: f32 on the CPU, else bf16]
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    pub precision: Option<String>,
    /// Compute blocks a second time in the backward pass instead of keeping them: less memory, more time, the same numbers
    #[arg(long)]
    pub recompute: bool,
}

/// What is read.
#[derive(Args, Clone, Debug, Default)]
pub struct TextOptions {
    /// Train on this text: a .txt or .md file, .jsonl (.gz, .zst), a folder of them, or a folder of C4 shards
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Tokenizer to use, a tokenizer.json or a folder with one [default: byte-level BPE trained on the text]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// `relora plan`
#[derive(Args, Clone, Debug)]
pub struct PlanOptions {
    #[command(flatten)]
    pub matrix: MatrixOptions,
    /// Say how many seeds it takes to tell each method from `full` by so many nats of validation loss, by how much the seeds
    /// that the suite has done already scatter
    #[arg(long, value_name = "NATS", value_parser = nats, allow_negative_numbers = true)]
    pub resolve: Option<f64>,
}

/// `relora bench-all` and `relora plan`: a whole matrix.
#[derive(Args, Clone, Debug)]
pub struct MatrixOptions {
    #[command(flatten)]
    pub suite: SuiteOptions,
    /// Write event files for TensorBoard beside metrics.jsonl
    #[arg(long)]
    pub tensorboard: bool,
    /// Print the profile with everything resolved, as TOML, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Print as JSON: the plan, or the tables at the end
    #[arg(long)]
    pub json: bool,
}

/// `relora train`
#[derive(Args, Clone, Debug)]
pub struct TrainOptions {
    /// Size of the network: nano, micro, mini, 9m, 20m, 35m, 40m, 60m, 71m, 100m, 130m, 250m, 350m, 1b, 3b, 7b
    #[arg(long, value_name = "SIZE", required_unless_present = "init_from", value_parser = Known(|| Network::names().to_vec()), hide_possible_values = true)]
    pub size: Option<String>,
    /// Method: full, control, lora, low-rank, lora-warm-start, relora, or relora without one of its parts: relora-no-restart,
    /// relora-no-optimizer-reset, relora-no-jagged, relora-no-warm-start, relora-no-rewarmup; or one of the profile's own
    #[arg(long, value_name = "METHOD", allow_hyphen_values = true, value_parser = Known(recipe::preset_names), hide_possible_values = true)]
    pub method: String,
    /// Start from the LLaMA in this Hugging Face folder, with its tokenizer, instead of from random weights; its shape
    /// is the size's, and its name the size's name where none is given
    #[arg(long, value_name = "DIR")]
    pub init_from: Option<PathBuf>,
    /// Rank of the low-rank factors; without --alpha, alpha goes with it, so that the scale alpha / rank stays [default: the
    /// profile's]
    #[arg(long, value_name = "R", value_parser = whole, allow_negative_numbers = true)]
    pub rank: Option<u64>,
    /// Numerator of the scale alpha / rank of the product [default: so that the scale is the profile's]
    #[arg(long, value_name = "A", value_parser = alpha, allow_negative_numbers = true)]
    pub alpha: Option<f64>,
    /// Update steps in all, warm start included; warm start, cycles and warm-ups keep their proportions, and the run its
    /// number of restarts (--set steps=N changes that key alone) [default: the profile's]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub steps: Option<u64>,
    /// Seed of weights, data order and every other draw [default: the profile's first]
    #[arg(long, value_name = "K", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Profile that everything else is taken from [default: laptop; paper with CUDA]
    #[arg(long, value_name = "NAME|FILE", value_parser = Known(profile::built_in_names), hide_possible_values = true)]
    pub profile: Option<String>,
    /// Directory of the suite that the run joins; what cannot be compared with its runs is refused [default: runs/train]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Override one value of the profile; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<Assignment>,
    #[command(flatten)]
    pub place: PlaceOptions,
    #[command(flatten)]
    pub text: TextOptions,
    /// Write an event file for TensorBoard beside metrics.jsonl
    #[arg(long)]
    pub tensorboard: bool,
    /// Print the profile with everything resolved, as TOML, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Print the tables as JSON at the end
    #[arg(long)]
    pub json: bool,
}

/// `relora tune`
#[derive(Args, Clone, Debug)]
pub struct TuneOptions {
    /// Profile whose methods are tuned as its [tune] says: laptop, or a TOML file [default: laptop; paper with CUDA]
    #[arg(long, value_name = "NAME|FILE", value_parser = Known(profile::built_in_names), hide_possible_values = true)]
    pub profile: Option<String>,
    /// Only these methods now; `*` matches anything; several with commas, or repeated
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub only: Vec<String>,
    /// Points that are tried of each method; more of them later keep those that are done [default: the profile's]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub points: Option<u64>,
    /// Directory of the suite of proxy runs [default: runs/<profile>-tune]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Profile to write, for bench-all; one that somebody has changed is not overwritten [default: <out>/<profile>-tuned.toml]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Override one value of the profile, e.g. tune.proxy.steps=1000; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<Assignment>,
    #[command(flatten)]
    pub place: PlaceOptions,
    #[command(flatten)]
    pub text: TextOptions,
    /// Runs trained at the same time, sharing the cores [default: the profile's]
    #[arg(long, value_name = "N", value_parser = jobs, allow_negative_numbers = true)]
    pub jobs: Option<u64>,
    /// Print the profile of the proxy runs, which `relora plan` prices, as TOML, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Print what was chosen as JSON at the end
    #[arg(long)]
    pub json: bool,
}

/// A suite to read.
#[derive(Args, Clone, Debug)]
pub struct ReadOptions {
    /// Directory of the suite, or its name under runs/ [default: the one there that was worked on last]
    #[arg(value_name = "SUITE")]
    pub suite: Option<PathBuf>,
}

/// `relora claims`
#[derive(Args, Clone, Debug)]
pub struct ClaimsOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora status`
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Look again every two seconds, until nothing is running
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora tables`
#[derive(Args, Clone, Debug)]
pub struct TablesOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Only this table
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Say what every column means instead of printing its values
    #[arg(long)]
    pub describe: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora spectra`
#[derive(Args, Clone, Debug)]
pub struct SpectraOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora explain`
#[derive(Args, Clone, Debug)]
pub struct ExplainOptions {
    /// Dialect: default, paper-2023-05, official-head or galore-table
    #[arg(long, value_name = "NAME", value_parser = Known(recipe::dialect_names), hide_possible_values = true)]
    pub dialect: String,
    /// The one to hold beside it
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub versus: String,
    /// Only for methods of this preset [default: all]
    #[arg(long, value_name = "PRESET")]
    pub method: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora report`
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Another suite on the same text: print what differs between the two instead, as Markdown
    #[arg(value_name = "OTHER")]
    pub other: Option<PathBuf>,
    /// A single file to write instead, HTML, LaTeX or Markdown by its ending (.html, .tex, .md), - for Markdown on standard
    /// output [default: <suite>/tables/report.html, with all tables and figures beside it]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `relora export`
#[derive(Args, Clone, Debug)]
pub struct ExportOptions {
    /// Run directory of a suite, e.g. runs/laptop/nano-relora-seed1
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Folder to write: a new or an empty one
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Keep the factors apart: the weights under them in DIR, they in DIR/adapter as peft loads them
    #[arg(long)]
    pub adapter: bool,
}

/// `relora eval`
#[derive(Args, Clone, Debug)]
pub struct EvalOptions {
    /// Folder with config.json, model.safetensors (or shards) and tokenizer.json
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Text, all of it: a .txt or .md file, .jsonl (.gz, .zst), a folder of them, or a folder of C4 shards
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Tokens of a sequence [default: the model's longest, 1024 at most]
    #[arg(long, value_name = "T", value_parser = length)]
    pub sequence_length: Option<usize>,
    /// Sequences that go through the network at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = batch_size)]
    pub batch_size: usize,
    /// auto, cpu, cuda or cuda:N [default: auto, CUDA where it is usable]
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub device: Option<String>,
    /// f32 or bf16, of weights and arithmetic alike
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora bench-step`
#[derive(Args, Clone, Debug)]
pub struct BenchStepOptions {
    /// Size of the network, as of `relora train`
    #[arg(long, value_name = "SIZE", value_parser = Known(|| Network::names().to_vec()), hide_possible_values = true)]
    pub size: String,
    /// Method, as of `relora train`; one with a warm start is measured after it
    #[arg(long, value_name = "METHOD", allow_hyphen_values = true, value_parser = Known(recipe::preset_names), hide_possible_values = true)]
    pub method: String,
    /// Sequences of a micro-batch: a step is one of it
    #[arg(long, value_name = "B", default_value = "8", value_parser = batch_size)]
    pub batch: usize,
    /// Tokens of a sequence [default: the profile's]
    #[arg(long, value_name = "T", value_parser = length)]
    pub seq: Option<usize>,
    /// Steps that are timed, after two that are not
    #[arg(long, value_name = "N", default_value = "10", value_parser = timed_steps)]
    pub steps: u64,
    /// Rank of the low-rank factors [default: the profile's]
    #[arg(long, value_name = "R", value_parser = whole, allow_negative_numbers = true)]
    pub rank: Option<u64>,
    /// Profile that everything else is taken from [default: paper; laptop for the sizes that are this project's own]
    #[arg(long, value_name = "NAME|FILE", value_parser = Known(profile::built_in_names), hide_possible_values = true)]
    pub profile: Option<String>,
    /// Override one value of the profile, e.g. data.vocabulary=4096; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<Assignment>,
    /// Compute threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<u64>,
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora doctor`
#[derive(Args, Clone, Debug)]
pub struct DoctorOptions {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `relora completions`
#[derive(Args, Clone, Debug)]
pub struct CompletionsOptions {
    /// Shell to write for
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `relora worker`
#[derive(Args, Clone, Debug)]
pub struct WorkerOptions {
    /// Run directory inside a planned suite
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Stop when standard input ends: the supervisor is gone
    #[arg(long)]
    pub supervised: bool,
    /// Device [default: that of the first command on the suite]
    #[arg(long, value_name = "DEVICE", value_parser = a_device)]
    pub device: Option<String>,
    /// Compute threads [default: those of the first command on the suite]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub threads: Option<u64>,
    /// Directory of the token store [default: that of the first command on the suite]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// `relora calibrate`
#[derive(Args, Clone, Debug)]
pub struct CalibrateOptions {
    /// Device
    #[arg(long, value_name = "DEVICE", value_parser = a_device)]
    pub device: String,
    /// Precision
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    pub precision: String,
    /// Compute threads
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub threads: u64,
}

/// Any text, of which a shell completes the names that are known here: others may be a file's, or the profile's own, and who
/// judges a name says more than a list.
#[derive(Clone)]
struct Known(fn() -> Vec<&'static str>);

impl TypedValueParser for Known {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0().into_iter().map(PossibleValue::new)))
    }
}

/// `KEY=VALUE`, kept as typed: the profile knows the keys.
fn assignment(text: &str) -> Result<Assignment, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.into()),
        _ => Err("expected KEY=VALUE, e.g. steps=200".to_owned()),
    }
}

fn seed(text: &str) -> Result<u64, String> {
    // A plan and a profile keep them as TOML, which goes no further.
    const MOST: u64 = i64::MAX as u64;
    (text.trim().parse().ok())
        .filter(|seed| *seed <= MOST)
        .ok_or_else(|| format!("expected a whole number, 0 to {MOST}"))
}

/// An item of a list of seeds: one, or all from one to another.
#[derive(Clone, Debug)]
pub struct Seeds(pub std::ops::RangeInclusive<u64>);

/// More seeds at once are a slip of the keyboard.
const MOST_SEEDS: u64 = 10_000;

fn seeds(text: &str) -> Result<Seeds, String> {
    let Some((first, last)) = text.split_once('-') else {
        return seed(text).map(|seed| Seeds(seed..=seed));
    };
    match (seed(first), seed(last)) {
        (Ok(first), Ok(last)) if first <= last && last - first < MOST_SEEDS => {
            Ok(Seeds(first..=last))
        }
        _ => Err(format!(
            "expected a whole number, or two with a dash, e.g. 1-3, of at most {MOST_SEEDS} seeds"
        )),
    }
}

/// What is too small is refused later, with the reason.
fn whole(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "expected a whole number, 1 or more".to_owned())
}

fn jobs(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|jobs| *jobs > 0)
        .ok_or_else(|| "expected a whole number, 1 or more".to_owned())
}

fn alpha(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|alpha: &f64| *alpha > 0.0 && alpha.is_finite())
        .ok_or_else(|| "expected a number above 0".to_owned())
}

fn nats(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|nats: &f64| *nats > 0.0 && nats.is_finite())
        .ok_or_else(|| "expected a number above 0, such as 0.01".to_owned())
}

fn length(text: &str) -> Result<usize, String> {
    bounded(text, 1 << 20)
}

fn batch_size(text: &str) -> Result<usize, String> {
    bounded(text, 1 << 16)
}

fn threads(text: &str) -> Result<u64, String> {
    bounded(text, 1 << 10).map(|threads| threads as u64)
}

fn timed_steps(text: &str) -> Result<u64, String> {
    bounded(text, 1 << 20).map(|steps| steps as u64)
}

fn bounded(text: &str, most: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("expected a whole number, 1 to {most}"))
}

fn device(text: &str) -> Result<String, String> {
    if text == "auto" {
        return Ok(text.to_owned());
    }
    a_device(text)
}

fn a_device(text: &str) -> Result<String, String> {
    text.parse::<models::Device>()
        .map(|device| device.to_string())
        .map_err(|error| error.to_string())
}

fn precision(text: &str) -> Result<String, String> {
    text.parse::<models::Precision>()
        .map(|precision| precision.to_string())
        .map_err(|error| error.to_string())
}
