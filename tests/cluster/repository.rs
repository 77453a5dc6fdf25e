//! The repository keeps what it says: documents name files that exist, samples parse, units are sound.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Words in backquotes and targets of links that look like paths of this repository.
fn paths_in(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted
        .chain(linked)
        .filter(|word| !word.contains("://") && !word.contains([' ', '*', '<', '\'', '=', '(']) && !word.starts_with(['/', '-', '.', '#']))
        .filter(|word| word.contains('/') && word.split('/').next().is_some_and(|room| root().join(room).is_dir()))
        .map(|word| word.split('#').next().unwrap().trim_end_matches('/').to_owned())
        .collect()
}

#[test]
fn documents_name_paths_that_exist() {
    for (document, least) in [("ARCHITECTURE.md", 20), ("README.md", 3), ("CONTRIBUTING.md", 1)] {
        let paths = paths_in(&fs::read_to_string(root().join(document)).unwrap());
        assert!(paths.len() >= least, "{document} names only {} paths: does this test still find them?", paths.len());
        for path in paths {
            assert!(root().join(&path).exists(), "{document} names {path}, which does not exist");
        }
    }
}

#[test]
fn systemd_units_start_the_binaries_with_the_sample_names() {
    for binary in ["scheduler", "executor"] {
        let unit = fs::read_to_string(root().join(format!("deploy/systemd/windlass-{binary}.service"))).unwrap();
        let mut sections = Vec::new();
        for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix('[') {
                Some(section) => sections.push(section.trim_end_matches(']')),
                None => assert!(line.contains('='), "windlass-{binary}.service: '{line}' is no setting"),
            }
        }
        assert_eq!(sections, ["Unit", "Service", "Install"]);
        assert!(unit.contains(&format!("ExecStart=/usr/bin/windlass-{binary} --config /etc/windlass/{binary}.toml\n")));
        assert!(unit.contains("\nUser=windlass\n") && unit.contains("\nNoNewPrivileges=yes\n"), "{binary} must run without privileges");
    }
}
