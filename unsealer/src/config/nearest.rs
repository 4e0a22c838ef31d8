//! The name that a person may have meant.

/// How alike two names must be, from 0 to 1 (Jaro-Winkler).
const ALIKE: f64 = 0.75;

/// A suggestion for an error text of serde: ``unknown field `a`, expected one of `b`, `c` ``.
pub(super) fn hint(message: &str) -> Option<String> {
    let names = message
        .strip_prefix("unknown field ")
        .or_else(|| message.strip_prefix("unknown variant "))?;
    let mut quoted = names.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<_> = quoted.collect();
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| format!("did you mean `{name}`?"))
}
