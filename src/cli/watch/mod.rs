//! `musterd watch`: what is registered, and from then on every change.
//!
//! The stream may break, the watch does not: the client connects again and goes on after the last revision it has seen, so
//! that standard output shows no trace of it, and this command says so on standard error. What cannot be continued shows
//! as RESET. Only the first connection must succeed at once, since an address that was never right will not become so.
//!
//! Output is written on another thread: a reader that has stopped reading must not keep a signal from ending this.
//!
//! `progress` knows what was seen, `text` how it looks; here is the order of things.

mod progress;
mod text;

use std::{io, pin::pin};

use chrono::SecondsFormat;
use musterd_client::Step;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use uuid::Uuid;

use self::progress::{Position, Progress, What};

use crate::{
    clock::Clock,
    command::{
        client::ClientArgs,
        exit::{self, Error},
        filter::FilterArgs,
        instances::parse_uuid,
    },
    terminal::output::{self, Format, OutputArgs},
};

// At most 80 columns: what is broken by hand must not be broken again by a narrow terminal.
pub(super) const HELP: &str = "\
Events:
  PUT        the instance matches and is new or changed
  GONE       it matched and no longer does: it is dead, for example
  SUSPECT    a hint, of this daemon alone: its beats are overdue
  RECOVERED  a hint, of this daemon alone: it beats again
Between them:
  EPOCH      another epoch is current: instances of any other are dead
  RESET      the stream could not resume: discard what was printed before, a snapshot follows
  SYNCED     everything there was at the start has been printed

With -o jsonl, an event is a muster.v1.WatchEvent with the revision and the
historyId to resume after once this line was read (revision 0: not yet).
EPOCH, RESET, SYNCED and, with --bookmarks, BOOKMARK have the same form,
without an instance.

SIGINT and SIGTERM end the watch with exit code 0. It survives the daemon: it
connects again and goes on where it was.

Examples:
  musterd watch
  musterd watch cognitive_organ_1 --until-synced
  musterd watch --prefix organ_ --status alive -o jsonl | jq -c '.instance.pid'";

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// The logical id to watch [default: all]
    #[arg(value_name = "NAME", conflicts_with = "prefix", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,

    #[command(flatten)]
    filter: FilterArgs,

    /// Print only what changed after this revision, instead of everything first
    #[arg(long, value_name = "REV", requires = "history", value_parser = clap::value_parser!(u64).range(1..))]
    resume_after: Option<u64>,

    /// The history that the revision of --resume-after belongs to
    #[arg(long, value_name = "ID", requires = "resume_after", value_parser = parse_uuid)]
    history: Option<Uuid>,

    /// End after this many events: PUT, GONE, SUSPECT, RECOVERED
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End when everything there was at the start has been printed
    #[arg(long)]
    until_synced: bool,

    /// Also print which revision has been reached when nothing happens, every 5 s
    #[arg(long)]
    bookmarks: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: WatchArgs, client: &ClientArgs) -> Result<u8, Error> {
    if matches!(args.output.output, Format::Json | Format::Yaml | Format::Name) {
        let text = "a watch never becomes one document; use -o jsonl, or `musterd list` for the present";
        return Err(Error::Usage(text.to_owned()));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut watch = Watch::new(args, client.clone());
    let outcome = {
        let ended = pin!(watch.run());
        tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            outcome = ended => outcome,
        }
    };
    if outcome.is_ok() {
        watch.tell_position();
    }
    outcome.map(|()| exit::OK)
}

/// A watch over all its streams.
struct Watch {
    args: WatchArgs,
    client: ClientArgs,
    progress: Progress,
    /// Where a reader of everything printed resumes.
    printed: Position,
    /// How many events are still to be printed.
    left: u64,
    has_header: bool,
    in_trouble: bool,
}

