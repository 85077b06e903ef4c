//! The command line of the benchmark programs: `PROGRAM MODE --name value …`. `run.py` is the only
//! caller, so an unknown name is an error and there is no help text.

use std::collections::HashMap;
use std::str::FromStr;

/// A parsed command line.
#[derive(Debug)]
pub struct Options {
    /// The first argument.
    pub mode: String,
    values: HashMap<String, String>,
}

impl Options {
    /// Parses this process's arguments; `known` are the allowed names.
    pub fn from_command_line(known: &[&str]) -> Result<Self, String> {
        Self::parse(std::env::args().skip(1), known)
    }

    fn parse(mut arguments: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let mode = arguments.next().ok_or("a mode is needed")?;
        let mut values = HashMap::new();
        while let Some(argument) = arguments.next() {
            let name = argument
                .strip_prefix("--")
                .filter(|name| known.contains(name))
                .ok_or_else(|| format!("unknown argument {argument}"))?;
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self { mode, values })
    }

    /// The value of `name`, or an error if it is missing or invalid.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.find(name)?
            .ok_or_else(|| format!("--{name} is needed"))
    }

    /// The value of `name`, if it was given.
    pub fn find<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.values.get(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("--{name}: cannot read {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned), &["size"])
    }

    #[test]
    fn reads_a_mode_and_values() {
        let options = parse("echo --size 64").unwrap();
        assert_eq!(options.mode, "echo");
        assert_eq!(options.get::<usize>("size"), Ok(64));
        assert_eq!(parse("echo").unwrap().find::<usize>("size"), Ok(None));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(parse("").is_err());
        assert!(parse("echo --sise 64").is_err());
        assert!(parse("echo --size").is_err());
        assert!(
            parse("echo --size big")
                .unwrap()
                .get::<usize>("size")
                .is_err()
        );
        assert!(parse("echo").unwrap().get::<usize>("size").is_err());
    }
}
