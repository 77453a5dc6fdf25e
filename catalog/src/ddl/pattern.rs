//! Patterns for names.

/// A pattern for names: SQL's `%` and `_`, or Hive's `*` and `|`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether a lower-case name is like this. `_` is itself in a pattern of Hive's, where it is a common letter of names.
    pub fn matches(&self, name: &str) -> bool {
        let hive = self.0.contains(['*', '|']);
        let name: Vec<char> = name.chars().collect();
        let pattern = self.0.to_lowercase();
        let mut choices: Box<dyn Iterator<Item = &str>> =
            if hive { Box::new(pattern.split('|')) } else { Box::new(std::iter::once(pattern.as_str())) };
        choices.any(|choice| glob(&choice.chars().collect::<Vec<_>>(), &name, |c| c == '%' || (hive && c == '*'), |c| !hive && c == '_'))
    }
}

/// Matches greedily and goes back to the last "any" when stuck: at most pattern x name steps.
fn glob(pattern: &[char], name: &[char], any: impl Fn(char) -> bool, one: impl Fn(char) -> bool) -> bool {
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(&c) if any(c) => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if one(c) || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after, from)) = retry else { return false };
                retry = Some((after, from + 1));
                p = after;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| any(c))
}
