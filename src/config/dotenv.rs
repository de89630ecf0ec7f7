//! The lines of a `.env` file. What its names mean is `hbbr`'s business.

/// A `NAME=VALUE` line.
pub(super) struct Assignment {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) value: String,
    /// Below a `[section]`, where hbbr does not look.
    pub(super) in_section: bool,
}

/// Every assignment, and the numbers of the lines that are nothing a `.env` holds.
pub(super) fn parse(text: &str) -> (Vec<Assignment>, Vec<usize>) {
    let (mut assignments, mut wrong) = (Vec::new(), Vec::new());
    let mut in_section = false;
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if content.starts_with('[') && content.ends_with(']') {
            in_section = true;
            continue;
        }
        match assignment(content) {
            Some((name, value)) => {
                let (name, value) = (name.to_owned(), value.to_owned());
                assignments.push(Assignment { line, name, value, in_section });
            }
            None => wrong.push(line),
        }
    }
    (assignments, wrong)
}

fn assignment(content: &str) -> Option<(&str, &str)> {
    let (name, value) = content.split_once('=')?;
    let name = name.trim();
    let name = name.strip_prefix("export ").map_or(name, str::trim_start);
    // `KEY c2VjcmV0=` has an equals sign too, and its name would be half a secret.
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| (name, unquoted(value.trim())))
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_told_apart() {
        let text =
            "# a\n; b\n\n A = 1 \nexport B='two words'\nC=\"x\"\nD='odd\"\nE=\n=f\ng h\nI j=k\r\n";
        let (assignments, wrong) = parse(text);
        let read: Vec<_> =
            assignments.iter().map(|a| (a.line, a.name.as_str(), a.value.as_str())).collect();
        let expected =
            [(4, "A", "1"), (5, "B", "two words"), (6, "C", "x"), (7, "D", "'odd\""), (8, "E", "")];
        assert_eq!(read, expected);
        assert_eq!(wrong, [9, 10, 11]);
    }

    #[test]
    fn what_stands_below_a_section_is_marked() {
        let (assignments, wrong) = parse("A=1\n[other]\nB=2\n");
        assert!(wrong.is_empty());
        assert_eq!(assignments.iter().map(|a| a.in_section).collect::<Vec<_>>(), [false, true]);
    }
}
