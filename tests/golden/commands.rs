//! Commands with their options and arguments.

use super::{Facts, hold, run, told};

/// Adds the options and arguments of a command and of those below it, read from its help.
fn commands(facts: &mut Facts, program: &str, name: &str, words: &[&str]) {
    let mut arguments = words.to_vec();
    arguments.push("--help");
    let (_, help) = run(program, &arguments);
    let command = [&[name], words].concat().join(" ");
    let usage = help.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap();
    told(facts, format!("{command}, used as"), usage);
    let (mut part, mut entry) = ("", None::<(String, String)>);
    let mut below = Vec::new();
    let mut close = |entry: Option<(String, String)>, part: &str| {
        let Some((head, text)) = entry else { return };
        let among = |opening: &str| {
            let start = text.find(opening)?;
            Some(text[start..].split_once(']')?.0.to_owned() + "]")
        };
        let more: Vec<String> = ["[default: ", "[possible values: "].into_iter().filter_map(among).collect();
        let kind = if part == "Arguments" { "argument" } else { "option" };
        told(facts, format!("{command} {head}"), format!("{kind} {}", more.join(" ")).trim());
    };
    for line in help.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            close(entry.take(), part);
            part = match heading {
                "Commands" => "Commands",
                "Arguments" => "Arguments",
                "Options" => "Options",
                _ => "",
            };
            continue;
        }
        let text = line.trim();
        match part {
            "Commands" => {
                let word = text.split(' ').next().unwrap();
                if !word.is_empty() && word != "help" && line.starts_with("  ") && !line.starts_with("   ") {
                    below.push(word.to_owned());
                }
            }
            "Options" | "Arguments" => {
                let opens = if part == "Options" { text.starts_with('-') } else { text.starts_with(['<', '[']) };
                let indented = line.len() - line.trim_start().len();
                if opens && indented <= 6 {
                    close(entry.take(), part);
                    let (head, rest) = text.split_once("  ").unwrap_or((text, ""));
                    entry = Some((head.to_owned(), rest.to_owned()));
                } else if let Some((_, known)) = &mut entry {
                    known.push(' ');
                    known.push_str(text);
                }
            }
            _ => {}
        }
    }
    close(entry.take(), part);
    told(facts, format!("{command}, below it"), if below.is_empty() { "nothing".into() } else { below.join(" ") });
    for word in below {
        // These are handed on to the learning program, with all that follows.
        if name == "beltsight" && words.is_empty() && ["train", "distill", "compare", "reproduce"].contains(&&*word) {
            continue;
        }
        let words = [words, &[word.as_str()]].concat();
        commands(facts, program, name, &words);
    }
}

#[test]
fn every_command_takes_the_options_it_took() {
    let mut facts = Facts::new();
    commands(&mut facts, env!("CARGO_BIN_EXE_beltsight"), "beltsight", &[]);
    hold("commands", &facts);
}

#[cfg(feature = "learn")]
#[test]
fn every_command_of_the_learning_program_takes_the_options_it_took() {
    let mut facts = Facts::new();
    commands(&mut facts, env!("CARGO_BIN_EXE_beltsight-learn"), "beltsight-learn", &[]);
    hold("learning_commands", &facts);
}
