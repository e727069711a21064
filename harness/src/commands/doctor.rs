//! `relora doctor`: what is found on this machine, what is missing and how to get it. It looks, and starts nothing.

use std::thread;

use datasets::source::crates;
use results::render::number_of;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::DoctorOptions;
use crate::exit::Exit;
use crate::machine::{self, processor_name};

/// Prints what is found.
///
/// # Errors
/// Whatever standard output says.
pub fn run(options: DoctorOptions) -> anyhow::Result<Exit> {
    let checks = checks();
    if options.json {
        print_json(&checks)?;
    } else {
        let width = checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        let mut text = format!("relora {}\n\n", env!("CARGO_PKG_VERSION"));
        for check in &checks {
            let mark = if check.usable { "yes" } else { "no " };
            text += &format!("{:<width$}  {mark}  {}\n", check.name, check.found);
            if let Some(remedy) = &check.remedy {
                text += &format!("{:<width$}       to get it: {remedy}\n", "");
            }
        }
        text += &format!("\n{}\n", verdict(&checks));
        print(&text)?;
    }
    Ok(Exit::Success)
}

/// Something that was looked for.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    usable: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

const TEXT: &str = "default text";
const CUDA: &str = "CUDA";

fn checks() -> Vec<Check> {
    vec![
        processor(),
        memory(),
        default_text(),
        driver(),
        devices(),
        compiler(),
        cuda(),
    ]
}

fn processor() -> Check {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let name = processor_name().map_or_else(String::new, |name| format!(", {name}"));
    Check {
        name: "processor",
        usable: true,
        found: number_of(cores, "thread") + &name,
        remedy: None,
    }
}

fn memory() -> Check {
    let gibibytes = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let mut found = match (machine::machine_memory(), machine::free_memory()) {
        (Some(total), Some(free)) => format!(
            "{:.1} GiB, {:.1} GiB of it free",
            gibibytes(total),
            gibibytes(free)
        ),
        _ => "not known on this system".to_owned(),
    };
    if let Some(limit) = machine::memory().filter(|limit| Some(*limit) < machine::machine_memory())
    {
        found += &format!("; this process may take {:.1} GiB", gibibytes(limit));
    }
    Check {
        name: "memory",
        usable: true,
        found,
        remedy: None,
    }
}

fn default_text() -> Check {
    match crates::Crates::new(None) {
        Ok(_) => {
            let found = format!("the sources of {} crates that relora is built from", crates::entries().count());
            Check { name: TEXT, usable: true, found, remedy: None }
        }
        Err(error) => Check {
            name: TEXT,
            usable: false,
            found: error.to_string(),
            remedy: Some("`cargo fetch --locked` in a checkout of relora, or a text of your own with --data PATH".into()),
        },
    }
}

fn driver() -> Check {
    let probe = models::probe();
    let usable = probe
        .driver
        .as_ref()
        .is_some_and(|driver| driver.error_code.is_none());
    let found = match &probe.driver {
        None => "no NVIDIA driver library".to_owned(),
        Some(driver) => {
            let version = version(driver.cuda_version);
            let error = driver.error_code.map_or_else(String::new, |code| {
                format!(", does not start: CUDA error {code}")
            });
            format!("{}, CUDA {version}{error}", driver.library)
        }
    };
    let remedy =
        (!usable).then(|| "the NVIDIA driver of your system; `nvidia-smi` must work".to_owned());
    Check {
        name: "NVIDIA driver",
        usable,
        found,
        remedy,
    }
}

fn devices() -> Check {
    let devices = models::probe().devices;
    let found = match devices.as_slice() {
        [] => "none".to_owned(),
        names => names
            .iter()
            .enumerate()
            .map(|(index, name)| format!("cuda:{index} {name}"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    Check {
        name: "GPUs",
        usable: !devices.is_empty(),
        found,
        remedy: None,
    }
}

fn compiler() -> Check {
    match models::probe().nvrtc {
        Some(nvrtc) => {
            let found = format!("{} {}", nvrtc.library, version(nvrtc.version));
            Check {
                name: "NVRTC",
                usable: true,
                found,
                remedy: None,
            }
        }
        None => Check {
            name: "NVRTC",
            usable: false,
            found: "no run-time compiler library".to_owned(),
            remedy: Some(
                "the CUDA toolkit or its package cuda-nvrtc, its folder on LD_LIBRARY_PATH".into(),
            ),
        },
    }
}

fn cuda() -> Check {
    match models::probe().missing(0) {
        None => Check {
            name: CUDA,
            usable: true,
            found: "everything that it needs is there".into(),
            remedy: None,
        },
        Some(missing) => Check {
            name: CUDA,
            usable: false,
            found: missing,
            remedy: None,
        },
    }
}

fn version(version: Option<(u32, u32)>) -> String {
    version.map_or_else(
        || "of unknown version".to_owned(),
        |(major, minor)| format!("{major}.{minor}"),
    )
}

/// What follows for `bench-all` without options.
fn verdict(checks: &[Check]) -> String {
    let usable = |name: &str| {
        checks
            .iter()
            .any(|check| check.name == name && check.usable)
    };
    let (device, profile) = if usable(CUDA) {
        ("cuda:0", "paper")
    } else {
        ("the processor", "laptop")
    };
    let text = if usable(TEXT) {
        ""
    } else {
        " once there is text"
    };
    format!("`relora bench-all` runs the profile {profile} on {device}{text}")
}
