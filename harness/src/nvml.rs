//! What a GPU's driver says of a run while it trains: energy, how busy the GPU was, memory in use. All of it is of the whole
//! card, whoever uses it.
//!
//! It comes from NVIDIA's management library (NVML), which a driver brings and a container may lack. It is loaded when it is
//! asked for; where it is not, or does not know the card, there is nothing, and nothing is not zero. A thread of its own asks
//! ten times a second. What the card used between two answers is shared out over what the run was doing meanwhile by the time
//! that each took, so that nothing that trains waits for an answer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use models::Gpu;
use nvml_wrapper::Nvml;
use serde::{Deserialize, Serialize};

use crate::journal::Phase;

/// How often the driver is asked. Its own figures are no younger than that.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often it is asked again for a last answer that it does not give at once.
const ATTEMPTS: u32 = 3;

/// The library, loaded once in a process.
pub fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| NAMES.iter().find_map(|name| Library::load(name.as_ref())))
        .as_ref()
}

const NAMES: &[&str] = &["libnvidia-ml.so.1", "libnvidia-ml.so", "nvml.dll"];

/// The library, started.
#[derive(Debug)]
pub struct Library(Nvml);

impl Library {
    /// Loads it by name or path; none where it is not there, or its driver does not run.
    #[must_use]
    pub fn load(name: &OsStr) -> Option<Library> {
        Some(Library(Nvml::builder().lib_path(name).init().ok()?))
    }

    /// Version of the driver.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        self.0.sys_driver_version().ok()
    }

    /// The card that CUDA knows as this GPU: by its identifier, or by its place on the bus. Never by its number, which CUDA
    /// counts in another order, and only among those that it may see.
    #[must_use]
    pub fn card(&self, gpu: &Gpu) -> Option<Card<'_>> {
        // Parts of a partitioned card have identifiers of their own.
        let by_identifier = gpu.uuid.iter().find_map(|uuid| {
            let mut names = ["GPU", "MIG"]
                .map(|kind| format!("{kind}-{uuid}"))
                .into_iter();
            names.find_map(|name| self.0.device_by_uuid(name).ok())
        });
        let by_place = || {
            let place = gpu.pci_bus_id.clone()?;
            self.0.device_by_pci_bus_id(place).ok()
        };
        Some(Card(by_identifier.or_else(by_place)?))
    }
}

/// A card that the library knows.
#[derive(Debug)]
pub struct Card<'a>(nvml_wrapper::Device<'a>);

impl Card<'_> {
    /// The most that it may draw, watts.
    #[must_use]
    pub fn power_limit(&self) -> Option<f64> {
        let milliwatts = self.0.enforced_power_limit().ok()?;
        Some(f64::from(milliwatts) / 1e3)
    }

    fn read(&self) -> Reading {
        Reading {
            // Counters since the driver was loaded are exact however seldom they are read; older cards have none.
            joules: (self.0.total_energy_consumption().ok())
                .map(|millijoules| millijoules as f64 / 1e3),
            watts: (self.0.power_usage().ok()).map(|milliwatts| f64::from(milliwatts) / 1e3),
            busy: (self.0.utilization_rates().ok()).map(|rates| f64::from(rates.gpu) / 100.0),
            memory_bytes: (self.0.memory_info().ok()).map(|memory| memory.used),
        }
    }
}

/// What a card says at a moment; none of what it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    /// Since some moment before.
    joules: Option<f64>,
    /// Now.
    watts: Option<f64>,
    /// Share of the last moments in which a kernel ran.
    busy: Option<f64>,
    /// In use.
    memory_bytes: Option<u64>,
}

/// What a run has taken of its GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Energy; none where the driver does not tell, as for what stands below.
    pub joules: Option<Joules>,
    /// Seconds of training in which a kernel ran.
    pub busy_seconds: Option<f64>,
    /// The most memory that was in use.
    pub peak_memory_bytes: Option<u64>,
}

/// Energy by what the run was doing, joules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Joules {
    /// In training.
    pub training: f64,
    /// In evaluations.
    pub evaluation: f64,
    /// In starting up and writing.
    pub other: f64,
    /// Of the training, in the warm start.
    pub warm_start: f64,
}

impl Used {
    /// Nothing yet, of everything that can be told.
    pub const NOTHING: Used = Used {
        joules: Some(Joules {
            training: 0.0,
            evaluation: 0.0,
            other: 0.0,
            warm_start: 0.0,
        }),
        busy_seconds: Some(0.0),
        peak_memory_bytes: Some(0),
    };

    /// The part of it that a warm start hands on, as it does with time: what training and evaluations took.
    #[must_use]
    pub fn of_warm_start(self) -> Used {
        let joules = self.joules.map(|joules| Joules {
            other: 0.0,
            warm_start: joules.training,
            ..joules
        });
        Used { joules, ..self }
    }

