//! What a page of Markdown has to be run: its code blocks, and the commands in them with the output they show.
//!
//! A mark is a comment on the line above a block. `<!-- not run: REASON -->`: it is not run here. `<!-- on a fresh
//! machine -->`: what came before has not happened. `<!-- file: PATH -->`: the block is that file, or a part of it.

/// What the comment above a block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    NotRun(String),
    Fresh,
    File(String),
}

/// A fenced block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) language: String,
    /// Line of its first line of text.
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) mark: Mark,
}

/// A command, and what it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) output: Vec<String>,
}

/// The blocks of a page.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            assert!(line.starts_with("```"), "line {}: an indented block is not read; begin it at the margin", at + 1);
            let text: Vec<_> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
            let (language, text) = (language.to_owned(), text.join("\n"));
            blocks.push(Block { language, line: at + 2, text, mark: mark(above) });
        }
        above = line;
    }
    blocks
}

fn mark(line: &str) -> Mark {
    let comment = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
    let Some(comment) = comment else { return Mark::None };
    match comment.split_once(": ") {
        Some(("not run", reason)) => Mark::NotRun(reason.to_owned()),
        Some(("file", path)) => Mark::File(path.to_owned()),
        None if comment == "on a fresh machine" => Mark::Fresh,
        _ => panic!("{line}: not a mark that is known"),
    }
}

/// The commands of a block: after `$ ` with their output in `console`, each line or continued line in `sh`.
pub(crate) fn commands(block: &Block) -> Vec<Command> {
    let is_console = block.language == "console";
    let mut commands: Vec<Command> = Vec::new();
    let mut continued = false;
    for (at, line) in block.text.lines().enumerate() {
        let begins = line.strip_prefix("$ ");
        let last = commands.last_mut();
        match (is_console, begins, last) {
            (_, _, Some(last)) if continued => {
                last.text.push('\n');
                last.text.push_str(line);
            }
            (true, None, Some(last)) => {
                last.output.push(line.to_owned());
                continue;
            }
            (true, None, None) => panic!("line {}: output before a command", block.line + at),
            (false, _, _) if line.trim().is_empty() || line.starts_with('#') => continue,
            _ => commands.push(Command {
                line: block.line + at,
                text: begins.unwrap_or(line).to_owned(),
                output: Vec::new(),
            }),
        }
        let has_open_quote = |text: &str| text.matches('\'').count() % 2 == 1;
        continued = line.ends_with('\\') || commands.last().is_some_and(|last| has_open_quote(&last.text));
    }
    commands
}

#[test]
fn blocks_are_found_with_their_marks() {
    let page = "a\n<!-- not run: needs a moon -->\n```sh\nb\n```\n\n```console\n$ c\nd\n```\n";
    let expected = [
        Block { language: "sh".into(), line: 4, text: "b".into(), mark: Mark::NotRun("needs a moon".into()) },
        Block { language: "console".into(), line: 8, text: "$ c\nd".into(), mark: Mark::None },
    ];
    assert_eq!(blocks(page), expected);
}

#[test]
fn commands_are_separated_from_their_output() {
    let block =
        |language: &str, text: &str| Block { language: language.into(), line: 1, text: text.into(), mark: Mark::None };
    let found = commands(&block("console", "$ a \\\n  b\nc\nd\n$ e"));
    let found: Vec<_> = found.iter().map(|one| (one.line, one.text.as_str(), one.output.join("|"))).collect();
    assert_eq!(found, [(1, "a \\\n  b", "c|d".to_owned()), (5, "e", String::new())]);
    let found = commands(&block("console", "$ a '{\n  }'\nb"));
    assert_eq!((found[0].text.as_str(), found[0].output.as_slice()), ("a '{\n  }'", ["b".to_owned()].as_slice()));
    let found = commands(&block("sh", "# a\nb\n\nc \\\n  d"));
    assert_eq!(found.iter().map(|one| one.text.as_str()).collect::<Vec<_>>(), ["b", "c \\\n  d"]);
}
