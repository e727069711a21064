//! What every column means, and which columns hold time or memory.

use super::Runs;

/// Columns of time, memory and energy: with [`VOLATILE_ROWS`] all that may differ between two runs of the same thing on the same machine.
/// Tables are equal byte for byte once these are left out.
pub const VOLATILE_COLUMNS: &[&str] = &[
    "tokens_per_second",
    "tokens_per_second_standard_error",
    "tokens_per_second_low",
    "tokens_per_second_high",
    "tokens_per_second_ratio",
    "tokens_per_second_ratio_low",
    "tokens_per_second_ratio_high",
    "training_seconds",
    "training_seconds_standard_error",
    "training_seconds_low",
    "training_seconds_high",
    "evaluation_seconds",
    "wall_seconds",
    "wall_seconds_standard_error",
    "wall_seconds_low",
    "wall_seconds_high",
    "wall_seconds_ratio",
    "wall_seconds_ratio_low",
    "wall_seconds_ratio_high",
    "training_seconds_ratio",
    "training_seconds_ratio_low",
    "training_seconds_ratio_high",
    "seconds_to_loss_ratio",
    "seconds_to_loss_ratio_low",
    "seconds_to_loss_ratio_high",
    "extra_seconds_to_loss",
    "extra_seconds_to_loss_low",
    "extra_seconds_to_loss_high",
    "seconds_to_target",
    "seconds_to_target_low",
    "seconds_to_target_high",
    "joules_to_loss_ratio",
    "joules_to_loss_ratio_low",
    "joules_to_loss_ratio_high",
    "extra_joules_to_loss",
    "extra_joules_to_loss_low",
    "extra_joules_to_loss_high",
    "joules_to_target",
    "joules_to_target_low",
    "joules_to_target_high",
    "tuning_seconds",
    "training_joules",
    "evaluation_joules",
    "joules",
    "joules_per_token",
    "joules_per_token_standard_error",
    "joules_per_token_low",
    "joules_per_token_high",
    "joules_per_token_ratio",
    "joules_per_token_ratio_low",
    "joules_per_token_ratio_high",
    "kilowatt_hours",
    "kilowatt_hours_standard_error",
    "kilowatt_hours_low",
    "kilowatt_hours_high",
    "gpu_utilization",
    "gpu_utilization_standard_error",
    "gpu_utilization_low",
    "gpu_utilization_high",
    "driver_peak_memory_bytes",
    "driver_peak_memory_bytes_standard_error",
    "driver_peak_memory_bytes_low",
    "driver_peak_memory_bytes_high",
    "peak_memory_bytes",
    "peak_memory_bytes_standard_error",
    "peak_memory_bytes_low",
    "peak_memory_bytes_high",
    "peak_memory_ratio",
    "peak_memory_ratio_low",
    "peak_memory_ratio_high",
    "planned_process_bytes",
    "planned_weight_bytes",
    "planned_gradient_bytes",
    "planned_moment_bytes",
    "planned_activation_bytes",
    "planned_logit_bytes",
    "planned_workspace_bytes",
    "planned_bytes",
    "planned_ratio",
];

/// Rows of time, in which every column may differ: table, column, and the value that the column has there.
pub const VOLATILE_ROWS: &[(&str, &str, &str)] = &[("equal", "currency", "seconds")];

/// A column of a table, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Name of the table.
    pub table: &'static str,
    /// Name of the column.
    pub column: String,
    /// What stands in it.
    pub meaning: String,
    /// Its unit; empty for names and switches, `1` for counts and ratios.
    pub unit: &'static str,
}

/// Every column of every table, in the order of the tables.
#[must_use]
pub fn describe() -> Vec<Description> {
    let mut descriptions = Vec::new();
    for (table, frame) in Runs::default().frames() {
        for column in frame.get_column_names() {
            let (meaning, unit) = explain(table, column)
                .expect("every column has an entry: a test looks each of them up");
            descriptions.push(Description {
                table,
                column: column.to_string(),
                meaning,
                unit,
            });
        }
    }
    descriptions
}

/// What the last part of a column's name says about the estimate before it.
const ESTIMATE_PARTS: &[(&str, &str)] = &[
    (
        "_standard_error",
        "standard error: sample standard deviation over the root of the number of seeds; absent for one seed",
    ),
    (
        "_low",
        "lower end of the Student-t interval; absent for one seed",
    ),
    (
        "_high",
        "upper end of the Student-t interval; absent for one seed",
    ),
];

