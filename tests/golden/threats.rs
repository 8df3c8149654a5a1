//! Each line of the threat model is a test.

use std::{fs, path::Path};

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(&path).unwrap();
        }
    }
}

#[test]
fn every_line_of_the_threat_model_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guide/threats.md")).unwrap();
    let mut text = String::new();
    ["src", "tests"].iter().for_each(|folder| sources(&root.join(folder), &mut text));
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("- ")).collect();
    assert!(lines.len() >= 15, "{} lines", lines.len());
    for line in lines {
        let named: Vec<&str> =
            line.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() >= 3).collect();
        assert!(!named.is_empty(), "no test is named: {line}");
        for name in named {
            assert!(text.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
}
