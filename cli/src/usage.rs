//! Reads the words of the call. The usage lines that clap makes for an error name what the environment says (`TMPDIR`) as if it had to be given, so that an
//! error shows those of `--help` instead.

use clap::{Command, Parser};

/// The words of this call; ends the process where they are off, or ask for help.
pub fn parse<T: Parser>() -> T {
    let mut command = T::command();
    command.build();
    let mut matches = with_usage(command).get_matches();
    T::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// Sets the usage lines of all verbs to what they are without any word.
fn with_usage(command: Command) -> Command {
    command.mut_subcommands(|verb| {
        let mut verb = with_usage(verb);
        let usage = verb.render_usage().to_string();
        verb.override_usage(usage.trim_start_matches("Usage: ").to_owned())
    })
}
