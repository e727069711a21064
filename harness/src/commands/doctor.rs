//! `relora doctor`: what is found on this machine, what is missing and how to get it. It looks, and starts nothing.

use std::thread;

use datasets::source::crates;
use models::{Cuda, Gpu, GpuMemory, NVRTC_REMEDY};
use results::render::number_of;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::DoctorOptions;
use crate::exit::Exit;
use crate::machine::{self, processor_name};
use crate::nvml;

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
    let probe = models::probe();
    vec![
        processor(),
        memory(),
        default_text(),
        driver(probe),
        devices(probe),
        compiler(probe),
        headers(probe),
        management(probe),
        cuda(probe),
    ]
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
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

fn driver(cuda: &Cuda) -> Check {
    let usable = cuda
        .driver
        .as_ref()
        .is_some_and(|driver| driver.error_code.is_none() && driver.lacks.is_none());
    let found = match &cuda.driver {
        None => "no NVIDIA driver library".to_owned(),
        Some(driver) => {
            let of_driver = machine::nvidia_driver_version()
                .map_or_else(String::new, |version| format!(" {version}"));
            let error = driver.error_code.map_or_else(String::new, |code| {
                format!(", does not start: CUDA error {code}")
            });
            let lacks = driver
                .lacks
                .map_or_else(String::new, |name| format!(", without {name}"));
            format!(
                "{}{of_driver}, CUDA {}{error}{lacks}",
                driver.library,
                version(driver.cuda_version)
            )
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

fn devices(cuda: &Cuda) -> Check {
    let described = |(index, gpu): (usize, &Gpu)| {
        let capability = gpu.compute_capability.map_or_else(String::new, |of| {
            format!(", compute capability {}", version(Some(of)))
        });
        let memory = match (models::gpu_memory(index), gpu.memory_bytes) {
            (Some(GpuMemory { free, total }), _) => format!(
                ", {:.1} GiB, {:.1} GiB of it free",
                gibibytes(total),
                gibibytes(free)
            ),
            (None, Some(total)) => format!(", {:.1} GiB", gibibytes(total)),
            (None, None) => String::new(),
        };
        format!("cuda:{index} {}{capability}{memory}", gpu.name)
    };
    let found: Vec<String> = cuda.devices.iter().enumerate().map(described).collect();
    Check {
        name: "GPUs",
        usable: !found.is_empty(),
        found: if found.is_empty() {
            "none".to_owned()
        } else {
            found.join("; ")
        },
        remedy: None,
    }
}

fn compiler(cuda: &Cuda) -> Check {
    let (usable, found) = match &cuda.nvrtc {
        Some(nvrtc) => {
            let lacks = nvrtc
                .lacks
                .map_or_else(String::new, |name| format!(", without {name}"));
            let found = format!("{} {}{lacks}", nvrtc.library, version(nvrtc.version));
            (nvrtc.lacks.is_none(), found)
        }
        None if cuda.driver.is_none() => (false, NOT_LOOKED.to_owned()),
        None => (false, "no run-time compiler library".to_owned()),
    };
    Check {
        name: "NVRTC",
        usable,
        found,
        remedy: (!usable).then(|| NVRTC_REMEDY.to_owned()),
    }
}

/// What is of no use without a driver is not looked for.
const NOT_LOOKED: &str = "not looked for without a driver";

fn headers(cuda: &Cuda) -> Check {
    let name = "CUDA headers";
    match &cuda.headers {
        Ok(headers) => {
            let folders = headers.folders.iter().map(|it| it.display().to_string());
            let folders: Vec<String> = folders.collect();
            Check {
                name,
                usable: true,
                found: format!("{} {}", folders.join(" and "), version(headers.version)),
                remedy: None,
            }
        }
        Err(missing) => Check {
            name,
            usable: false,
            found: if cuda.driver.is_none() {
                NOT_LOOKED.to_owned()
            } else {
                format!("no {}", missing.header)
            },
            remedy: Some(missing.remedy()),
        },
    }
}

/// The library that knows energy: its absence keeps nothing from running.
fn management(cuda: &Cuda) -> Check {
    let name = "NVML";
    let Some(library) = nvml::library() else {
        return Check {
            name,
            usable: false,
            found: "no management library (libnvidia-ml.so.1): energy is not recorded".into(),
            remedy: None,
        };
    };
    let limits = cuda.devices.iter().enumerate().filter_map(|(index, gpu)| {
        let limit = match library.card(gpu) {
            None => "not known to it".to_owned(),
            Some(card) => format!("may draw {:.0} W", card.power_limit()?),
        };
        Some(format!("; cuda:{index} {limit}"))
    });
    let driver = library
        .driver_version()
        .unwrap_or_else(|| "of unknown version".to_owned());
    Check {
        name,
        usable: true,
        found: format!("of driver {driver}{}", limits.collect::<String>()),
        remedy: None,
    }
}

fn cuda(cuda: &Cuda) -> Check {
    match cuda.missing(0) {
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
