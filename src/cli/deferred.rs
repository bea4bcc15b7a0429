//! A verb's arguments, described to clap when the verb is used: of the forty verbs, a command uses one.

use super::Places;
use clap::builder::{Resettable, StyledStr};
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The arguments `T`.
#[derive(Debug)]
pub(super) struct Deferred<T>(pub(super) T);

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(describe::<T>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        command.defer(describe::<T>)
    }
}

/// What the verb is about is said where the verbs are.
fn describe<T: Args>(verb: Command) -> Command {
    let text = |text: Option<&StyledStr>| text.cloned().map_or(Resettable::Reset, Resettable::Value);
    let (about, long_about) = (text(verb.get_about()), text(verb.get_long_about()));
    with_places(T::augment_args(verb)).about(about).long_about(long_about)
}

/// Clap would copy global arguments of podshim's own to each verb. What is given after the verb counts for podshim all the same, as
/// it has the same names.
fn with_places(verb: Command) -> Command {
    let places = Places::augment_args(Command::new("places"));
    verb.args(places.get_arguments().map(|argument| argument.clone().global(true)))
}

impl<T: FromArgMatches> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(Deferred)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}
