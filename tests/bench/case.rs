//! A workload is some cases that are measured in turns, round after round, so that whatever
//! disturbs the machine meets all of them alike.

use crate::{
    kind::{Kind, Logs, Variant},
    options::{Options, Scale},
    subject::Subject,
};

/// What one measurement gives: a value for each of the workload's columns that it has.
pub(crate) type Sample = Vec<(&'static str, f64)>;

type Measure = Box<dyn Fn(&Subject) -> anyhow::Result<Sample>>;

/// Cases that share a table.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    /// What the ratios are to, the first that is here.
    pub(crate) yardsticks: Vec<Kind>,
    pub(crate) rounds: usize,
    /// Whether every measurement needs a program that has just started.
    pub(crate) fresh: bool,
    pub(crate) cases: Vec<Case>,
    /// What to know when reading the figures.
    pub(crate) notes: &'static str,
}

/// One row.
pub(crate) struct Case {
    /// What is asked of the program. The same for all that are compared.
    pub(crate) task: String,
    pub(crate) kind: Kind,
    /// The task whose yardstick it is compared with: its own, if the yardstick can do it.
    pub(crate) compared: String,
    pub(crate) measure: Measure,
    pub(crate) samples: Vec<Sample>,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) decimals: usize,
    /// Whether its ratio to the yardstick is shown beside it.
    pub(crate) ratio: bool,
}

impl Column {
    pub(crate) const fn new(key: &'static str, title: &'static str, decimals: usize) -> Self {
        Self { key, title, decimals, ratio: false }
    }

    pub(crate) const fn with_ratio(self) -> Self {
        Self { ratio: true, ..self }
    }
}

impl Case {
    pub(crate) fn new(
        task: impl Into<String>,
        kind: Kind,
        measure: impl Fn(&Subject) -> anyhow::Result<Sample> + 'static,
    ) -> Self {
        let (task, measure) = (task.into(), Box::new(measure));
        Self { compared: task.clone(), task, kind, measure, samples: Vec::new() }
    }

    pub(crate) fn compared_with(self, task: impl Into<String>) -> Self {
        Self { compared: task.into(), ..self }
    }

    pub(crate) fn values(&self, key: &str) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| value(sample, key)).collect()
    }
}

pub(crate) fn value(sample: &Sample, key: &str) -> Option<f64> {
    sample.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

/// What every workload is made from.
pub(crate) struct Plan {
    pub(crate) scale: Scale,
    pub(crate) variants: Vec<&'static Variant>,
    /// To see that it works, not to quote.
    pub(crate) is_quick: bool,
}

impl Plan {
    /// The builds of the relay and their settings.
    pub(crate) fn relay_kinds(&self) -> impl Iterator<Item = Kind> {
        self.variants.iter().map(|variant| Kind::Relay(variant, Logs::File))
    }
}

impl Workload {
    pub(crate) fn name_of(&self, case: &Case) -> String {
        format!("{}/{}/{}", self.name, case.task, case.kind)
    }

    /// Leaves what was asked for and can be measured here; returns why the rest cannot.
    pub(crate) fn narrow(&mut self, options: &Options) -> Vec<String> {
        let mut missing = Vec::new();
        let mut cases = std::mem::take(&mut self.cases);
        cases.retain(|case| options.wants(&self.name_of(case)));
        cases.retain(|case| match case.kind.missing() {
            None => true,
            Some(why) => {
                missing.push(why);
                false
            }
        });
        self.cases = cases;
        missing
    }

    /// Measures every case in every round; returns what failed.
    pub(crate) fn run(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        let mut running: Vec<(Kind, Subject)> = Vec::new();
        for round in 1..=self.rounds {
            let mut order: Vec<_> = (0..self.cases.len()).collect();
            if round % 2 == 0 {
                // Nobody is always the first, nor always behind the same.
                order.reverse();
            }
            for index in order {
                let name = self.name_of(&self.cases[index]);
                eprintln!("round {round} of {}: {name}", self.rounds);
                match measure(&self.cases[index], self.fresh, &mut running) {
                    Ok(sample) => self.cases[index].samples.push(sample),
                    Err(error) => {
                        failed.push(format!("FAILED: {name}, round {round}: {error:#}"));
                        // Its place is kept: ratios are of one round's two values.
                        self.cases[index].samples.push(Sample::new());
                    }
                }
            }
        }
        failed
    }
}

fn measure(case: &Case, fresh: bool, running: &mut Vec<(Kind, Subject)>) -> anyhow::Result<Sample> {
    if fresh {
        return (case.measure)(&Subject::start(case.kind)?);
    }
    let index = match running.iter().position(|(kind, _)| *kind == case.kind) {
        Some(index) => index,
        None => {
            running.push((case.kind, Subject::start(case.kind)?));
            running.len() - 1
        }
    };
    (case.measure)(&running[index].1)
}
