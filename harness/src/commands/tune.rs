//! `relora tune`: every method at the same points of one space, in proxy runs with seeds of their own; then what was chosen, what
//! it cost, and a profile that holds it beside the recipe.

use std::fs;
use std::path::{Component, Path, PathBuf};

use results::frame::Tuned;
use results::render::{self, number_of};

use super::bench_all::{carry_out, unless_unread};
use super::request::{self, Request, glob, shown};
use super::{print, print_json};
use crate::cli::{SuiteOptions, TuneOptions};
use crate::exit::{Exit, UserError};
use crate::files::{self, failed_to};
use crate::profile::{self, Choice, Profile, Tune};
use crate::progress::warn;
use crate::settings::suggestion;
use crate::suite::SuiteOutcome;

/// Trains the proxy runs as far as they are not done, prints what is chosen, and writes it as a profile.
///
/// # Errors
/// A profile that declares no tuning, or one that cannot be; a profile to write that somebody has changed; those of
/// [`Request::plan`], and what the disk says.
pub fn run(options: TuneOptions) -> anyhow::Result<Exit> {
    let suite = SuiteOptions {
        profile: options.profile,
        out: options.out,
        set: options.set,
        place: options.place,
        text: options.text,
        jobs: options.jobs,
        ..SuiteOptions::default()
    };
    let profile = request::profile(&suite)?;
    let proxy = profile.proxy(options.points)?;
    if options.print_config {
        print(&proxy.to_toml())?;
        return Ok(Exit::Success);
    }
    let methods = asked_for(&profile, &options.only)?;
    let only = points_of(&profile, &proxy, &methods);
    let request = Request::of(
        proxy,
        &SuiteOptions {
            only,
            ..suite.clone()
        },
    )?;
    let output = options.output.unwrap_or_else(|| {
        let name = format!("{}-tuned.toml", profile.name);
        request.directory.join(name)
    });
    let target = Target::new(output, &profile, &request.directory);
    target.check(&request::profile_name(&suite))?;
    let trained = carry_out(&request, &[announced(&request.profile, &methods)])?;
    let is_stopped = trained.outcome == SuiteOutcome::Stopped;
    if is_stopped && !options.json {
        return Ok(trained.stopped());
    }
    let comments = render::tuning(&trained.runs);
    let tuned = trained.runs.tuned();
    // What a stop has left unfinished must not take the place of what was there.
    let written = if is_stopped {
        Ok(false)
    } else {
        write(
            &profile,
            &request::profile_name(&suite),
            &tuned,
            &comments,
            &target,
        )
    };
    // What was found is said even where it cannot be written.
    unless_unread(if options.json {
        let frame = |frame: results::DataFrame| render::json(&frame);
        let is_written = matches!(written, Ok(true));
        print_json(&serde_json::json!({
            "tuning": frame(trained.runs.tuning()),
            "tuning_points": frame(trained.runs.tuning_points()),
            "profile": is_written.then_some(&target.path),
        }))
    } else {
        print(&comments)
    })?;
    warn(&format!("\ntables: {}", trained.tables.display()));
    let shown = target.path.display();
    warn(&if written? {
        format!(
            "profile: {shown} (relora bench-all --profile {shown} trains the recipe and the tuned methods side by side)"
        )
    } else {
        format!("no profile written: {}", nothing_chosen(&tuned))
    });
    Ok(trained.exit())
}

/// Why there is no method to write down.
fn nothing_chosen(tuned: &[Tuned]) -> String {
    let unfinished: Vec<String> = tuned
        .iter()
        .filter(|it| it.unfinished > 0)
        .map(|it| format!("`{}` {} of {}", it.method, it.unfinished, it.points()))
        .collect();
    if unfinished.is_empty() {
        return "no point of any method ran to its end".to_owned();
    }
    let most = tuned.iter().map(Tuned::points).max().unwrap_or(0);
    format!(
        "points that are not done: {}; the same command with --points {most} and the same seeds goes on with them",
        unfinished.join(", ")
    )
}