fn explain(table: &str, column: &str) -> Option<(String, &'static str)> {
    let entry = |name: &str| {
        let find = |table: &str| {
            COLUMNS
                .iter()
                .find(|(of_table, of_name, ..)| *of_table == table && *of_name == name)
        };
        find(table).or_else(|| find(""))
    };
    if let Some((_, _, meaning, unit)) = entry(column) {
        return Some(((*meaning).to_owned(), unit));
    }
    ESTIMATE_PARTS.iter().find_map(|(part, explanation)| {
        let (_, name, _, unit) = entry(column.strip_suffix(part)?)?;
        Some((format!("`{name}`: {explanation}"), *unit))
    })
}

/// Table (empty: in every table that has the column), column, meaning, unit.
const COLUMNS: &[(&str, &str, &str, &str)] = &[
    ("", "size", "name of the LLaMA shape", ""),
    ("", "method", "name of the method in the profile", ""),
    ("", "preset", "preset that the method was derived from", ""),
    (
        "",
        "seed",
        "seed of the initial weights, of the order of the data and of every other draw",
        "",
    ),
    ("", "dialect", "named set of recipe switches", ""),
    ("", "low_rank", "whether low-rank factors are trained", ""),
    (
        "",
        "rank",
        "rank of the factors; absent for full-rank methods",
        "1",
    ),
    (
        "",
        "restarts",
        "whether the factors are merged into the weight and drawn anew",
        "",
    ),
    (
        "",
        "optimizer_reset",
        "whether the Adam moments of the factors are reset",
        "",
    ),
    (
        "",
        "jagged",
        "whether the learning rate drops to zero at each restart",
        "",
    ),
    (
        "",
        "rewarmup",
        "whether the learning rate climbs back over several steps after a restart",
        "",
    ),
    ("", "warm_start", "whether full-rank steps come first", ""),
    (
        "",
        "learning_rate",
        "peak learning rate of the method's own stage",
        "1",
    ),
    (
        "curves",
        "learning_rate",
        "learning rate of this update; absent for evaluations",
        "1",
    ),
    (
        "",
        "alpha",
        "numerator of the scale alpha / rank of the product; absent for full-rank methods and for a trained scale",
        "1",
    ),
    (
        "",
        "restart_every",
        "update steps from one restart to the next; absent for methods without",
        "update steps",
    ),
    (
        "",
        "warm_start_steps",
        "full-rank update steps at the beginning; absent for methods without",
        "update steps",
    ),
    ("", "global_batch_size", "sequences of an update", "1"),
    ("", "sequence_length", "tokens of a sequence", "tokens"),
    (
        "",
        "data_hash",
        "hash of the tokens and the tokenizer: equal for equal text",
        "",
    ),
    ("", "device", "kind of device: cpu or cuda", ""),
    (
        "",
        "precision",
        "precision of weights and optimizer state",
        "",
    ),
    (
        "runs",
        "status",
        "complete, diverged, failed, unreadable, stopped: budget, stopped: interrupted, running or pending",
        "",
    ),
    (
        "",
        "status",
        "complete, or what became of the seeds that are not, with how many of all they are",
        "",
    ),
    ("", "error", "why the run failed, one line", ""),
    (
        "",
        "point_of",
        "method whose tuning the run is a trial of; absent for all others",
        "",
    ),
    (
        "",
        "tuned_from",
        "method of the recipe whose settings were tuned; absent where they are the recipe's own",
        "",
    ),
    (
        "",
        "settings",
        "the settings that are tuned, as far as the method uses them, with their values",
        "",
    ),
    (
        "",
        "tuning_tokens",
        "training targets of all proxy runs of the method's tuning, warm starts included",
        "tokens",
    ),
    (
        "",
        "tuning_flops",
        "training FLOPs of the same; of a run that ended early in proportion to its steps",
        "FLOPs",
    ),
    (
        "",
        "tuning_seconds",
        "seconds that the workers of those runs took",
        "seconds",
    ),
    (
        "tuning",
        "tuning_runs",
        "what the tuning cost in runs of the method as it is tuned for, by FLOPs; absent where that is not known",
        "1",
    ),
    (
        "tuned",
        "tuning_runs",
        "what the tuning cost in runs of the method at this size, by FLOPs",
        "1",
    ),
    ("tuned", "tuning_points", "points that were tried", "1"),
    (
        "tuned",
        "tuning_seeds",
        "seeds by which the point was chosen",
        "",
    ),
    (
        "tuned",
        "recipe_learning_rate",
        "peak learning rate of the method of the recipe",
        "1",
    ),
    (
        "tuned",
        "recipe_seeds_complete",
        "seeds of the method of the recipe that ran to their end",
        "1",
    ),
    (
        "tuned",
        "recipe_validation_loss",
        "mean over the complete seeds of the validation loss of the method of the recipe at the end",
        "nats per token",
    ),
    ("tuning", "method", "the method that is tuned", ""),
    ("tuning", "points", "points that are tried", "1"),
    (
        "tuning",
        "points_complete",
        "points whose seeds all ran to their end",
        "1",
    ),
    (
        "tuning",
        "points_diverged",
        "points of which a seed diverged: they have lost",
        "1",
    ),
    (
        "tuning",
        "points_unfinished",
        "points that cannot be judged yet: a seed failed, stopped, runs, waits or cannot be read",
        "1",
    ),
    (
        "tuning",
        "chosen",
        "the point with the lowest mean validation loss among the complete ones",
        "",
    ),
    (
        "tuning",
        "learning_rate",
        "peak learning rate of the chosen point",
        "1",
    ),
    (
        "tuning",
        "validation_loss",
        "mean over the seeds of the chosen point of the validation loss at the end",
        "nats per token",
    ),
    (
        "tuning",
        "runner_up_gap",
        "how far the next best complete point lies above the chosen one; absent where there is none",
        "nats per token",
    ),
    (
        "tuning",
        "edge",
        "settings beyond whose chosen value no point was tried, with the end of the space; absent where there are none",
        "",
    ),
    (
        "tuning_points",
        "behind_best",
        "validation loss minus that of the chosen point; absent where a seed is not complete",
        "nats per token",
    ),
    (
        "tuning_points",
        "is_chosen",
        "whether this is the chosen point",
        "",
    ),
    (
        "",
        "planned_steps",
        "update steps planned, warm start included",
        "update steps",
    ),
    (
        "",
        "update_steps",
        "update steps done, warm start included",
        "update steps",
    ),
    (
        "",
        "diverged_at_step",
        "first update step whose loss or gradient was not finite",
        "update steps",
    ),
    ("", "restart_count", "restarts done", "1"),
    (
        "",
        "reset_count",
        "resets of the optimizer's moments done",
        "1",
    ),
    (
        "runs",
        "tokens_seen",
        "training targets that carried a loss, warm start included",
        "tokens",
    ),
    (
        "perplexity",
        "tokens_seen",
        "training targets of each complete seed, warm start included; absent where seeds differ",
        "tokens",
    ),
    (
        "curves",
        "tokens_seen",
        "training targets so far, warm start included",
        "tokens",
    ),
    (
        "runs",
        "validation_loss",
        "mean over all validation targets, each once: at the end, or at the last evaluation of an unfinished run; absent for a diverged one",
        "nats per token",
    ),
    (
        "",
        "validation_loss",
        "mean over the complete seeds of the validation loss at the end",
        "nats per token",
    ),
    ("runs", "perplexity", "exp(validation_loss)", "1"),
    (
        "perplexity",
        "perplexity",
        "exp of the mean validation loss; its interval is exp of the interval of the loss",
        "1",
    ),
    (
        "",
        "bits_per_byte",
        "validation loss per UTF-8 byte of text, by the average bytes of a token: an estimate where not every token is a target (documents = \"padded\", or overlap = 0); absent until the run has ended",
        "bits per byte",
    ),
    (
        "",
        "validation_targets",
        "validation targets that the loss is a mean over",
        "tokens",
    ),
    (
        "",
        "training_loss",
        "mean training loss of the last logged step",
        "nats per token",
    ),
    (
        "",
        "seeds_planned",
        "seeds of this method and size, whatever their status",
        "1",
    ),
    (
        "",
        "seeds_complete",
        "seeds that ran to their end: what the means of this row are over",
        "1",
    ),
    (
        "",
        "seeds_diverged",
        "seeds whose loss or gradient was no longer finite",
        "1",
    ),
    (
        "",
        "seeds_unfinished",
        "seeds that failed, stopped, run, wait or cannot be read",
        "1",
    ),
    ("", "seeds", "the complete seeds, ascending", ""),
    (
        "",
        "interval_level",
        "confidence level of the intervals of this row",
        "1",
    ),
    (
        "",
        "reference",
        "method that this row is compared with; absent where the size has none",
        "",
    ),
    (
        "",
        "difference",
        "validation loss minus the reference's, mean over the seeds that both completed; absent for the reference",
        "nats per token",
    ),
    ("", "difference_pairs", "seeds that both completed", "1"),
    (
        "",
        "difference_p",
        "two-sided p-value of the paired t-test; absent for one pair",
        "1",
    ),
    (
        "",
        "difference_p_adjusted",
        "the p-value after Holm's correction over all methods of the size",
        "1",
    ),
    (
        "",
        "verdict",
        "better or worse than the reference where difference_p_adjusted < 0.05; else tie where a true difference of the margin or more can be excluded (two one-sided t-tests, Holm-adjusted p < 0.05); better alone or worse alone where only the interval of the difference excludes zero; else unresolved; unresolved: diverged where a side that would be the better one, or as good, diverged on some seeds",
        "",
    ),
    (
        "",
        "difference_bootstrap_low",
        "lower end of the BCa bootstrap interval of the difference, which covers less than it says where seeds are few; absent for one pair and where all pairs differ alike",
        "nats per token",
    ),
    (
        "",
        "difference_bootstrap_high",
        "upper end of the BCa bootstrap interval of the difference",
        "nats per token",
    ),
    (
        "",
        "difference_resolvable",
        "smallest true difference that so many seeds with this spread would find significant in four of five such suites, at the strictest level of Holm's correction",
        "nats per token",
    ),
    (
        "",
        "margin",
        "nats within which two losses count as equal, where the suite's profile declares that",
        "nats per token",
    ),
    (
        "effects",
        "effect_alone_p",
        "the p-value by the scatter of this effect alone, over seeds",
        "1",
    ),
    (
        "effects",
        "effect_of",
        "the part of the method, or the parts whose interaction it is",
        "",
    ),
    ("effects", "order", "number of parts", "1"),
    (
        "effects",
        "seeds_complete",
        "seeds that ran to their end in every combination of the parts",
        "1",
    ),
    (
        "effects",
        "effect",
        "mean validation loss with the part minus that without, over all settings of the others; of an interaction, half of what one part's effect gains by the other: negative is better",
        "nats per token",
    ),
    (
        "effects",
        "effect_p",
        "two-sided p-value of the t-test of its being zero, by the scatter of all effects over seeds together, or by its own where that is larger by an F-test; absent for one seed",
        "1",
    ),
    (
        "effects",
        "effect_p_adjusted",
        "the p-value after Holm's correction over all effects of the size",
        "1",
    ),
    (
        "effects",
        "verdict",
        "better or worse where effect_p_adjusted < 0.05, better alone or worse alone where only the effect's own interval excludes zero, else unresolved; unresolved: diverged where a combination lost seeds to divergence",
        "",
    ),
    (
        "effects",
        "effect_resolvable",
        "smallest true effect that so many seeds with this spread would find significant in four of five such suites",
        "nats per token",
    ),
    (
        "recovery",
        "step",
        "update steps done when some method of the size restarts",
        "update steps",
    ),
    (
        "recovery",
        "restarted",
        "whether this run did; the others, of methods without restarts, resets and drops of the rate, show what batches alone make of these figures, since all see the same ones",
        "",
    ),
    (
        "recovery",
        "window_steps",
        "update steps that are looked at before and after that step: a quarter of those between restarts",
        "update steps",
    ),
    (
        "recovery",
        "loss_before",
        "mean training loss of the logged steps of the window before",
        "nats per token",
    ),
    (
        "recovery",
        "peak_loss",
        "largest training loss of a logged step in the window after",
        "nats per token",
    ),
    (
        "recovery",
        "peak_after_steps",
        "update steps from there to that one",
        "update steps",
    ),
    (
        "recovery",
        "spike",
        "peak_loss minus loss_before",
        "nats per token",
    ),
    (
        "recovery",
        "recovered_after_steps",
        "update steps until the mean loss over half a window is back at loss_before; absent where that does not happen before the next restart",
        "update steps",
    ),
    (
        "prices",
        "pairs",
        "seeds of which both runs were evaluated at the loss or below it",
        "1",
    ),
    (
        "prices",
        "same_loss",
        "mean over those seeds of the validation loss that is asked for: the larger of the two final ones",
        "nats per token",
    ),
    (
        "prices",
        "tokens_to_loss_ratio",
        "training targets until that loss over those of the reference: geometric mean over seeds",
        "1",
    ),
    (
        "prices",
        "flops_to_loss_ratio",
        "the same of training FLOPs, counted per method: a frozen weight needs no gradient, factors cost extra",
        "1",
    ),
    (
        "prices",
        "seconds_to_loss_ratio",
        "the same of seconds of training on this machine",
        "1",
    ),
    (
        "prices",
        "joules_to_loss_ratio",
        "the same of joules of training of the GPU's whole card; absent on a CPU and where its driver does not tell",
        "1",
    ),
    (
        "",
        "flops_ratio",
        "FLOPs of the whole run over the reference's: what arithmetic alone allows of training_seconds_ratio, at equal tokens",
        "1",
    ),
    (
        "",
        "flops_per_token_ratio",
        "FLOPs of a token over the reference's, a warm start excluded: one over it is what arithmetic alone allows of tokens_per_second_ratio",
        "1",
    ),
    (
        "prices",
        "extra_tokens_to_loss",
        "training targets until that loss minus those of the reference: mean over seeds",
        "tokens",
    ),
    (
        "prices",
        "extra_flops_to_loss",
        "the same of training FLOPs, counted per method",
        "FLOPs",
    ),
    (
        "prices",
        "extra_seconds_to_loss",
        "the same of seconds of training on this machine",
        "seconds",
    ),
    (
        "prices",
        "extra_joules_to_loss",
        "the same of joules of training of the GPU's whole card; absent like joules_to_loss_ratio",
        "joules",
    ),
    (
        "prices",
        "target_loss",
        "one loss for all methods of the size: the largest final validation loss of the complete seeds of the reference, which all of them have reached",
        "nats per token",
    ),
    (
        "prices",
        "target_seeds",
        "seeds that ran to their end or diverged",
        "1",
    ),
    (
        "prices",
        "target_reached",
        "how many of them were ever evaluated at target_loss or below it",
        "1",
    ),
    (
        "prices",
        "tokens_to_target",
        "training targets until target_loss, read off the evaluations in proportion: mean over all of target_seeds; absent where one of them never was there, or was at its first evaluation already",
        "tokens",
    ),
    (
        "prices",
        "flops_to_target",
        "the same of training FLOPs, counted per method",
        "FLOPs",
    ),
    (
        "prices",
        "seconds_to_target",
        "the same of seconds of training on this machine",
        "seconds",
    ),
    (
        "prices",
        "joules_to_target",
        "the same of joules of training of the GPU's whole card; absent like joules_to_loss_ratio",
        "joules",
    ),
    (
        "equal",
        "currency",
        "what both runs of a seed have spent alike: tokens (training targets), flops (training FLOPs, counted per method) or seconds (of training, on the machine that ran them)",
        "",
    ),
    (
        "equal",
        "budget",
        "how much of it: what the run of the two that spent less spent in all, mean over the pairs",
        "tokens, FLOPs or seconds",
    ),
    (
        "equal",
        "share_of_run",
        "share of its update steps that the method had done then, mean over the pairs",
        "1",
    ),
    (
        "equal",
        "share_of_reference",
        "the same of the reference",
        "1",
    ),
    (
        "equal",
        "validation_loss",
        "mean over the pairs of the method's validation loss at the budget, read off its evaluations in proportion between neighbours",
        "nats per token",
    ),
    (
        "equal",
        "bracket",
        "largest difference, over the pairs, between the two evaluations that a loss was read between: it is not known more closely than that; 0 where all are evaluations' own",
        "nats per token",
    ),
    (
        "equal",
        "difference",
        "validation loss minus the reference's at the budget, mean over the seeds that both completed and that could be read: where the budget lies at an evaluation or between two",
        "nats per token",
    ),
    (
        "equal",
        "difference_pairs",
        "seeds that both completed and that could be read",
        "1",
    ),
    (
        "equal",
        "difference_p_adjusted",
        "the p-value after Holm's correction over all methods of the size in this currency",
        "1",
    ),
    (
        "published",
        "tokens_seen",
        "training targets of each complete seed of ours, warm start included; absent where seeds differ",
        "tokens",
    ),
    (
        "published",
        "perplexity",
        "ours: exp of the mean validation loss; its interval is exp of the interval of the loss",
        "1",
    ),
    (
        "published",
        "published_method",
        "the method in the words of the source",
        "",
    ),
    (
        "published",
        "published_dialect",
        "the dialect that stands for the source's recipe; absent where none does",
        "",
    ),
    (
        "published",
        "published_evaluation",
        "what is known of how the source averaged its loss, and the correction where its code divides by a batch too many",
        "",
    ),
    (
        "published",
        "published_corrected_low",
        "perplexity with that corrected, from the batches that are thought to have been evaluated: the least; absent where they are not known",
        "1",
    ),
    ("published", "published_corrected_high", "the most", "1"),
    (
        "",
        "published_perplexity",
        "perplexity printed in the paper for this size and method, on its own data; not ours",
        "1",
    ),
    (
        "",
        "published_status",
        "complete or diverged, as the paper reports it",
        "",
    ),
    (
        "",
        "published_tokens",
        "training tokens that the paper states",
        "tokens",
    ),
    ("", "published_source", "paper and table", ""),
    (
        "",
        "published_certainty",
        "how surely the published figure is known",
        "",
    ),
    (
        "runs",
        "tokens_per_second",
        "training targets per second of training, a warm start excluded whether or not it was handed on",
        "tokens per second",
    ),
    (
        "curves",
        "tokens_per_second",
        "training targets per second since the last logged step; absent for evaluations",
        "tokens per second",
    ),
    (
        "",
        "tokens_per_second",
        "mean over the complete seeds of the training targets per second of training, a warm start excluded whether or not it was handed on",
        "tokens per second",
    ),
    (
        "",
        "tokens_per_second_ratio",
        "geometric mean of the ratios to the reference over common seeds; absent for the reference",
        "1",
    ),
    (
        "runs",
        "training_seconds",
        "seconds of training, a warm start that was handed on included",
        "seconds",
    ),
    (
        "curves",
        "training_seconds",
        "seconds of training so far; absent for evaluations",
        "seconds",
    ),
    (
        "",
        "training_seconds",
        "mean over the complete seeds of the seconds of training, a warm start that was handed on included",
        "seconds",
    ),
    ("", "evaluation_seconds", "seconds of evaluation", "seconds"),
    (
        "runs",
        "wall_seconds",
        "seconds of the whole run over all its processes, a warm start that was handed on included",
        "seconds",
    ),
    (
        "",
        "wall_seconds",
        "mean over the complete seeds of the seconds of the whole run, a warm start that was handed on included",
        "seconds",
    ),
    (
        "",
        "wall_seconds_ratio",
        "geometric mean of the ratios to the reference over common seeds; absent for the reference",
        "1",
    ),
    (
        "",
        "training_seconds_ratio",
        "seconds of training over the reference's, a warm start included: geometric mean over common seeds; absent for the reference",
        "1",
    ),
    (
        "",
        "training_joules",
        "energy of the GPU's whole card while the run trained, a warm start that was handed on included; absent, as all that its driver says, on a CPU, where the driver does not tell, and where a process of the run could not ask it",
        "joules",
    ),
    (
        "",
        "evaluation_joules",
        "energy of the GPU's whole card during evaluations; absent like training_joules",
        "joules",
    ),
    (
        "",
        "joules",
        "energy of the GPU's whole card over the seconds in wall_seconds; absent like training_joules",
        "joules",
    ),
    (
        "runs",
        "joules_per_token",
        "energy of training per training target, after the warm start where there is one; absent like training_joules",
        "joules per token",
    ),
    (
        "",
        "joules_per_token",
        "mean over the complete seeds of the energy of training per training target, after the warm start where there is one: of the GPU's whole card; absent on a CPU and where the driver does not tell",
        "joules per token",
    ),
    (
        "",
        "joules_per_token_ratio",
        "geometric mean of the ratios to the reference over common seeds; absent for the reference, and like joules_per_token",
        "1",
    ),
    (
        "",
        "kilowatt_hours",
        "mean over the complete seeds of the energy of the GPU's whole card over the seconds in wall_seconds; absent like joules_per_token",
        "kilowatt hours",
    ),
    (
        "runs",
        "gpu_utilization",
        "share of the seconds of training in which a kernel ran on the GPU; absent like training_joules",
        "1",
    ),
    (
        "",
        "gpu_utilization",
        "mean over the complete seeds of the share of the seconds of training in which a kernel ran on the GPU; absent like joules_per_token",
        "1",
    ),
    (
        "runs",
        "driver_peak_memory_bytes",
        "most memory of the GPU in use, as its driver sees it: of the whole card, with what CUDA itself takes and what is kept in reserve; absent like training_joules",
        "bytes",
    ),
    (
        "",
        "driver_peak_memory_bytes",
        "mean over the complete seeds of the most memory of the GPU in use, as its driver sees it: of the whole card, with what CUDA itself takes and what is kept in reserve; absent on a CPU and where the driver does not tell",
        "bytes",
    ),
    (
        "",
        "weight_bytes",
        "bytes of the weights at the end, frozen ones and factors included",
        "bytes",
    ),
    (
        "",
        "optimizer_state_bytes",
        "bytes of the optimizer's state at the end",
        "bytes",
    ),
    (
        "",
        "optimizer_state_ratio",
        "optimizer_state_bytes over that of the reference; absent for the reference",
        "1",
    ),
    (
        "runs",
        "peak_memory_bytes",
        "largest memory of the process (CPU) or the device (CUDA); absent where it cannot be read, as on CUDA for now",
        "bytes",
    ),
    (
        "",
        "peak_memory_bytes",
        "mean over the complete seeds of the largest memory of the process (CPU) or the device (CUDA); absent where it cannot be read, as on CUDA for now",
        "bytes",
    ),
    (
        "",
        "peak_memory_ratio",
        "geometric mean of the ratios to the reference over common seeds; absent for the reference",
        "1",
    ),
    (
        "",
        "planned_process_bytes",
        "bytes of the process without a network at the peak: its program, its libraries, the text; read, not planned",
        "bytes",
    ),
    (
        "",
        "planned_weight_bytes",
        "bytes planned at the peak for all parameters",
        "bytes",
    ),
    (
        "",
        "planned_gradient_bytes",
        "bytes planned at the peak for gradients of parameters",
        "bytes",
    ),
    (
        "",
        "planned_moment_bytes",
        "bytes planned for Adam's moments",
        "bytes",
    ),
    (
        "",
        "planned_activation_bytes",
        "bytes planned at the peak for what the backward pass needs of the forward pass",
        "bytes",
    ),
    (
        "",
        "planned_logit_bytes",
        "bytes planned at the peak for the part of the logits that exists at a time",
        "bytes",
    ),
    (
        "",
        "planned_workspace_bytes",
        "bytes planned at the peak for gradients of activations within one block, or for the sums of those of the head's input and what recomputing leaves unused",
        "bytes",
    ),
    (
        "",
        "planned_bytes",
        "sum of the planned bytes of all classes; like them absent on CUDA and for runs of an older version",
        "bytes",
    ),
    (
        "",
        "planned_ratio",
        "planned_bytes over the largest measured peak of the complete seeds",
        "1",
    ),
    (
        "",
        "total_parameters",
        "parameters held in memory, frozen ones included",
        "parameters",
    ),
    (
        "",
        "trainable_parameters",
        "parameters that the optimizer updates, in the low-rank stage where there is one",
        "parameters",
    ),
    (
        "",
        "flops",
        "training FLOPs of the whole planned run, warm start included",
        "FLOPs",
    ),
    (
        "curves",
        "kind",
        "training (mean over the targets of one update) or validation (mean over the validation set)",
        "",
    ),
    (
        "events",
        "kind",
        "restart (factors merged and drawn anew) or reset (moments of the factors zeroed)",
        "",
    ),
    (
        "",
        "step",
        "update steps done, warm start included",
        "update steps",
    ),
    (
        "",
        "loss",
        "mean loss over the targets; absent where it is not finite",
        "nats per token",
    ),
    (
        "",
        "grad_norm",
        "global L2 norm of the gradient before clipping; absent for evaluations and where it is not finite",
        "1",
    ),
    (
        "",
        "moments_total",
        "moment elements of the factors; absent for restarts",
        "1",
    ),
    (
        "",
        "moments_zeroed",
        "moment elements that the reset set to zero, those that were zero before included; absent for restarts",
        "1",
    ),
    (
        "spectra",
        "quantity",
        "what was taken apart: `update`, the final weight minus the one at `from_step`, or `product`, one low-rank product s·BA that was merged (at the end: that stands in the weight's place)",
        "",
    ),
    (
        "spectra",
        "from_step",
        "update steps done when it began: those of the warm start, or 0",
        "1",
    ),
    (
        "spectra",
        "step",
        "update steps done when it was complete",
        "1",
    ),
    ("spectra", "layer", "block, from 0", "1"),
    ("spectra", "matrix", "the linear layer", ""),
    ("spectra", "singular_values", "how many there are", "1"),
    (
        "spectra",
        "below_0_1",
        "how many are below 0.1 (paper, figure 4)",
        "1",
    ),
    ("spectra", "largest", "the largest singular value", "1"),
    (
        "spectra",
        "frobenius_norm",
        "root of the sum of squares",
        "1",
    ),
    ("spectra", "nuclear_norm", "sum", "1"),
    (
        "spectra",
        "effective_rank",
        "exp of the entropy of the singular values over their sum",
        "1",
    ),
    (
        "spectra",
        "stable_rank",
        "sum of squares over the largest square",
        "1",
    ),
    (
        "spectra",
        "numerical_rank",
        "how many are above 1e-5 of the largest",
        "1",
    ),
    (
        "spectra",
        "rank_bound",
        "the most that the rank can be: r times the products in it; absent at full rank",
        "1",
    ),
    (
        "spectra",
        "output_angle_smallest_degrees",
        "smallest principal angle between what this product and the one before it write to",
        "degrees",
    ),
    (
        "spectra",
        "output_angle_mean_degrees",
        "mean of those angles: 90 where they share nothing",
        "degrees",
    ),
    (
        "spectra",
        "input_angle_smallest_degrees",
        "smallest principal angle between what this product and the one before it read",
        "degrees",
    ),
    (
        "spectra",
        "input_angle_mean_degrees",
        "mean of those angles",
        "degrees",
    ),
    (
        "spectra_histogram",
        "from_step",
        "update steps done at the weights that the update is measured from: those of the warm start, or 0",
        "1",
    ),
    (
        "spectra_histogram",
        "matrix",
        "the linear layer, all blocks together",
        "",
    ),
    ("spectra_histogram", "bin_low", "lower edge of the bin", "1"),
    (
        "spectra_histogram",
        "bin_high",
        "upper edge of the bin; the last bin includes it",
        "1",
    ),
    (
        "spectra_histogram",
        "density",
        "share of the singular values of the update within [0, 2] that lie in the bin, over the bin's width",
        "1",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_every_table_is_described() {
        for (table, frame) in Runs::default().frames() {
            for column in frame.get_column_names() {
                assert!(
                    explain(table, column).is_some(),
                    "{table}.{column} has no description"
                );
            }
        }
        assert!(
            describe()
                .iter()
                .all(|description| !description.meaning.is_empty())
        );
    }

    #[test]
    fn every_description_belongs_to_a_column() {
        let frames = Runs::default().frames();
        for (table, column, ..) in COLUMNS {
            let used = frames.iter().any(|(name, frame)| {
                (table.is_empty() || table == name) && frame.column(column).is_ok()
            });
            assert!(used, "no table has {table}.{column}");
        }
    }

    /// Units of time, energy and memory mark a column whose value the machine decides, except bytes that follow from the
    /// shapes; those planned go with the process, and with who trained the warm start.
    #[test]
    fn the_volatile_columns_are_those_of_time_energy_and_memory() {
        for description in describe() {
            let column = description.column.as_str();
            let timed = matches!(
                description.unit,
                "seconds" | "tokens per second" | "joules" | "joules per token" | "kilowatt hours"
            );
            let measured = column.starts_with("peak_memory")
                || column.starts_with("driver_peak_memory")
                || column.starts_with("gpu_utilization")
                || column.starts_with("planned_") && column != "planned_steps"
                || column.contains("_ratio")
                    && !["optimizer", "tokens_to_", "flops_"]
                        .iter()
                        .any(|counted| column.starts_with(counted));
            assert_eq!(
                VOLATILE_COLUMNS.contains(&column),
                timed || measured,
                "{}.{column}",
                description.table
            );
        }
    }
}
