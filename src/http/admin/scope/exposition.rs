//! The metrics of several nodes as one text in Prometheus' format: each family once, each sample
//! with the label `node`.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

/// Whether a node answers.
const UP: &str = "relay_cluster_node_up";

/// Families in the order in which they first came.
#[derive(Default)]
pub(super) struct Merged {
    families: Vec<Family>,
    by_name: HashMap<String, usize>,
}

#[derive(Default)]
struct Family {
    name: String,
    help: Option<String>,
    kind: Option<String>,
    samples: String,
}

impl Merged {
    /// Adds what a node says.
    pub(super) fn add(&mut self, node: &str, text: &str) {
        let node = escaped(node);
        // What a sample belongs to stands above it.
        let mut family = None;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.trim_start().splitn(3, ' ');
                let (keyword, name) = (words.next(), words.next().unwrap_or_default());
                let said = words.next().unwrap_or_default().to_owned();
                match keyword {
                    Some("HELP") => {
                        let of = self.family(name);
                        self.families[of].help.get_or_insert(said);
                        family = Some(of);
                    }
                    Some("TYPE") => {
                        let of = self.family(name);
                        let kind = self.families[of].kind.get_or_insert(said.clone());
                        // One that another version has as something else stays out.
                        family = (*kind == said).then_some(of);
                    }
                    _ => {}
                }
            } else if let Some(of) = self.owner(family, line) {
                sample(&mut self.families[of].samples, line, &node);
            }
        }
    }

    /// Says of each node whether it answers.
    pub(super) fn show_up<'a>(&mut self, nodes: impl Iterator<Item = (&'a str, bool)>) {
        let nodes: BTreeMap<_, _> = nodes.collect();
        let of = self.family(UP);
        let family = &mut self.families[of];
        family.help = Some("Whether the node has answered for this view of all nodes".to_owned());
        family.kind = Some("gauge".to_owned());
        for (node, up) in nodes {
            // Writing to a String cannot fail.
            let _ = writeln!(family.samples, "{UP}{{node=\"{}\"}} {}", escaped(node), u8::from(up));
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Family { name, help, kind, samples } in &self.families {
            if samples.is_empty() {
                continue;
            }
            if let Some(help) = help {
                let _ = writeln!(text, "# HELP {name} {help}");
            }
            if let Some(kind) = kind {
                let _ = writeln!(text, "# TYPE {name} {kind}");
            }
            text.push_str(samples);
            text.push('\n');
        }
        text
    }

    fn family(&mut self, name: &str) -> usize {
        if let Some(&at) = self.by_name.get(name) {
            return at;
        }
        let at = self.families.len();
        self.families.push(Family { name: name.to_owned(), ..Family::default() });
        self.by_name.insert(name.to_owned(), at);
        at
    }

    /// The family of a sample: the one above it, or one of its own where that has another name.
    fn owner(&mut self, above: Option<usize>, line: &str) -> Option<usize> {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let above = above?;
        let family = &self.families[above].name;
        let suffix = name.strip_prefix(family.as_str());
        match suffix {
            Some("" | "_bucket" | "_sum" | "_count" | "_total") => Some(above),
            _ => Some(self.family(name)),
        }
    }
}

/// The sample, with whose it is.
fn sample(samples: &mut String, line: &str, node: &str) {
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
    let _ = match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with('}') => {
            writeln!(samples, "{name}{{node=\"{node}\"{labels}")
        }
        // It has one of its own, which is about something else.
        Some(labels) if labels.starts_with("node=\"") => {
            writeln!(samples, "{name}{{node=\"{node}\",exported_{labels}")
        }
        Some(labels) => writeln!(samples, "{name}{{node=\"{node}\",{labels}"),
        None => writeln!(samples, "{name}{{node=\"{node}\"}}{rest}"),
    };
}

/// As the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_merged_and_every_sample_says_whose_it_is() {
        let a = "# HELP x_total Of x\n# TYPE x_total counter\nx_total 1\n\n\
                 # TYPE s histogram\ns_bucket{le=\"1\"} 2\ns_sum 3\ns_count 2\n\n";
        let b = "# HELP x_total Of x\n# TYPE x_total counter\nx_total 4\n\n\
                 # TYPE y gauge\ny{node=\"q\",z=\"}\"} 5\n# TYPE s gauge\ns 7\n";
        let mut merged = Merged::default();
        merged.add("a", a);
        merged.add("b", b);
        merged.show_up([("b", true), ("a", true), ("c\"", false)].into_iter());
        let expected = "# HELP x_total Of x\n# TYPE x_total counter\nx_total{node=\"a\"} 1\n\
                        x_total{node=\"b\"} 4\n\n\
                        # TYPE s histogram\ns_bucket{node=\"a\",le=\"1\"} 2\ns_sum{node=\"a\"} 3\n\
                        s_count{node=\"a\"} 2\n\n\
                        # TYPE y gauge\ny{node=\"b\",exported_node=\"q\",z=\"}\"} 5\n\n\
                        # HELP relay_cluster_node_up Whether the node has answered for this view of \
                        all nodes\n# TYPE relay_cluster_node_up gauge\n\
                        relay_cluster_node_up{node=\"a\"} 1\nrelay_cluster_node_up{node=\"b\"} 1\n\
                        relay_cluster_node_up{node=\"c\\\"\"} 0\n\n";
        assert_eq!(merged.text(), expected);
    }
}
