//! The README's tables of environment variables and metrics say what the binary knows. When this fails it prints the rows
//! that the README has to have.

use countersign_gateway::{config, config::Accepts, metrics};

const README: &str = include_str!("../../../README.md");

fn between(begin: &str, end: &str) -> Vec<&'static str> {
    let section = README.split_once(begin).expect("the README has the section").1;
    let section = section.split_once(end).expect("the section ends").0;
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_environment_table_of_the_readme_is_the_one_of_the_binary() {
    let known: Vec<String> = config::TABLE
        .iter()
        .filter(|variable| !matches!(variable.accepts, Accepts::Nothing(_)))
        .map(|variable| {
            let default = if variable.default.is_empty() { String::new() } else { format!("`{}`", variable.default) };
            let secret = if variable.secret { " (secret)" } else { "" };
            format!("| `{}`{secret} | {default} | {} |", variable.name, variable.doc)
        })
        .collect();
    assert!(known.len() > 25);
    assert_eq!(between("<!-- environment", "<!-- /environment"), known, "\n{}\n", known.join("\n"));
}

#[test]
fn the_metrics_table_of_the_readme_is_the_one_of_the_binary() {
    let known: Vec<String> =
        metrics::TABLE.iter().map(|(name, kind, help)| format!("| `{name}` | {kind} | {help} |")).collect();
    assert!(known.len() > 20);
    assert_eq!(between("<!-- metrics", "<!-- /metrics"), known, "\n{}\n", known.join("\n"));
}