/// The methods that filters name; all where there are none.
fn asked_for(profile: &Profile, only: &[String]) -> anyhow::Result<Vec<String>> {
    let methods = profile.tuned_methods()?;
    let matches = |filter: &String, method: &String| glob(filter.as_bytes(), method.as_bytes());
    for filter in only {
        if !methods.iter().any(|method| matches(filter, method)) {
            return Err(UserError::new(format!(
                "--only {filter}: matches no method of profile `{}`; {}",
                profile.name,
                suggestion(filter, &methods)
            ))
            .into());
        }
    }
    let asked = methods
        .into_iter()
        .filter(|method| only.is_empty() || only.iter().any(|filter| matches(filter, method)));
    Ok(asked.collect())
}

/// The proxy runs' methods that tune these, and `full` where it hands on their warm starts.
fn points_of(profile: &Profile, proxy: &Profile, methods: &[String]) -> Vec<String> {
    let hands_on = profile.hands_on(methods);
    let wanted = |name: &&String| match proxy.point_of(name) {
        Some(of) => methods.contains(&of),
        None => hands_on,
    };
    proxy.methods.iter().filter(wanted).cloned().collect()
}

/// What is tried, in a line.
fn announced(proxy: &Profile, methods: &[String]) -> String {
    let first = methods.first().cloned().unwrap_or_default();
    let names = proxy.methods.iter();
    let points = names.filter(|name| proxy.point_of(name).as_ref() == Some(&first));
    format!(
        "tuning {} at {} each: {}",
        number_of(methods.len(), "method"),
        number_of(points.count(), "point"),
        proxy.tune.as_ref().map_or_else(String::new, space)
    )
}

fn space(tune: &Tune) -> String {
    let dimensions: Vec<String> = tune.space.iter().map(ToString::to_string).collect();
    dimensions.join(", ")
}

/// Writes the profile of what was chosen, where something was: of every method of the suite whose points are all done, at every
/// size that the profile has.
fn write(
    profile: &Profile,
    name: &str,
    tuned: &[Tuned],
    comments: &str,
    target: &Target,
) -> anyhow::Result<bool> {
    let mut methods = profile.tuned_methods()?;
    methods.retain(|method| tuned.iter().any(|it| it.method == *method));
    let choices: Vec<Choice> = methods
        .iter()
        .filter_map(|method| choices(profile, method, tuned))
        .flatten()
        .collect();
    if choices.is_empty() {
        return Ok(false);
    }
    let folder = files::parent(&target.path);
    files::create_directory(folder)?;
    let base = base(name, folder)?;
    let mut body = String::new();
    for line in about(profile, comments).lines() {
        body += format!("# {line}").trim_end();
        body.push('\n');
    }
    body.push('\n');
    body += &profile.tuned_toml(&base, &methods, &choices);
    // Somebody may have been at it since.
    target.check(name)?;
    files::write_atomically(&target.path, target.sealed(&body).as_bytes())?;
    Ok(true)
}

/// What was chosen for a method at every size of the profile; none where that is not known at one of them yet, or nothing ran to
/// its end.
fn choices(profile: &Profile, method: &str, tuned: &[Tuned]) -> Option<Vec<Choice>> {
    let proxy_size = profile.tune.as_ref().and_then(|tune| tune.size.as_ref());
    let of_size = |size: &String| {
        let at = proxy_size.unwrap_or(size);
        let mut found = tuned.iter();
        let found = found.find(|it| it.method == method && it.size == *at)?;
        let chosen = found.chosen.as_ref().filter(|_| found.unfinished == 0)?;
        Some(Choice {
            size: size.clone(),
            method: method.to_owned(),
            values: chosen.values.clone(),
            points: found.points(),
            seeds: found.seeds.clone(),
            tokens: found.cost.tokens,
            flops: found.cost.flops,
            seconds: found.cost.seconds,
        })
    };
    profile.sizes.iter().map(of_size).collect()
}

/// What stands above the profile for its readers.
fn about(profile: &Profile, comments: &str) -> String {
    let Some(tune) = &profile.tune else {
        return comments.to_owned();
    };
    let settings: Vec<String> = tune
        .proxy
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    let size = match &tune.size {
        Some(size) => format!("at size {size}"),
        None => "each size by itself".to_owned(),
    };
    format!(
        "\nThe methods of profile `{}` as it has them, and as `relora tune` tuned them: every method at the same points of\n\
         {}; {size}, with {} in place of the profile's.\n\n{comments}",
        profile.name,
        space(tune),
        settings.join(", "),
    )
}