    /// Both together. What one of them does not know the sum does not: part of it would pass for the whole.
    #[must_use]
    pub fn and(self, other: Used) -> Used {
        let joules = self.joules.zip(other.joules);
        Used {
            joules: joules.map(|(one, two)| Joules {
                training: one.training + two.training,
                evaluation: one.evaluation + two.evaluation,
                other: one.other + two.other,
                warm_start: one.warm_start + two.warm_start,
            }),
            busy_seconds: (self.busy_seconds.zip(other.busy_seconds)).map(|(one, two)| one + two),
            peak_memory_bytes: (self.peak_memory_bytes.zip(other.peak_memory_bytes))
                .map(|(one, two)| one.max(two)),
        }
    }
}

/// Reads a card while a run goes on, until it is dropped.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    /// Its end tells the thread to stop.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    card: Card<'static>,
    /// Held from reading the card to adding up what it said: readings are taken in their order.
    reading: Mutex<()>,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the card, and whether it said all that it had said before.
    fn sample(&self) -> bool {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = self.card.read();
        self.tally().take(reading, Instant::now())
    }
}

impl Meter {
    /// Begins to read a GPU's card; none without the library, or where it does not know the card or says nothing of it.
    #[must_use]
    pub fn start(gpu: &Gpu) -> Option<Meter> {
        Meter::of(library()?.card(gpu)?)
    }

    fn of(card: Card<'static>) -> Option<Meter> {
        let first = card.read();
        if first == Reading::default() {
            return None;
        }
        let shared = Arc::new(Shared {
            card,
            reading: Mutex::new(()),
            tally: Mutex::new(Tally::new(first, Instant::now())),
        });
        let (running, stopped) = mpsc::channel();
        let sampled = Arc::clone(&shared);
        let sample = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // What is not said now is asked for again.
                let _ = sampled.sample();
            }
        };
        let thread = thread::Builder::new()
            .name("GPU meter".into())
            .spawn(sample);
        Some(Meter {
            shared,
            running: Some(running),
            thread: Some(thread.ok()?),
        })
    }

    /// The run does something else from now on.
    pub(crate) fn turn_to(&self, phase: Phase) {
        self.shared.tally().turn_to(phase, Instant::now());
    }

    /// What [`Meter::used`] would say, as far as the card was read already: no more than a moment ago.
    #[must_use]
    pub fn so_far(&self) -> Used {
        self.shared.tally().used
    }

    /// What was used since the last call, or since the start.
    #[must_use]
    pub fn used(&self) -> Used {
        let read = (0..ATTEMPTS).any(|_| self.shared.sample());
        let used = std::mem::replace(&mut self.shared.tally().used, Used::NOTHING);
        if read { used } else { Used::default() }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.running = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Readings, added up.
#[derive(Debug)]
struct Tally {
    /// What the card said last, and when.
    last: Reading,
    read_at: Instant,
    /// What the run is doing, since when, and how long it did what since the last reading.
    phase: Phase,
    since: Instant,
    seconds: BTreeMap<Phase, f64>,
    used: Used,
}

impl Tally {
    fn new(first: Reading, now: Instant) -> Tally {
        Tally {
            last: first,
            read_at: now,
            phase: Phase::Other,
            since: now,
            seconds: BTreeMap::new(),
            used: Used {
                peak_memory_bytes: first.memory_bytes,
                ..Used::NOTHING
            },
        }
    }

    fn turn_to(&mut self, phase: Phase, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        *self.seconds.entry(self.phase).or_default() += seconds;
        self.phase = phase;
        self.since = now;
    }

    /// Adds what was used since the last reading, unless the card says less than it did then: the next one will cover it.
    fn take(&mut self, reading: Reading, now: Instant) -> bool {
        let Reading {
            joules,
            watts,
            busy,
            memory_bytes,
        } = self.last;
        let lacks = |before: bool, now: bool| before && !now;
        if lacks(joules.is_some(), reading.joules.is_some())
            || lacks(joules.is_none() && watts.is_some(), reading.watts.is_some())
            || lacks(busy.is_some(), reading.busy.is_some())
            || lacks(memory_bytes.is_some(), reading.memory_bytes.is_some())
        {
            return false;
        }
        self.turn_to(self.phase, now);
        let elapsed = now.saturating_duration_since(self.read_at).as_secs_f64();
        let counted = joules.zip(reading.joules).map(|(before, now)| now - before);
        let drawn = || {
            let (before, now) = watts.zip(reading.watts)?;
            Some((before + now) / 2.0 * elapsed)
        };
        let joules = counted.or_else(drawn).filter(|joules| *joules >= 0.0);
        let all: f64 = self.seconds.values().sum();
        let seconds = |phase| self.seconds.get(&phase).copied().unwrap_or_default();
        let share = |phase| if all > 0.0 { seconds(phase) / all } else { 0.0 };
        let used = Used {
            joules: joules.map(|joules| Joules {
                training: joules * share(Phase::Training),
                evaluation: joules * share(Phase::Evaluation),
                other: joules * share(Phase::Other),
                warm_start: 0.0,
            }),
            busy_seconds: reading.busy.map(|busy| busy * seconds(Phase::Training)),
            peak_memory_bytes: reading.memory_bytes,
        };
        self.used = self.used.and(used);
        self.seconds.clear();
        self.last = reading;
        self.read_at = now;
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
