//! What can be wrong with a configuration, told all at once and one line each. Nothing here ever holds the value of
//! a secret, and no value can break a line.

use std::{fmt, net::IpAddr};

use countersign_protocol::fields::shorten;

use super::table::{Accepts, Variable};
use crate::logging::one_line;

/// Everything that is wrong with a configuration. `Display` prints one line a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// What the process exits with: `EX_USAGE` of sysexits.h.
    pub const EXIT_CODE: u8 = 64;

    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// The problems, one a line of the output; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One wrong value, or several values that do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variables that are involved; the first one leads the line.
    pub variables: Vec<&'static str>,
    /// What was given, what is accepted, and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(variables: &[&'static str], message: impl Into<String>) -> Self {
        Self { variables: variables.to_vec(), message: message.into() }
    }

    /// A value that its variable does not accept.
    pub(super) fn not_accepted(variable: &Variable, given: &str) -> Self {
        let Variable { name, accepts, secret, .. } = variable;
        let given = if *secret { "what was given (not shown)".to_owned() } else { format!("{:?}", shorten(given)) };
        let message = match accepts {
            Accepts::Nothing(instead) => format!("not supported by this version; {instead}"),
            _ => format!("{given} is not accepted; accepted: {accepts}"),
        };
        Self::new(&[name], message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.variables.first().expect("a problem has a variable");
        write!(f, "{first}: {}", one_line(&self.message))
    }
}

/// Something that does not prevent the start and that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A name that looks like one of ours and is none.
    Unknown {
        /// As it stands in the environment.
        name: String,
        /// The variable that was probably meant.
        nearest: &'static str,
    },
    /// A door that anybody can enter who reaches the address.
    Open {
        /// `clients` or `producers`.
        door: &'static str,
        /// The address that is not loopback.
        host: IpAddr,
        /// What closes it.
        credentials: &'static str,
    },
    /// A value that changes nothing.
    NoEffect {
        /// The variable.
        variable: &'static str,
        /// Why it changes nothing.
        why: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, nearest } => {
                write!(f, "{}: there is no such variable; did you mean {nearest}?", one_line(&shorten(name)))
            }
            Self::Open { door, host, credentials } => write!(
                f,
                "AUTH_INSECURE: the {door} door is open to everybody who reaches {host}; set {credentials} to close it"
            ),
            Self::NoEffect { variable, why } => write!(f, "{variable}: has no effect, because {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_shown_unless_it_is_a_secret() {
        for (secret, shown) in [(false, true), (true, false)] {
            let accepts = Accepts::Whole { unit: "things", least: 1, most: 2 };
            let variable = Variable { name: "THING", default: "", accepts, doc: "", secret };
            let line = Problem::not_accepted(&variable, "given-value").to_string();
            assert_eq!(line.contains("given-value"), shown, "{line}");
            assert!(line.starts_with("THING: ") && line.ends_with("a whole number of things, 1 to 2"), "{line}");
        }
    }
}