/// The profile that is extended, as a file in this folder names it.
fn base(name: &str, folder: &Path) -> anyhow::Result<String> {
    if profile::built_in_names().contains(&name) {
        return Ok(name.to_owned());
    }
    let whole = |path: &Path| path.canonicalize().map_err(failed_to("resolve", path));
    let path = relative(&whole(Path::new(name))?, &whole(folder)?);
    let text = shown(&path)?;
    Ok(text.as_str().unwrap_or_default().to_owned())
}

/// The way to a file from a folder; both are whole.
fn relative(file: &Path, folder: &Path) -> PathBuf {
    let (mut to, mut from) = (file.components().peekable(), folder.components().peekable());
    if to.peek() != from.peek() {
        return file.to_owned();
    }
    while to.peek().is_some() && to.peek() == from.peek() {
        to.next();
        from.next();
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

/// The first line of a profile that was written here, before the hash of its tuning and of all that follows: while they fit, it is
/// nobody's but this tuning's to replace.
const SEAL: &str = "# Written by `relora tune`, which replaces it unless somebody has changed it: ";

/// The file that holds what is chosen.
struct Target {
    path: PathBuf,
    /// What is tuned, and where: another tuning's file is not to be replaced.
    tuning: String,
}

impl Target {
    fn new(path: PathBuf, profile: &Profile, suite: &Path) -> Target {
        // A suite that has not begun has no other name yet than the one that it will have.
        let folder = suite.file_name().unwrap_or(suite.as_os_str());
        Target {
            path,
            tuning: format!("{} in {}", profile.name, folder.to_string_lossy()),
        }
    }

    /// It must be a new file, or as this tuning wrote it, and not the profile that is tuned.
    fn check(&self, profile: &str) -> anyhow::Result<()> {
        let refused = |why: &str| {
            UserError::new(format!(
                "{}: {why}; give another --output, or move it away",
                self.path.display()
            ))
        };
        if self.path.is_dir() {
            return Err(refused("is a folder").into());
        }
        if fs::symlink_metadata(&self.path).is_err() {
            return Ok(());
        }
        let whole = |path: &Path| path.canonicalize().ok();
        if whole(&self.path).is_some_and(|path| Some(path) == whole(Path::new(profile))) {
            return Err(refused("is the profile that is tuned").into());
        }
        let text = fs::read(&self.path).map_err(failed_to("read", &self.path))?;
        if self.is_sealed(&text) {
            Ok(())
        } else {
            Err(refused("is there already, and not as this `relora tune` wrote it").into())
        }
    }

    /// What follows, with its first line.
    fn sealed(&self, body: &str) -> String {
        format!("{SEAL}{}\n{body}", self.hash(body.as_bytes()))
    }

    fn hash(&self, body: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.tuning.as_bytes());
        hasher.update(b"\n");
        hasher.update(body);
        hasher.finalize().to_hex().to_string()
    }

    fn is_sealed(&self, text: &[u8]) -> bool {
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
            return false;
        };
        text[..end] == *format!("{SEAL}{}", self.hash(&text[end + 1..])).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_file_leads_through_what_both_have_in_common() {
        let way = |file: &str, folder: &str| {
            let way = relative(Path::new(file), Path::new(folder));
            way.display().to_string()
        };
        assert_eq!(way("/a/mine.toml", "/a/runs/mine-tune"), "../../mine.toml");
        assert_eq!(way("/a/b/mine.toml", "/a/b"), "mine.toml");
        assert_eq!(way("/x/mine.toml", "/a/b"), "../../x/mine.toml");
    }

    #[test]
    fn a_file_that_somebody_changed_or_another_tuning_wrote_is_not_taken_for_ours() {
        let of = |tuning: &str| Target {
            path: PathBuf::new(),
            tuning: tuning.to_owned(),
        };
        let body = "extends = \"laptop\"\n";
        let text = of("laptop in laptop-tune").sealed(body);
        assert!(of("laptop in laptop-tune").is_sealed(text.as_bytes()));
        assert!(!of("mine in mine-tune").is_sealed(text.as_bytes()));
        for other in [
            text.replace("laptop", "smoke"),
            body.to_owned(),
            String::new(),
        ] {
            assert!(
                !of("laptop in laptop-tune").is_sealed(other.as_bytes()),
                "{other}"
            );
        }
    }
}
