//! The layers, weakest first, and what comes of them: a configuration with the origin of each
//! value, or everything that is wrong at once.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use figment::{Figment, providers::Serialized};

use super::{
    Config,
    command_line::Overrides,
    environment,
    hbbr::HbbrNames,
    problem::{Origin, Problem, Problems},
    rules::Rules,
    schema::Schema,
    setting::{Reading, Setting},
    tables, toml_file,
};

/// Everything that a configuration is read from. The process is not looked at behind its back,
/// so tests and `check` can say what it is.
pub struct Sources {
    /// The TOML file that was asked for: it must exist.
    pub file: Option<PathBuf>,
    /// Where `.env` is read, and `config.toml` if no file was asked for.
    pub working_dir: PathBuf,
    /// The environment's names and values.
    pub env: Vec<(String, String)>,
    /// The command line.
    pub overrides: Overrides,
}

impl Sources {
    /// The environment and the working directory of this process.
    pub fn from_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let env = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        Self { file, working_dir: PathBuf::from("."), env: env.collect(), overrides }
    }
}

/// Without the environment, which holds secrets under names of its own.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("working_dir", &self.working_dir)
            .field("overrides", &self.overrides)
            .finish_non_exhaustive()
    }
}

/// A configuration to run with.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What the operator should know, though it stops nothing.
    pub warnings: Vec<String>,
    /// Where each value comes from.
    pub origins: Origins,
}

/// Where each value comes from.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The origin of a key such as `pairing.timeout`, or of one in a table such as `keys[2].label`.
    pub fn of(&self, key: &str) -> &Origin {
        let list = || self.0.get(key.split_once('[')?.0);
        self.0.get(key).or_else(list).unwrap_or(&Origin::Default)
    }
}

/// Reads every source, and lays the stronger over the weaker: the command line over `RELAY__`
/// variables over hbbr's names in `.env` over these in the environment over the TOML file over
/// the defaults. A wrong value is a problem even where a stronger one hides it; a `key` and a
/// `key_file`, though, are one problem only where neither source is the stronger.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let schema = Schema::new();
    let mut stack = Stack::default();
    stack.add(&schema, toml_file::read(sources.file.as_deref(), &sources.working_dir, &schema));
    let hbbr = HbbrNames::read(&sources.env, &sources.working_dir);
    let hbbr_bind = hbbr.bind_address();
    stack.add(&schema, hbbr.settings(&stack.listeners()));
    stack.add(&schema, environment::read(&sources.env, &schema));
    stack.add(&schema, sources.overrides.settings(&stack.listeners(), hbbr_bind));
    stack.finish()
}

/// Two ways to say one thing. Only one of each can be in force.
const RIVALS: [[&str; 2]; 2] = [["key", "key_file"], ["admin.token", "admin.token_file"]];

/// The settings so far, weakest first.
#[derive(Default)]
struct Stack {
    /// Each with the strength of its source.
    settings: Vec<(usize, Setting)>,
    /// How many sources there were.
    sources: usize,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Stack {
    fn add(&mut self, schema: &Schema, reading: Reading) {
        self.sources += 1;
        self.problems.extend(reading.problems);
        self.warnings.extend(reading.warnings);
        for setting in reading.settings {
            if schema.table(&setting.key).is_some() {
                let (sound, problems) = tables::sift(setting, schema);
                self.problems.extend(problems);
                self.settings.push((self.sources, sound));
                continue;
            }
            match Schema::check(&setting) {
                Ok(()) => self.settings.push((self.sources, setting)),
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    fn figment(&self) -> Figment {
        let defaults = Figment::from(Serialized::defaults(Config::default()));
        self.settings.iter().map(|(_, setting)| setting).fold(defaults, Figment::merge)
    }

    /// The listeners so far, for the flag or name that only moves them to another address.
    fn listeners(&self) -> Vec<SocketAddr> {
        self.figment().extract::<Config>().map(|config| config.listen).unwrap_or_default()
    }

    /// Of two rivals from different sources the stronger stands and empties the other: `--key`
    /// beats the `key_file` of a file. Two from one source are left for the rules to refuse.
    fn settle_rivals(&mut self) {
        for [one, other] in RIVALS {
            let (Some(found), Some(rival)) = (self.said(one), self.said(other)) else { continue };
            let (weaker, winner) = match found.0.cmp(&rival.0) {
                Ordering::Less => (one, rival),
                Ordering::Greater => (other, found),
                Ordering::Equal => continue,
            };
            let emptied = Setting::new(weaker, "", &winner.1.origin);
            self.settings.push((winner.0, emptied));
        }
    }

    /// What is in force for a key, with its strength; `None` if that is no more than emptiness.
    fn said(&self, key: &str) -> Option<&(usize, Setting)> {
        self.settings.iter().rfind(|(_, set)| set.key == key).filter(|(_, set)| is_said(set))
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        self.settle_rivals();
        let origins = self.settings.iter().map(|(_, set)| (set.key.clone(), set.origin.clone()));
        let origins = Origins(origins.collect());
        let config = self.figment().extract::<Config>().unwrap_or_else(|error| {
            // Each setting was tried alone, so this would be a fault of ours.
            self.problems.push(Problem::at(
                "configuration",
                error.path.join("."),
                error.to_string(),
            ));
            Config::default()
        });
        self.apply_rules(&config, &origins);
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        self.warn_of_opening(&config, &origins);
        self.warn_of_short_drain(&config, &origins);
        Ok(Loaded { config, warnings: self.warnings, origins })
    }

    /// A rule about a key that could not be read is left out: it would judge the default.
    fn apply_rules(&mut self, config: &Config, origins: &Origins) {
        let mut rules = Rules::default();
        config.validate(&mut rules);
        let broken = rules.problems(&self.problems, |key| origins.of(key).to_string());
        self.problems.extend(broken);
    }

    /// An empty `RELAY__KEY`, as a compose file gives for a variable that is not set, opens a
    /// relay whose file has a key.
    fn warn_of_opening(&mut self, config: &Config, origins: &Origins) {
        let is_key = |set: &&Setting| set.key == "key" || set.key == "key_file";
        let hidden =
            self.settings.iter().map(|(_, set)| set).filter(is_key).find(|set| is_said(set));
        if let Some(hidden) = hidden
            && !config.has_single_key()
            && config.keys.is_empty()
            && config.keys_file.as_os_str().is_empty()
        {
            self.warnings.push(format!(
                "the relay is open to anyone: {} leaves {} empty, over {}",
                origins.of(&hidden.key),
                hidden.key,
                hidden.origin
            ));
        }
    }

    /// Whoever waits with a node that drains can be met by the others, for as long as that lasts.
    fn warn_of_short_drain(&mut self, config: &Config, origins: &Origins) {
        let (drain, wait) = (config.shutdown.drain_timeout, config.pairing.timeout);
        if config.cluster.is_on() && drain.get() < wait.get() {
            self.warnings.push(format!(
                "shutdown.drain_timeout ({}) is {drain}, shorter than pairing.timeout, {wait}: a \
                 node of the cluster that goes cuts off who waits there",
                origins.of("shutdown.drain_timeout"),
            ));
        }
    }
}

fn is_said(setting: &Setting) -> bool {
    setting.value.as_str().is_some_and(|text| !text.is_empty())
}