impl Watch {
    fn new(args: WatchArgs, client: ClientArgs) -> Self {
        let position = Position {
            revision: args.resume_after.unwrap_or_default(),
            history_id: args.history.map(|id| id.to_string()).unwrap_or_default(),
        };
        Self {
            progress: Progress::new(position.clone()),
            printed: position,
            left: args.count.unwrap_or(u64::MAX),
            has_header: !args.output.output.is_table(),
            in_trouble: false,
            args,
            client,
        }
    }

    /// Watches until enough is printed.
    async fn run(&mut self) -> Result<(), Error> {
        let filter = self.args.filter.filter(self.args.name.as_deref())?;
        let started = Instant::now();
        let Position { revision, history_id } = self.printed.clone();
        let mut watch = self.client.connect().await?.watch(&filter).resume_after(revision, history_id);
        loop {
            match watch.next().await? {
                Step::Batch(batch) => {
                    self.tell_recovery();
                    let lines = self.progress.take(batch);
                    if self.print(lines).await? {
                        return Ok(());
                    }
                }
                Step::Interrupted(error) => {
                    let error = Error::from(error);
                    // At the start, only a daemon that says it is not ready yet is waited for, and not for ever.
                    let is_worth_it = self.progress.has_begun()
                        || (error.reason().is_some() && started.elapsed() < self.client.timeout);
                    if !is_worth_it {
                        return Err(error);
                    }
                    self.tell_trouble(&error);
                }
                _ => {}
            }
        }
    }

    /// Prints lines; returns whether that is enough.
    async fn print(&mut self, lines: Vec<progress::Line>) -> Result<bool, Error> {
        let mut text = String::new();
        let mut is_enough = false;
        let mut printed = self.printed.clone();
        let time = Clock::new().wall().to_rfc3339_opts(SecondsFormat::Millis, true);
        for line in lines {
            if line.what != What::Bookmark || self.args.bookmarks {
                match self.args.output.output {
                    Format::Table | Format::Wide => text::push_row(&mut text, &line, &time),
                    _ => text::push_json(&mut text, &line),
                }
            }
            if matches!(line.what, What::Event(_)) {
                self.left -= 1;
            }
            is_enough = self.left == 0 || (self.args.until_synced && line.what == What::Synced);
            printed = line.position;
            if is_enough {
                break;
            }
        }
        if !text.is_empty() {
            if !std::mem::replace(&mut self.has_header, true) {
                text.insert_str(0, text::HEADER);
            }
            let write = tokio::task::spawn_blocking(move || output::print(|out| out.write_all(text.as_bytes())));
            write.await.map_err(io::Error::other)??;
        }
        self.printed = printed;
        Ok(is_enough)
    }

    fn tell_trouble(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.in_trouble, true) {
            exit::report(error);
            output::note(&match self.progress.revision() {
                0 => "the watch is interrupted; trying again, from the beginning".to_owned(),
                revision => format!("the watch is interrupted; trying again, after revision {revision}"),
            });
        }
    }

    fn tell_recovery(&mut self) {
        if std::mem::take(&mut self.in_trouble) {
            output::note("watching again");
        }
    }

    /// A table does not show the history, so it is told at the end. Before the snapshot is complete there is nothing.
    fn tell_position(&self) {
        let Position { revision, history_id } = &self.printed;
        if self.args.output.output.is_table() && *revision != 0 {
            let history_id = output::escape(history_id);
            output::note(&format!("to go on from here: --resume-after {revision} --history {history_id}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::args;

    fn parse(words: &[&str]) -> Result<WatchArgs, clap::Error> {
        args::parse(std::iter::once("watch").chain(words.iter().copied()))
    }

    #[test]
    fn flags_that_make_no_sense_together_are_refused() {
        let history = "00000000-0000-0000-0000-000000000001";
        assert!(parse(&["organ", "--resume-after", "5", "--history", history, "--count", "1"]).is_ok());
        for words in [
            &["organ", "--prefix", "o"][..],
            &["--resume-after", "5"],
            &["--history", history],
            &["--resume-after", "0", "--history", history],
            &["--count", "0"],
            &[""],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
